//! `cargo xtask bench packet`: what packets from outside cost, beside the real kube-proxy in both of its modes and beside
//! no proxy at all. Prints figures and asserts none.
//!
//! Each proxy has a laboratory of its own, all alike, fed by one real kube-apiserver; rounds take turns between them.

mod asm;
mod exchange;
mod forward;
mod inject;
mod objects;
mod peer;
mod plane;
#[path = "../common/progress.rs"]
mod progress;
#[path = "../common/report.rs"]
mod report;
mod sink;
#[path = "../common/stats.rs"]
mod stats;
#[path = "../common/sys.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod sys;
#[path = "../common/worker.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod worker;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use xtask::{
    cluster::{Cluster, NO_BINARIES, ensure_binaries},
    lab, say,
};

use objects::Backend;
use peer::Peer;
use plane::Plane;
use report::{Machine, Report, Section};
use worker::Act;

#[derive(Debug, Parser)]
struct Options {
    /// Less of everything: about a minute
    #[arg(long)]
    quick: bool,
    /// Write packet.json and packet.md into this folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds of each comparison
    #[arg(long)]
    rounds: Option<usize>,
    /// Who is compared
    #[arg(long, value_delimiter = ',', default_values_t = Peer::ALL, value_enum)]
    peers: Vec<Peer>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(reason) = lab::missing() {
        say::line(format!("nothing measured: {reason}"));
        return Ok(());
    }
    let Some(programs) = ensure_binaries()? else {
        say::line(format!("nothing measured: {NO_BINARIES}"));
        return Ok(());
    };
    let report = measure(&options, &programs)?;
    report.print();
    options
        .out
        .as_deref()
        .map_or(Ok(()), |dir| report.write(dir, "packet"))
}

fn measure(options: &Options, programs: &Path) -> Result<Report> {
    let mut machine = Machine::here();
    let mut missing = Vec::new();
    let cluster = Cluster::start(programs)?;
    let mut planes = Vec::new();
    for peer in &options.peers {
        let lacking = [peer.tool(), peer.tool().map(|_| "conntrack")]
            .into_iter()
            .flatten();
        if let Some(tool) = lacking.into_iter().find(|tool| which::which(tool).is_err()) {
            missing.push(format!("{}: the program {tool} is missing", peer.name()));
            continue;
        }
        say::step(&format!("starting {}", peer.name()));
        let mut plane = Plane::new(*peer, &cluster, programs)?;
        plane.wait_ready()?;
        planes.push(plane);
    }
    let rounds = |full, quick| {
        options
            .rounds
            .unwrap_or(if options.quick { quick } else { full })
    };
    let few = |full: usize, quick| if options.quick { quick } else { full };
    let connections = exchange::Effort {
        rounds: rounds(60, 20),
        count: few(200, 100),
    };
    let bulk = exchange::Effort {
        rounds: rounds(20, 5),
        count: few(512, 256),
    };
    let mut sections = vec![
        Section {
            title: "Connections from outside through a NodePort",
            rows: exchange::measure(&planes, Act::Tcp, connections)?,
        },
        Section {
            title: "Bulk from outside through a NodePort",
            rows: exchange::measure(&planes, Act::Bulk, bulk)?,
        },
    ];
    let small = forward::Effort {
        rounds: rounds(25, 7),
        packets: if options.quick { 60_000 } else { 200_000 },
    };
    let mut rates = Vec::new();
    for backend in Backend::ALL {
        rates.extend(forward::rates(&planes, backend, small)?);
    }
    sections.push(Section {
        title: "Small packets (60 bytes, UDP, 64 flows) from outside through a NodePort, one core",
        rows: rates,
    });
    sections.push(Section {
        title: "Time in our programs for a packet, over empty programs on the same hooks",
        rows: forward::programs(&planes, small)?,
    });
    machine.load_after = report::load();
    Ok(Report {
        machine,
        sections,
        missing,
    })
}
