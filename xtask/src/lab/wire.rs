//! The wire between a task and its test: one JSON message a packet, on a socket pair that keeps packets whole.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The longest message between parent and child, in bytes.
const MESSAGE_MAX: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Said(serde_json::Value),
    Done(serde_json::Value),
    Failed(String),
}

pub(super) fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system call without pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn post(wire: &OwnedFd, message: &Message) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::other(format!(
            "message of {} bytes is over {MESSAGE_MAX}",
            bytes.len()
        )));
    }
    send(wire.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// The next message, `None` when none came in time.
pub(super) fn take(wire: &OwnedFd, timeout: Duration) -> Result<Option<Message>> {
    if !is_readable(wire, timeout)? {
        return Ok(None);
    }
    let mut bytes = vec![0; MESSAGE_MAX];
    let length = match recv(wire.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
        // A child that ends with a word of ours unread resets the wire. The error is reported once and before what
        // the child said last, which is still there.
        Err(Errno::ECONNRESET) => recv(wire.as_raw_fd(), &mut bytes, MsgFlags::empty())?,
        other => other?,
    };
    if length == 0 {
        bail!("the wire is closed");
    }
    Ok(Some(serde_json::from_slice(&bytes[..length])?))
}

pub(super) fn is_readable(fd: &impl AsFd, timeout: Duration) -> Result<bool> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        // Rounded up, for a timeout of 0 ms would make the last millisecond a busy loop.
        let left = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], left) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
