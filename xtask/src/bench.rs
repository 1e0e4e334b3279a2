//! `cargo xtask bench`: figures, in one run on one machine. Builds optimised, as the agent is shipped.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::packages::{self, IP, Program};
use crate::{build, say, workspace};

/// Counts system calls.
const STRACE: Program = Program {
    name: "strace",
    package: "strace",
};

/// What to measure, and how long.
#[derive(Debug, Args)]
pub struct Options {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Less of everything: under a minute, once built
    #[arg(long)]
    quick: bool,
    /// Write the figures as JSON and markdown into this folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds of each comparison
    #[arg(long)]
    rounds: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Translation at the socket: time in the programs, whole connections, changes. Needs root
    Socket,
}

impl What {
    fn target(self) -> &'static str {
        match self {
            Self::Socket => "socket",
        }
    }
}

/// Builds and runs a benchmark. What the machine lacks is said and left out; no figure fails it.
///
/// # Errors
/// When it does not build, or breaks off.
pub fn run(options: &Options) -> Result<ExitCode> {
    build::object()?;
    if let Err(reason) = packages::ensure(&[IP, STRACE]) {
        say::step(&reason);
    }
    let mut cargo = workspace::cargo();
    cargo.args(["bench", "--package", "lb-agent", "--bench"]);
    cargo.args([options.what.target(), "--"]);
    if options.quick {
        cargo.arg("--quick");
    }
    if let Some(out) = &options.out {
        let out = std::path::absolute(out).context("--out")?;
        cargo.arg("--out").arg(out);
    }
    if let Some(rounds) = options.rounds {
        cargo.args(["--rounds", &rounds.to_string()]);
    }
    say::step("building the benchmark, optimised");
    let status = cargo.status().context("cargo cannot be started")?;
    if !status.success() {
        bail!("the benchmark did not end well; see its words above");
    }
    Ok(ExitCode::SUCCESS)
}
