//! `cargo xtask bench socket`: what translation at the socket costs. Prints figures and asserts none.
//!
//! Everything is the real thing: the programs on cgroups of a laboratory, maps filled by the agent's reconciler,
//! sockets in network namespaces. No packet leaves the laboratory.

mod change;
mod exchange;
mod objects;
mod program;
#[path = "../common/progress.rs"]
mod progress;
#[path = "../common/report.rs"]
mod report;
mod scene;
#[path = "../common/stats.rs"]
mod stats;
#[path = "../common/sys.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod sys;
#[path = "../common/worker.rs"]
#[expect(dead_code, reason = "the other benchmark uses the rest")]
mod worker;
mod world;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use xtask::{
    lab::{self, Lab},
    say,
};

use objects::Objects;
use report::{Machine, Report, Section};
use scene::Scene;
use world::World;

/// Services of the large cluster.
const MANY: u32 = 20_000;

#[derive(Debug, Parser)]
struct Options {
    /// Less of everything: under a minute
    #[arg(long)]
    quick: bool,
    /// Write socket.json and socket.md into this folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// Rounds of each comparison
    #[arg(long)]
    rounds: Option<usize>,
    /// A plane to change under strace
    #[arg(long, hide = true)]
    traced: Option<String>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(plane) = &options.traced {
        return change::traced(&serde_json::from_str(plane)?);
    }
    if let Some(reason) = lab::missing() {
        say::line(format!("nothing measured: {reason}"));
        return Ok(());
    }
    let report = measure(&options)?;
    report.print();
    options
        .out
        .as_deref()
        .map_or(Ok(()), |dir| report.write(dir, "socket"))
}

fn measure(options: &Options) -> Result<Report> {
    let mut machine = Machine::here();
    let lab = Lab::new()?;
    let scene = Scene::new(&lab)?;
    say::step("filling a data plane with 20,000 services and 200,000 backends");
    let here = &scene.here;
    let one = scene.world("one", Objects::crowd(1))?;
    let kinds = scene.world("kinds", Objects::kinds(here))?;
    let many = scene.world("many", change::cluster(MANY, here))?;

    let rounds = |full, quick| {
        options
            .rounds
            .unwrap_or(if options.quick { quick } else { full })
    };
    let programs = program::measure(
        [&one, &kinds, &many],
        &scene.bare,
        here,
        program::Effort {
            rounds: rounds(25, 7),
            calls: if options.quick { 10_000 } else { 50_000 },
        },
    )?;
    let exchanges = exchange::measure(
        &scene.client(&many.place),
        here,
        exchange::Effort {
            rounds: rounds(60, 20),
            exchanges: if options.quick { 100 } else { 400 },
        },
    )?;
    let mut missing = Vec::new();
    let changes = changes(&scene, [one, many], options.quick, &mut missing)?;
    machine.load_after = report::load();
    Ok(Report {
        machine,
        sections: vec![
            Section {
                title: "Time in the programs, over an empty program",
                rows: programs,
            },
            Section {
                title: "Whole exchanges, pod to pod, at 20,000 services",
                rows: exchanges,
            },
            Section {
                title: "Changes",
                rows: changes,
            },
        ],
        missing,
    })
}

fn changes(
    scene: &Scene<'_>,
    [mut one, mut many]: [World; 2],
    quick: bool,
    missing: &mut Vec<String>,
) -> Result<Vec<report::Row>> {
    say::step("changes of objects");
    let here = &scene.here;
    let mut thousand = scene.world("thousand", change::cluster(1_000, here))?;
    let rounds = if quick { 50 } else { 200 };
    let mut rows = change::endpoint(&mut many, rounds.into())?;
    for world in [&mut one, &mut thousand, &mut many] {
        rows.extend(change::service(world, rounds)?);
    }
    if which::which("strace").is_err() {
        missing.push("system calls: strace is missing (Debian package strace)".into());
        return Ok(rows);
    }
    say::step("system calls of the same changes");
    for (world, crowd) in [(one, 1), (thousand, 1_000), (many, MANY)] {
        let plane = change::Traced {
            root: world.root.clone(),
            crowd,
            here: here.clone(),
        };
        let counted = change::system_calls(&plane, scene.lab.dir())?;
        // The endpoint change is the same at any size: the largest is shown.
        let is_shown = |row: &report::Row| crowd == MANY || row.name.starts_with("one Service");
        rows.extend(counted.into_iter().filter(is_shown));
    }
    Ok(rows)
}
