//! A process forked into a place, and the wire to it.
//!
//! A place is a network namespace and a cgroup, and a cgroup holds whole processes: hence a fork and not a thread. The
//! child runs a closure of the test and sends back what it returns. Nothing of the parent is usable in it beyond plain
//! memory: every inherited file descriptor is closed, and what it prints may be lost.

use std::any::Any;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Place;

/// The longest message between parent and child, in bytes.
const MESSAGE_MAX: usize = 64 * 1024;

/// True in a forked child: its panics travel by wire and not to the terminal.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Said(serde_json::Value),
    Done(serde_json::Value),
    Failed(String),
}

/// A process in a place that computes a `T`. Dropping it kills the process.
#[derive(Debug)]
pub struct Task<T> {
    pid: Pid,
    wire: OwnedFd,
    label: String,
    result: PhantomData<fn() -> T>,
}

/// The child's end of the wire.
#[derive(Debug)]
pub struct Control {
    wire: OwnedFd,
}

impl<T: Serialize + DeserializeOwned> Task<T> {
    /// Forks into `place` and runs `work` there. `label` names the task in errors.
    pub(super) fn start(
        place: &Place,
        label: &str,
        work: impl FnOnce(&Control) -> Result<T>,
    ) -> Result<Self> {
        quiet_panics_of_children();
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("make the wire")?;
        let parent = pidfd(Pid::this()).context("open a pidfd of this process")?;
        // SAFETY: the child uses memory, system calls and threads of its own. glibc and musl make malloc usable after a
        // fork, and no lock of this program is taken in the child (panics included, see `quiet_panics_of_children`).
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                wire: ours,
                label: label.to_owned(),
                result: PhantomData,
            }),
            ForkResult::Child => {
                IN_CHILD.store(true, Ordering::Relaxed);
                let control = Control { wire: theirs };
                let message = match enter(place, &control, parent) {
                    Ok(()) => run(&control, work),
                    Err(error) => Message::Failed(format!("{error:#}")),
                };
                let sent = post(&control.wire, &message);
                // SAFETY: ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(i32::from(sent.is_err())) }
            }
        }
    }

    /// The process id, for the tests that ask the agent about a process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a value to the child, which takes it with [`Control::hear`].
    ///
    /// # Errors
    /// When the child is gone.
    pub fn tell(&self, value: &impl Serialize) -> Result<()> {
        post(&self.wire, &Message::Said(serde_json::to_value(value)?)).with_context(|| self.gone())
    }

    /// Waits for what the child says next.
    ///
    /// # Errors
    /// When it says nothing in time, ends or fails instead.
    pub fn hear<V: DeserializeOwned>(&self, timeout: Duration) -> Result<V> {
        match take(&self.wire, timeout).with_context(|| self.gone())? {
            Some(Message::Said(value)) => Ok(serde_json::from_value(value)?),
            Some(Message::Failed(text)) => bail!("{}: {text}", self.label),
            Some(Message::Done(value)) => {
                bail!("{} ended with {value} before it said anything", self.label)
            }
            None => bail!("{} said nothing within {timeout:?}", self.label),
        }
    }

    /// Asks the child to stop ([`Control::stop_asked`]) and waits for its result. Things it said before are dropped.
    ///
    /// # Errors
    /// The error or panic of the child, or that it did not end in time; it is killed then.
    pub fn finish(self, timeout: Duration) -> Result<T> {
        // A child that has ended already is not there to be told, and its result is waiting.
        post(&self.wire, &Message::Said(serde_json::Value::Null)).or_else(|error| {
            if error.raw_os_error() == Some(Errno::EPIPE as i32) {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        self.join(timeout)
    }

    /// Waits for the result without asking the child to stop.
    ///
    /// # Errors
    /// As [`Task::finish`].
    pub fn join(self, timeout: Duration) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match take(&self.wire, left).with_context(|| self.gone())? {
                Some(Message::Said(_)) => {}
                Some(Message::Done(value)) => return Ok(serde_json::from_value(value)?),
                Some(Message::Failed(text)) => return Err(anyhow!(text)),
                None => bail!("{} did not end within {timeout:?}", self.label),
            }
        }
    }

    fn gone(&self) -> String {
        format!("{} (process {}) is gone", self.label, self.pid)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        // The child was never waited for, so the id is still its own.
        if kill(self.pid, Signal::SIGKILL).is_ok() {
            waitpid(self.pid, None).ok();
        }
    }
}

