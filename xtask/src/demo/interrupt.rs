//! Ctrl-C takes everything down again.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::{lab, say};

/// The exit code of a program ended by Ctrl-C, by the shells' custom.
const INTERRUPTED: i32 = 130;

static HAS_COME: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP remove the laboratory and end this process. To be called before the first
/// thread starts: all others must have the signals blocked, or one of them would simply die of it.
///
/// # Errors
/// When the kernel does not let us block signals.
pub(super) fn clean_up_on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals
        .thread_block()
        .context("signals cannot be blocked")?;
    thread::spawn(move || {
        if signals.wait().is_err() {
            return;
        }
        HAS_COME.store(true, Ordering::SeqCst);
        eprintln!();
        say::step("interrupted: cleaning up");
        lab::remove_all();
        process::exit(INTERRUPTED);
    });
    Ok(())
}

/// Called on an error: if it came of a laboratory that is being removed under the caller's feet, this does not return.
/// Ctrl-C reaches the agent as well, and its end may be noticed here a moment before the signal is.
pub(super) fn yield_to_signal() {
    thread::sleep(Duration::from_millis(200));
    while HAS_COME.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_secs(1));
    }
}
