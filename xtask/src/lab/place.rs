//! Where code runs: a network namespace and a cgroup, which is all that a cgroup socket program sees of a pod.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::netns::Netns;
use super::serve::{Serve, ServeOptions};
use super::task::{Control, Task};
use super::traffic::{Asked, Dial};

/// The longest that [`Place::exec`] waits for its closure.
const EXEC_TIMEOUT: Duration = Duration::from_secs(20);

/// A network namespace and a cgroup: a pod's, a node's own, or a client's outside the cluster.
#[derive(Debug, Clone)]
pub struct Place {
    /// Names the place in errors, and is what its servers answer with.
    pub name: String,
    /// The network namespace, which several places may share.
    pub netns: Netns,
    /// The cgroup's folder.
    pub cgroup: PathBuf,
    /// The addresses of the place by which others reach it: IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
}

impl Place {
    pub(super) fn new(
        name: &str,
        netns: Netns,
        cgroup: PathBuf,
        addresses: [IpAddr; 2],
    ) -> Result<Self> {
        std::fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        Ok(Self {
            name: name.to_owned(),
            netns,
            cgroup,
            addresses,
        })
    }

    /// The IPv4 address with `port`.
    #[must_use]
    pub fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[0], port)
    }

    /// The IPv6 address with `port`.
    #[must_use]
    pub fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[1], port)
    }

    /// Runs `work` in a process of its own here and returns what it returns.
    ///
    /// # Errors
    /// The error or panic of `work` in words, or that it took longer than 20 s.
    pub fn exec<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        Task::start(self, &self.name, |_| work())?.join(EXEC_TIMEOUT)
    }

    /// Starts `work` in a process of its own here and returns at once. `label` names it in errors.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn spawn<T>(&self, label: &str, work: impl FnOnce(&Control) -> Result<T>) -> Result<Task<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        Task::start(self, &format!("{label} in {}", self.name), work)
    }

    /// Starts a server that answers with this place's name on `port` of both its addresses, TCP and UDP. It runs as
    /// long as the returned value lives.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn serve(&self, port: u16) -> Result<Serve> {
        self.serve_with(&ServeOptions::new(&[self.v4(port), self.v6(port)]))
    }

    /// Starts a server with choices: addresses, name, UDP-Lite, Multipath TCP.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn serve_with(&self, options: &ServeOptions) -> Result<Serve> {
        Serve::start(self, options)
    }

    /// Dials once from here and returns who answered, or which call failed with what.
    ///
    /// # Errors
    /// When the client process cannot be run; a refused dial is no error of this function.
    pub fn ask(&self, dial: &Dial) -> Result<Asked> {
        self.exec(|| Ok(dial.ask()))
    }

    /// Dials `count` times in a row from one process here.
    ///
    /// # Errors
    /// As [`Place::ask`].
    pub fn ask_many(&self, dial: &Dial, count: usize) -> Result<Vec<Asked>> {
        self.exec(|| Ok((0..count).map(|_| dial.ask()).collect()))
    }
}
