//! `cargo xtask test`: runs the layers, from pure functions up to a real control plane, and ends with a table of what
//! passed, failed and was skipped. What cannot run here counts as skipped, with the reason, never as passed.

mod layer;
mod results;
mod table;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::process::{self, End};
use crate::{say, targets};

pub use layer::Layer;
use layer::Plan;
pub use results::Results;

/// How long a test program may stay silent. The slowest single test is far below; a stuck one must not hold up a
/// night's run.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to test.
#[derive(Debug, Args)]
pub struct Options {
    /// The layers to run, all when none is named
    layers: Vec<Layer>,
    /// Arguments for the test programs, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What came of one layer.
#[derive(Debug)]
struct Report {
    layer: Layer,
    results: Results,
    time: Duration,
}

/// Runs the layers one after the other and prints the table. The exit code says whether anything failed.
///
/// # Errors
/// When cargo cannot tell what there is to test.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut layers = options.layers.clone();
    if layers.is_empty() {
        layers.extend(Layer::ALL);
    }
    layers.sort_unstable();
    layers.dedup();
    let packages = targets::packages()?;
    let mut reports = Vec::new();
    for layer in layers {
        say::step(&format!("layer {layer}: {}", layer.summary()));
        let begun = Instant::now();
        let results = match layer.plan(&packages) {
            Plan::Skip(reason) => Results::skip(reason),
            Plan::Fail(reason) => Results::failure(reason),
            Plan::Run(commands) => run_all(commands, &options.arguments),
        };
        let time = begun.elapsed();
        reports.push(Report {
            layer,
            results,
            time,
        });
    }
    let all = table::print(&reports);
    Ok(if all.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_all(commands: Vec<Command>, arguments: &[String]) -> Results {
    let mut all = Results::default();
    for mut command in commands {
        command.args(arguments);
        all.add(run_one(&mut command));
    }
    all
}

/// Runs one cargo command. That it failed without a failed test (a program that does not compile, or that died) is a
/// failure too.
fn run_one(command: &mut Command) -> Results {
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    let what = format!("cargo {}", words.join(" "));
    let mut results = Results::default();
    let end = process::follow(command, PATIENCE, |line| {
        say::line(line);
        results.read(line);
    });
    match end {
        Ok(End::Ended(status)) if status.success() || results.failed > 0 => {}
        Ok(End::Ended(status)) => {
            results.add(Results::failure(format!("{what} ended with {status}")))
        }
        Ok(End::Silent) => {
            let seconds = PATIENCE.as_secs();
            results.add(Results::failure(format!(
                "{what} said nothing for {seconds} s and was killed"
            )));
        }
        Err(error) => results.add(Results::failure(format!("{what}: {error:#}"))),
    }
    results
}
