//! One proxy and its own laboratory. All laboratories are alike to the last address, so that one set of objects serves
//! them all, and stand side by side, so that rounds can take turns.
//!
//! ```text
//! outside ── switch ─┬─ node-a (the proxy) ── local
//!                    └─ node-b ── remote
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use xtask::{
    cluster::Cluster,
    lab::{Lab, Node, Place, Pod, Task, eventually},
};

use crate::{
    objects::{self, Backend, NODES, SERVER_PORT},
    peer::{self, Peer, Running},
    worker::{self, Act, Worker},
};

/// How long a proxy may take from its start until its NodePorts answer.
const READY: Duration = Duration::from_secs(60);

/// Longer than what was seen to follow an emptied table.
const SETTLED: Duration = Duration::from_millis(200);

pub struct Plane {
    pub peer: Peer,
    /// Dials: requests to the remote and to the local backend, then bulk to them.
    pub client: Worker,
    pub outside: Place,
    pub node: Node,
    pub pods: [Pod; 2],
    _running: Running,
    _serving: [Task<()>; 2],
    _other: Node,
    // Last: it removes what the others stand on.
    pub lab: Lab,
}

impl Plane {
    /// Builds the laboratory and starts `peer`; the first plane tells the cluster about the objects.
    pub fn new(peer: Peer, cluster: &Cluster, programs: &Path) -> Result<Self> {
        let lab = Lab::new()?.with_agent(env!("CARGO_BIN_EXE_lb-agent"));
        let (node, other) = (lab.node(NODES[0])?, lab.node(NODES[1])?);
        let pods = [other.pod("remote")?, node.pod("local")?];
        let outside = lab.outside("outside")?;
        quiet_redirects(&node)?;
        let serve = |pod: &Pod| worker::serve(pod, v4(pod)?, SERVER_PORT);
        let serving = [serve(&pods[0])?, serve(&pods[1])?];
        tell(cluster, [&node, &other], &pods)?;
        let running = peer::start(peer, &node, cluster, programs)?;
        let mut lists = Vec::new();
        for add in [0, 2] {
            for backend in Backend::ALL {
                lists.push(vec![destination(peer, &node, &pods, backend, add)?]);
            }
        }
        let client = Worker::start(&outside, lists)?;
        Ok(Self {
            peer,
            client,
            outside,
            node,
            pods,
            _running: running,
            _serving: serving,
            _other: other,
            lab,
        })
    }

    /// Waits until both backends answer, by TCP and UDP.
    pub fn wait_ready(&mut self) -> Result<()> {
        let outside = &self.outside;
        for backend in Backend::ALL {
            let to = destination(self.peer, &self.node, &self.pods, backend, 0)?;
            let answers = || outside.exec(|| worker::answers(to));
            eventually(READY, answers).with_context(|| format!("{}: {to}", self.peer.name()))?;
        }
        Ok(())
    }

    /// Where a client dials a backend.
    pub fn destination(&self, backend: Backend) -> Result<SocketAddrV4> {
        destination(self.peer, &self.node, &self.pods, backend, 0)
    }

    /// The pod behind a backend.
    pub fn pod(&self, backend: Backend) -> &Pod {
        match backend {
            Backend::Remote => &self.pods[0],
            Backend::Local => &self.pods[1],
        }
    }

    /// Does something once with the requests' list of `backend`, or with the bulk's.
    pub fn act(&self, act: Act, backend: Backend, count: usize) -> Result<f64> {
        let list = backend as usize + if matches!(act, Act::Bulk) { 2 } else { 0 };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(self.client.act(act, list, count)?.ns as f64)
    }

    /// Empties netfilter's table where there is one. Only while no connection is open, and not between rounds: connections
    /// right after it were seen to take 10 ms more now and then.
    pub fn forget(&self) -> Result<()> {
        if !self.peer.tracks() {
            return Ok(());
        }
        let output = (self.node.host.netns).within(|| {
            Command::new("conntrack")
                .arg("-F")
                .output()
                .context("run conntrack")
        })?;
        ensure!(
            output.status.success(),
            "conntrack -F: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::thread::sleep(SETTLED);
        Ok(())
    }
}

fn destination(
    peer: Peer,
    node: &Node,
    pods: &[Pod; 2],
    backend: Backend,
    add: u16,
) -> Result<SocketAddrV4> {
    if peer == Peer::Direct {
        let pod = &pods[backend as usize];
        return Ok(SocketAddrV4::new(v4(pod)?, SERVER_PORT + add));
    }
    Ok(SocketAddrV4::new(
        v4(&node.host)?,
        backend.node_port() + add,
    ))
}

pub fn v4(place: &Place) -> Result<Ipv4Addr> {
    match place.addresses[0] {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => anyhow::bail!("{address} is no IPv4 address"),
    }
}

/// The node forwards to the device that packets came from, and would say so to their senders.
fn quiet_redirects(node: &Node) -> Result<()> {
    for device in ["all", "default", "eth0"] {
        let name = format!("net.ipv4.conf.{device}.send_redirects");
        node.host.netns.sysctl(&name, "0")?;
    }
    Ok(())
}

fn tell(cluster: &Cluster, nodes: [&Node; 2], pods: &[Pod; 2]) -> Result<()> {
    let file = cluster.folder().join("objects.json");
    let all = objects::all(|backend| pods[backend as usize].addresses[0]);
    std::fs::write(&file, all.to_string())?;
    cluster.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()])?;
    for node in nodes {
        let patch = objects::status(node.host.addresses).to_string();
        cluster.kubectl(&[
            "patch",
            "node",
            &node.name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ])?;
    }
    Ok(())
}
