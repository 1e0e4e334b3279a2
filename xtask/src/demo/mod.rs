//! `cargo xtask demo`: the real agent on `deploy/demo`, in namespaces of its own, in one minute.
//!
//! Building needs no rights. The rest needs root and runs as a second process of this program, through sudo for who is
//! not root. It touches neither the machine's traffic nor its bpffs, and leaves nothing behind, however it ends.

mod act;
mod cast;
mod draw;
mod endpoints;
mod interrupt;
mod look;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use crate::packages::{self, BPFTOOL, IP};
use crate::{build, lab, say};

/// How to show it.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Stay at the end, with the agent and its pods running, until Ctrl-C; how to look around is printed
    #[arg(long)]
    stay: bool,
    /// The built agent; the caller is root then, and everything that needs no root has been done
    #[arg(long, hide = true)]
    stage: Option<PathBuf>,
}

/// Builds what is shown and shows it.
///
/// # Errors
/// When something does not build, or a part of what is shown is not as it should be.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(agent) = &options.stage {
        return show(agent, options.stay);
    }
    build::object()?;
    let agent = build::agent(&build::Options::default())?;
    if nix::unistd::geteuid().is_root() {
        return show(&agent, options.stay);
    }
    through_sudo(&agent, options.stay)
}

fn show(agent: &Path, stay: bool) -> Result<ExitCode> {
    packages::ensure(&[IP, BPFTOOL]).map_err(anyhow::Error::msg)?;
    if let Some(reason) = lab::missing() {
        anyhow::bail!("the demo cannot run here: it {reason}");
    }
    interrupt::clean_up_on_signals()?;
    let outcome = act::perform(agent, stay);
    if outcome.is_err() {
        interrupt::yield_to_signal();
    }
    outcome?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the privileged part. Ctrl-C reaches it as well as us: it cleans up, we wait for it.
fn through_sudo(agent: &Path, stay: bool) -> Result<ExitCode> {
    ensure!(
        which::which("sudo").is_ok(),
        "the demo needs root for namespaces and BPF programs, and there is no sudo; run it as root"
    );
    say::step("namespaces and BPF programs need root: asking through sudo");
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let mut sudo = Command::new("sudo");
    sudo.arg("--")
        .arg(program)
        .args(["demo", "--stage"])
        .arg(agent);
    if stay {
        sudo.arg("--stay");
    }
    let mut child = sudo.spawn().context("sudo cannot be started")?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals
        .thread_block()
        .context("Ctrl-C cannot be held back")?;
    let status = child.wait().context("sudo cannot be waited for")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
