//! `cargo xtask bench`: figures, in one run on one machine. Builds optimised, as the agent is shipped.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::packages::{self, IP, NFT, Program};
use crate::{build, say, workspace};

/// Counts system calls.
const STRACE: Program = Program {
    name: "strace",
    package: "strace",
};

/// What kube-proxy writes its rules with, and what empties the table behind them.
const IPTABLES: Program = Program {
    name: "iptables",
    package: "iptables",
};
const CONNTRACK: Program = Program {
    name: "conntrack",
    package: "conntrack",
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
    /// Who is compared, of packet: ours, nftables, iptables, direct [default: all]
    #[arg(long)]
    peers: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Translation at the socket: time in the programs, whole connections, changes. Needs root
    Socket,
    /// Packets from outside, beside the real kube-proxy: connections, bulk, small packets. Needs root and Go
    Packet,
}

impl What {
    fn programs(self) -> &'static [Program] {
        match self {
            Self::Socket => &[IP, STRACE],
            Self::Packet => &[IP, NFT, IPTABLES, CONNTRACK],
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Packet => "packet",
        }
    }
}

/// Builds and runs a benchmark. What the machine lacks is said and left out; no figure fails it.
///
/// # Errors
/// When it does not build, or breaks off.
pub fn run(options: &Options) -> Result<ExitCode> {
    build::object()?;
    if let Err(reason) = packages::ensure(options.what.programs()) {
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
    if let Some(peers) = &options.peers {
        cargo.args(["--peers", peers]);
    }
    say::step("building the benchmark, optimised");
    let status = cargo.status().context("cargo cannot be started")?;
    if !status.success() {
        bail!("the benchmark did not end well; see its words above");
    }
    Ok(ExitCode::SUCCESS)
}
