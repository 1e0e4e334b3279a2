//! The command line: what users type, and the verbs that look at the data plane or take it away.
//!
//! Everything but `run` and `programs` works on the pinned maps alone, while the agent runs and
//! after it has gone.

pub mod args;
pub mod arrival;
pub mod check;
pub mod cleanup;
pub mod client;
pub mod config;
pub mod dial;
pub mod explain;
pub mod explanation;
pub mod families;
pub mod flows;
pub mod manual;
mod nodeports;
pub mod output;
pub mod probe;
pub mod programs;
pub mod proxy;
pub mod run;
pub mod running;
mod servers;
pub mod service;
pub mod settings;
pub mod status;
pub mod view;

use std::process::ExitCode;

pub use args::Args;
use args::Command;

/// Runs a verb.
///
/// # Errors
/// As the verb says; the text is for the user.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Run(run) => run::execute(run),
        Command::Programs { json, .. } => programs::execute(*json),
        Command::Service(command) => service::execute(command),
        Command::Flows(command) => flows::execute(command),
        Command::Status(show) => status::execute(show),
        Command::Check(show) => check::execute(show),
        Command::Explain(explain) => explain::execute(explain),
        Command::Config(command) => config::execute(command),
        Command::Cleanup(cleanup) => cleanup::execute(cleanup),
        Command::Completions { shell } => manual::completions(*shell),
        Command::Man { folder } => manual::man(folder.as_deref()),
    }
}
