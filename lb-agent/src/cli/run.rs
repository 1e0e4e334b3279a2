//! `run`: settings, log and runtime for the agent proper.

use std::process::ExitCode;

use super::{args::RunArgs, settings::settings};
use crate::{logging, run};

/// Runs the agent until a signal.
///
/// # Errors
/// Settings that make no sense, or why the agent cannot go on.
pub fn execute(args: &RunArgs) -> anyhow::Result<ExitCode> {
    logging::install(&args.log)?;
    let (config, warnings) = settings(args)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(run::run(config));
    // Threads that wait for files or the kernel must not hold the end up.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}
