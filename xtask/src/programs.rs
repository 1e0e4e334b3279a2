//! How big each BPF program is: instructions as the object tells, and what the kernel made of them where it may be
//! asked. The agent does the loading (`lb-agent programs --json`), since it knows the maps and constants they need.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use serde::Deserialize;

use crate::{build, say};

/// Bytes of one BPF instruction; a 64-bit constant takes two.
const INSTRUCTION_BYTES: u64 = 8;

/// One program, as `lb-agent programs --json` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Program {
    /// Its name in the object; the kernel keeps 15 bytes of it.
    pub name: String,
    /// Instructions in the object.
    pub instructions: u64,
    /// Instructions the verifier walked through, all paths together; the kernel's limit is one million.
    #[serde(default)]
    pub verified: Option<u64>,
    /// Bytes of machine code.
    #[serde(default)]
    pub jited_bytes: Option<u64>,
}

/// Prints a line per program of the object at `object`, from the kernel if `load` and we are root.
///
/// # Errors
/// When the object cannot be read. Programs that cannot be loaded are a warning: the sizes of the object are printed.
pub fn print(object: &Path, load: bool) -> Result<()> {
    let loaded = if load {
        try_load()
    } else {
        Err(anyhow::anyhow!("not asked for"))
    };
    match loaded {
        Ok(programs) => table(&programs),
        Err(reason) => {
            table(&from_object(object)?);
            say::line(format!("not loaded into the kernel: {reason:#}"));
        }
    }
    Ok(())
}

fn try_load() -> Result<Vec<Program>> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "needs root");
    let agent = build::agent(&build::Options::default())?;
    let out = Command::new(&agent)
        .args(["programs", "--json"])
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("{} cannot be started", agent.display()))?;
    anyhow::ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr).trim()
    );
    serde_json::from_slice(&out.stdout).context("`lb-agent programs --json` wrote something else")
}

/// Programs as the object tells: each is a function symbol in a section of its own kind; what they share stands in
/// `.text` and is not a program.
fn from_object(path: &Path) -> Result<Vec<Program>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no object file", path.display()))?;
    let mut programs = Vec::new();
    for symbol in file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_global())
    {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        if file.section_by_index(index)?.name()? == ".text" {
            continue;
        }
        let instructions = symbol.size() / INSTRUCTION_BYTES;
        let name = symbol.name()?.to_owned();
        programs.push(Program {
            name,
            instructions,
            verified: None,
            jited_bytes: None,
        });
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

fn table(programs: &[Program]) {
    if programs.is_empty() {
        return say::line("the object holds no program");
    }
    say::line(say::bold(&format!(
        "{:<18}{:>13}{:>11}{:>11}",
        "program", "instructions", "verified", "JIT bytes"
    )));
    for program in programs {
        let Program {
            name,
            instructions,
            verified,
            jited_bytes,
        } = program;
        say::line(format!(
            "{name:<18}{instructions:>13}{:>11}{:>11}",
            or_dash(*verified),
            or_dash(*jited_bytes)
        ));
    }
}

fn or_dash(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}
