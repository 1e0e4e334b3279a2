//! `cargo xtask cluster`: a control plane to play with, for as long as the command runs.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use super::access::User;
use super::binaries::{NO_BINARIES, ensure_binaries};
use super::control_plane::Cluster;

/// Runs a control plane in the foreground until Ctrl-C or SIGTERM and says how to reach it.
///
/// # Errors
/// When there are no programs to run, or one of them does not start.
pub fn up() -> Result<()> {
    let Some(programs) = ensure_binaries()? else {
        bail!("{NO_BINARIES}");
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Blocked before the first thread starts, so that only the wait below sees them.
    signals.thread_block().context("cannot block signals")?;
    let mut cluster = Cluster::start(&programs)?;
    if cluster.has_controllers() {
        cluster.start_controllers()?;
    }
    eprintln!("cluster: serving on {}; end it with Ctrl-C", cluster.url());
    eprintln!(
        "  export KUBECONFIG={}",
        cluster.kubeconfig(User::Admin).display()
    );
    eprintln!("  export PATH=$PATH:{}", programs.display());
    eprintln!(
        "  lb-agent run --kubeconfig {} --hostname-override NODE",
        cluster.kubeconfig(User::Agent).display()
    );
    signals.wait().context("cannot wait for a signal")?;
    Ok(())
}