impl Control {
    /// Sends a value to the parent, which takes it with [`Task::hear`].
    ///
    /// # Errors
    /// When the parent has let go of the task.
    pub fn say(&self, value: &impl Serialize) -> Result<()> {
        Ok(post(
            &self.wire,
            &Message::Said(serde_json::to_value(value)?),
        )?)
    }

    /// Waits for the parent's next word.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn hear<V: DeserializeOwned>(&self, timeout: Duration) -> Result<V> {
        match take(&self.wire, timeout)? {
            Some(Message::Said(value)) => Ok(serde_json::from_value(value)?),
            Some(other) => bail!("the parent sent {other:?}"),
            None => bail!("the parent said nothing within {timeout:?}"),
        }
    }

    /// True once the parent has called [`Task::finish`] or let go of the task.
    #[must_use]
    pub fn stop_asked(&self) -> bool {
        is_readable(&self.wire, Duration::ZERO).unwrap_or(true)
    }

    /// Waits until [`Control::stop_asked`], for at most `timeout`.
    pub fn wait_for_stop(&self, timeout: Duration) {
        // Whatever comes, an error included, is a reason to stop waiting.
        is_readable(&self.wire, timeout).ok();
    }
}

/// Makes the process a member of `place`, and lets it die with its parent.
fn enter(place: &Place, control: &Control, parent: OwnedFd) -> Result<()> {
    close_others(&[
        control.wire.as_raw_fd(),
        parent.as_raw_fd(),
        place.netns.as_fd().as_raw_fd(),
    ])?;
    let members = place.cgroup.join("cgroup.procs");
    fs::write(&members, "0").with_context(|| format!("join {}", members.display()))?;
    setns(place.netns.as_fd(), CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    thread::spawn(move || {
        if is_readable(&parent, Duration::MAX).unwrap_or(false) {
            // SAFETY: ends this process alone.
            unsafe { libc::_exit(1) }
        }
    });
    Ok(())
}

/// Closes every file descriptor from 3 up but those in `keep`.
fn close_others(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.into_iter().map(|fd| fd - 1).chain([u32::MAX]) {
        if first <= last {
            // SAFETY: no owner of these descriptors is used or dropped in the child, which ends with _exit.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            Errno::result(closed).context("close inherited file descriptors")?;
        }
        first = last.wrapping_add(2);
    }
    Ok(())
}

fn run<T: Serialize>(control: &Control, work: impl FnOnce(&Control) -> Result<T>) -> Message {
    match panic::catch_unwind(AssertUnwindSafe(|| work(control))) {
        Ok(Ok(value)) => serde_json::to_value(value).map_or_else(
            |error| Message::Failed(format!("result: {error}")),
            Message::Done,
        ),
        Ok(Err(error)) => Message::Failed(format!("{error:#}")),
        Err(cause) => Message::Failed(format!("panicked: {}", panic_text(cause.as_ref()))),
    }
}

/// The words of a panic.
#[must_use]
pub fn panic_text(cause: &(dyn Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "something that is no text".to_owned())
}

/// A panic hook takes the lock of standard error, which another thread may have held at the fork.
fn quiet_panics_of_children() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |cause| {
            if !IN_CHILD.load(Ordering::Relaxed) {
                usual(cause);
            }
        }));
    });
}

fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system call without pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn post(wire: &OwnedFd, message: &Message) -> io::Result<()> {
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
fn take(wire: &OwnedFd, timeout: Duration) -> Result<Option<Message>> {
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

fn is_readable(fd: &impl AsFd, timeout: Duration) -> Result<bool> {
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
