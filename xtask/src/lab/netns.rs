//! Network namespaces without names: a file descriptor holds each, so that nothing is left behind however a run ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, alive as long as this value or a process in it.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace with its loopback up, forwarding on and duplicate address detection off, so that IPv6
    /// addresses work at once.
    ///
    /// # Errors
    /// When the caller may not make namespaces.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("make a network namespace (root is needed)")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause))?;
        let netns = Self {
            file: Arc::new(file),
        };
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// Runs `work` on a thread of its own inside this namespace. The thread stays in the caller's cgroup: what opens
    /// sockets as a pod or host process belongs into [`super::Place::exec`].
    ///
    /// # Errors
    /// Those of `work`, and when the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                .context("enter the network namespace")?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// Gives `commands`, one a line, to a single `ip -batch` inside this namespace.
    ///
    /// # Errors
    /// With the words of `ip` at the first command that it refuses.
    pub fn ip(&self, commands: &str) -> Result<()> {
        self.within(|| ip_batch(commands))
    }

    /// What `ip <arguments>` prints inside this namespace.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub fn show(&self, arguments: &[&str]) -> Result<String> {
        let output = self.within(|| {
            Command::new("ip")
                .args(arguments)
                .output()
                .context("run ip")
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Loads rules of nftables here, written as for `nft -f`.
    ///
    /// # Errors
    /// With the words of `nft`, or that it cannot be run.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.within(|| feed("nft", &["-f", "-"], rules))
    }

    /// Switches offloads of `device` on or off, as `ethtool -K` names them.
    ///
    /// # Errors
    /// With the words of `ethtool`, or that it cannot be run.
    pub fn offload(&self, device: &str, features: &[&str], state: &str) -> Result<()> {
        let words = features.iter().flat_map(|feature| [*feature, state]);
        let words: Vec<&str> = ["-K", device].into_iter().chain(words).collect();
        self.within(|| feed("ethtool", &words, ""))
    }

    /// Sets a `net.*` kernel parameter of this namespace.
    ///
    /// # Errors
    /// When the kernel does not know the parameter or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.within(|| {
            std::fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
        })
    }

    /// A path by which other programs reach the namespace, `nsenter --net=PATH` for one.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.file.as_raw_fd()
        ))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn ip_batch(commands: &str) -> Result<()> {
    feed("ip", &["-batch", "-"], commands)
}

/// Runs a program that reads `input`.
fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let mut pipe = child
        .stdin
        .take()
        .with_context(|| format!("no pipe to {program}"))?;
    let written = pipe.write_all(input.as_bytes());
    drop(pipe);
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {arguments:?} refused: {}\n{input}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    written.with_context(|| format!("write to {program}"))
}
