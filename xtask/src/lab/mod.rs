//! The laboratory: nodes, pods and clients from network namespaces and cgroups, with real sockets between them.
//!
//! ```text
//!  switch (bridge br0) ─┬─ eth0 node-a ─┬─ pod0 ── eth0 pod a   10.244.1.1  fd00:244:1::1
//!                       │  172.18.0.1   └─ pod1 ── eth0 pod b   10.244.1.2  fd00:244:1::2
//!                       │  fd00:18::1
//!                       ├─ eth0 node-b ─── pod0 ── eth0 pod c   10.244.2.1  fd00:244:2::1
//!                       └─ eth0 a client outside                172.18.0.201 fd00:18::c9
//! ```
//!
//! Pods are reached by routes and nothing is translated on the way, as with any CNI. A node's processes and pods live
//! in cgroups below the node's own, and that is where its agent attaches: several nodes stand on one kernel. Everything
//! has its own network namespaces, so that laboratories run side by side and the machine's traffic is never touched.
//!
//! The demo, the benches and the agent's tests stand on this. It knows the agent by its command line alone.

mod agent;
mod cli;
mod dial;
mod ground;
pub mod manifest;
mod netns;
mod node;
mod place;
mod serve;
mod task;
pub mod traffic;
mod wire;

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use agent::Agent;
pub use ground::{cgroup2_root, missing, mounts_below, remove_all, remove_stale};
pub use netns::Netns;
pub use node::{Node, Pod};
pub use place::Place;
pub use serve::{ELSEWHERE, Serve, ServeOptions};
pub use task::{Control, Task, panic_text};

use cli::Cli;
use ground::Ground;

/// Where Services of the laboratory have their ClusterIPs: `10.96.0.0/16` and `fd00:96::/112`.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];

/// Where pods of all nodes have their addresses, as `--cluster-cidr` takes it.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:244::/32";

/// The number of the first client outside; nodes count from 1.
const FIRST_OUTSIDE: u8 = 201;

/// A network of nodes, pods and clients. Dropping it ends and removes everything that was made in it.
#[derive(Debug)]
pub struct Lab {
    ground: Ground,
    switch: Netns,
    agent_binary: Option<PathBuf>,
    agent_flags: Vec<(String, String)>,
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    nodes: Vec<Member>,
    outside: u8,
}

#[derive(Debug)]
struct Member {
    number: u8,
    netns: Netns,
    name: String,
    cli: Cli,
}

impl Lab {
    /// Makes an empty laboratory. [`missing`] tells beforehand whether that can work.
    ///
    /// # Errors
    /// When the machine lacks what a laboratory needs; the message says what.
    pub fn new() -> Result<Self> {
        let ground = Ground::new()?;
        let switch = Netns::new()?;
        switch.ip("link add br0 type bridge\nlink set br0 up\n")?;
        fs::create_dir(ground.dir.join("logs"))?;
        Ok(Self {
            ground,
            switch,
            agent_binary: None,
            agent_flags: Vec::new(),
            members: Mutex::default(),
        })
    }

    /// Names the agent's binary for [`Node::agent`] and [`Node::cli`].
    #[must_use]
    pub fn with_agent(mut self, binary: impl Into<PathBuf>) -> Self {
        self.agent_binary = Some(binary.into());
        self
    }

    /// Gives every agent of this laboratory flag `name` with `value`, unless the agent is started with another.
    #[must_use]
    pub fn with_agent_flag(mut self, name: &str, value: &str) -> Self {
        self.agent_flags.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The laboratory's unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.ground.name
    }

    /// The namespace of the bridge between nodes and clients. Number `n` is on its device `port<n>`.
    #[must_use]
    pub fn switch(&self) -> &Netns {
        &self.switch
    }

    /// A folder that is removed with the laboratory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.ground.dir
    }

    /// Adds a node: a network namespace for its host processes, a cgroup, a folder for its bpffs and one for its
    /// manifests, and routes between it and the nodes that are there.
    ///
    /// # Errors
    /// When the kernel refuses a part of it.
    pub fn node(&self, name: &str) -> Result<Node> {
        let mut members = self.lock();
        let number =
            u8::try_from(members.nodes.len() + 1).context("a laboratory holds 200 nodes")?;
        let netns = self.plug(number)?;
        for other in &members.nodes {
            other.netns.ip(&routes_to(number))?;
            netns.ip(&routes_to(other.number))?;
        }
        netns.sysctl("net.ipv4.ip_forward", "1")?;
        netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let node = Node::new(self, name, number, netns.clone())?;
        members.nodes.push(Member {
            number,
            netns,
            name: name.to_owned(),
            cli: node.record(),
        });
        Ok(node)
    }

    /// Adds a client on the nodes' network that is no node: it runs no agent, and its packets arrive from outside.
    ///
    /// # Errors
    /// When the kernel refuses a part of it.
    pub fn outside(&self, name: &str) -> Result<Place> {
        let mut members = self.lock();
        let number = FIRST_OUTSIDE + members.outside;
        members.outside += 1;
        let netns = self.plug(number)?;
        for node in &members.nodes {
            netns.ip(&routes_to(node.number))?;
        }
        Place::new(
            name,
            netns,
            self.ground.cgroup.join(name),
            node_addresses(number),
        )
    }

    /// Connects a new namespace to the switch as number `number`.
    fn plug(&self, number: u8) -> Result<Netns> {
        let netns = Netns::new()?;
        self.switch.ip(&format!(
            "link add port{number} type veth peer name eth0 netns {}\nlink set port{number} master br0 up\n",
            netns.path().display()
        ))?;
        let [v4, v6] = node_addresses(number);
        netns.ip(&format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up\n"
        ))?;
        Ok(netns)
    }

    /// Services, status, routes and agent's log of every node, for a test that failed.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        for member in &self.lock().nodes {
            let path = self.log_path(&member.name);
            let log = fs::read_to_string(&path).unwrap_or_default();
            // Writing to a String cannot fail.
            write!(
                text,
                "=== {}\n{}--- log\n{log}",
                member.name,
                member.cli.report()
            )
            .ok();
        }
        text
    }

    /// What the agents of a node log to, which is part of [`Lab::report`].
    #[must_use]
    pub fn log_path(&self, node: &str) -> PathBuf {
        self.ground.dir.join("logs").join(node)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses of node or client `number` on the nodes' network.
fn node_addresses(number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(172, 18, 0, number).into(),
        Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, number.into()).into(),
    ]
}

/// The `ip` commands that lead to the pods of node `number`.
fn routes_to(number: u8) -> String {
    let [v4, v6] = node_addresses(number);
    format!(
        "route add 10.244.{number}.0/24 via {v4}\nroute add fd00:244:{number:x}::/64 via {v6}\n"
    )
}

/// Tries `attempt` until it succeeds, for at most `limit`.
///
/// # Errors
/// That of the last attempt.
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => bail!("not within {limit:?}: {error:#}"),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
