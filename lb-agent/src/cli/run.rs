//! `run`: settings, log and runtime for the agent proper, and what kube-proxy's flags ask for instead of it.

use std::process::ExitCode;

use super::{
    args::{CleanupArgs, RunArgs},
    cleanup, config,
    settings::{Settings, settings},
};
use crate::{logging, oom, run};

/// Runs the agent until a signal.
///
/// # Errors
/// Settings that make no sense, or why the agent cannot go on.
pub fn execute(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if let Some(to) = &args.write_config_to {
        return config::write(args, to);
    }
    if args.cleanup {
        return cleanup::execute(&CleanupArgs {
            roots: args.maps.roots.clone(),
            force: false,
        });
    }
    let Settings {
        config,
        log,
        warnings,
        ..
    } = settings(args)?;
    logging::install(log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    oom::adjust(config.oom_score_adj);
    if args.init_only {
        run::prepare(&config)?;
        tracing::info!("this host is prepared");
        return Ok(ExitCode::SUCCESS);
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
