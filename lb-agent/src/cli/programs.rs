//! `programs`: what the verifier makes of each program on this kernel.

use std::process::ExitCode;

use super::output::{columns, print};
use crate::attach::measure;

/// Loads every program without attaching it, and prints its size.
///
/// # Errors
/// A program that the kernel refuses.
pub fn execute(json: bool) -> anyhow::Result<ExitCode> {
    let programs = measure()?;
    if json {
        print(&serde_json::to_string(&programs)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = programs.iter().map(|p| {
        [
            p.name.to_owned(),
            p.hook.to_owned(),
            p.instructions.to_string(),
            p.verified.to_string(),
            p.jited_bytes.to_string(),
        ]
    });
    print(&columns(
        ["PROGRAM", "HOOK", "INSTRUCTIONS", "VERIFIED", "JIT BYTES"],
        rows,
    ))?;
    Ok(ExitCode::SUCCESS)
}
