//! `cargo xtask fuzz`: random input, and an oracle that knows what must come of it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::packages::{self, IP};
use crate::{build, say, workspace};

/// What to try, and for how long.
#[derive(Debug, Args)]
pub struct Options {
    /// What to try
    #[arg(value_enum)]
    what: What,
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Begin with this seed, to see a failure again; a new one is drawn and printed otherwise
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Packets through the loaded programs, against the same code on the host. Needs root
    Packets,
}

/// Builds and runs it. A difference fails it, with the seed and the smallest packet that shows it.
///
/// # Errors
/// When it does not build.
pub fn run(options: &Options) -> Result<ExitCode> {
    build::object()?;
    if let Err(reason) = packages::ensure(&[IP]) {
        say::step(&reason);
    }
    let What::Packets = options.what;
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--package", "lb-agent", "--test", "packet", "--"]);
    cargo.args(["fuzz", "--seconds", &options.seconds.to_string()]);
    if let Some(seed) = options.seed {
        cargo.args(["--seed", &seed.to_string()]);
    }
    say::step("building the packet tests");
    let status = cargo.status().context("cargo cannot be started")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
