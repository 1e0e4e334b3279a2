//! Logs: tracing to standard error, for people or as one JSON object a line.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::config::{Log, LogFormat};

/// Installs the log of this process. Where RUST_LOG is set, it alone says what is logged.
///
/// # Errors
/// RUST_LOG does not parse, or a log is installed already.
pub fn install(wanted: Log) -> anyhow::Result<()> {
    let is_set = std::env::var_os("RUST_LOG").is_some();
    let filter = EnvFilter::builder()
        .with_default_directive(level(wanted.verbosity).into())
        .from_env()
        .map_err(|e| anyhow::anyhow!("RUST_LOG: {e}; write a level such as debug"))?;
    let filter = if is_set { filter } else { quieten(filter)? };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let installed = match wanted.format {
        LogFormat::Text => log
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    installed.map_err(|e| anyhow::anyhow!("install the log: {e}"))
}

/// Libraries that tell every relocation or every frame at debug, and kube's, which tell every failed
/// try: the agent tells when an outage begins and when it ends.
fn quieten(filter: EnvFilter) -> anyhow::Result<EnvFilter> {
    [
        "aya=info",
        "aya_obj=info",
        "hyper=info",
        "hyper_util=info",
        "kube_client=off",
        "kube_runtime=error",
        "rustls=info",
        "tower=info",
    ]
    .into_iter()
    .try_fold(filter, |filter, directive| {
        Ok(filter.add_directive(directive.parse()?))
    })
}

/// kube-proxy logs what an operator wants at 0 to 3, what a developer wants from 4 on.
fn level(verbosity: u8) -> LevelFilter {
    match verbosity {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_parses() {
        assert!(quieten(EnvFilter::new("info")).is_ok());
    }

    #[test]
    fn verbosity_counts_as_kube_proxy_counts() {
        for (verbosity, want) in [
            (0, LevelFilter::INFO),
            (2, LevelFilter::INFO),
            (4, LevelFilter::DEBUG),
            (10, LevelFilter::TRACE),
        ] {
            assert_eq!(level(verbosity), want, "-v {verbosity}");
        }
    }
}
