//! Ctrl-C takes everything down again.
//!
//! Signals are caught and not blocked: a blocked signal stays blocked in the agent, which would then not hear SIGTERM.

use std::fs::File;
use std::io::Read;
use std::os::fd::IntoRawFd;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;

use crate::{lab, say};

/// The exit code of a program ended by Ctrl-C, by the shells' custom.
const INTERRUPTED: i32 = 130;

static HAS_COME: AtomicBool = AtomicBool::new(false);
/// The end of the pipe that the handler writes to.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// Whose pipe it is. Forked children of the laboratory inherit the handler, and have another use for the number.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// From now on SIGINT, SIGTERM and SIGHUP remove the laboratory and end this process.
///
/// # Errors
/// When the kernel refuses a pipe or a handler.
pub(super) fn clean_up_on_signals() -> Result<()> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("no pipe for signals")?;
    PIPE.store(writer.into_raw_fd(), Ordering::SeqCst);
    OWNER.store(process::id(), Ordering::SeqCst);
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: `note` makes two system calls and reads two atomics, all of which a handler may.
        unsafe { sigaction(signal, &action) }
            .with_context(|| format!("{signal} cannot be caught"))?;
    }
    thread::spawn(move || {
        if File::from(reader).read_exact(&mut [0]).is_err() {
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

extern "C" fn note(_signal: libc::c_int) {
    if process::id() != OWNER.load(Ordering::SeqCst) {
        return;
    }
    let byte = [0_u8];
    // SAFETY: the pointer and the length describe `byte`. A full pipe means that the thread knows already.
    unsafe {
        libc::write(
            PIPE.load(Ordering::SeqCst),
            byte.as_ptr().cast(),
            byte.len(),
        )
    };
}

/// Called on an error: if it came of a laboratory that is being removed under the caller's feet, this does not return.
/// Ctrl-C reaches the agent as well, and its end may be noticed here a moment before the signal is.
pub(super) fn yield_to_signal() {
    thread::sleep(Duration::from_millis(200));
    while HAS_COME.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_secs(1));
    }
}
