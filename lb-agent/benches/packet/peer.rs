//! Who translates: ours, the real kube-proxy in each of its modes, or nobody.

use std::{net::TcpListener, path::Path, process::Command};

use anyhow::{Context, Result};
use xtask::{
    cluster::{Cluster, Forward, Process, User},
    lab::{Agent, CLUSTER_CIDR, Node},
};

/// A proxy to compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Peer {
    /// This project's agent
    Ours,
    /// kube-proxy in nftables mode
    Nftables,
    /// kube-proxy in iptables mode
    Iptables,
    /// No proxy at all: the backend is dialled by its own address
    Direct,
}

impl Peer {
    pub const ALL: [Self; 4] = [Self::Ours, Self::Nftables, Self::Iptables, Self::Direct];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Direct => "direct",
        }
    }

    /// What it needs of the distribution.
    pub fn tool(self) -> Option<&'static str> {
        match self {
            Self::Ours | Self::Direct => None,
            Self::Nftables => Some("nft"),
            Self::Iptables => Some("iptables"),
        }
    }

    pub fn tracks(self) -> bool {
        self.tool().is_some()
    }
}

/// A proxy that runs; dropping it ends it.
pub struct Running {
    _agent: Option<Agent>,
    _proxy: Option<Process>,
    _door: Forward,
}

/// Starts `peer` on `node`, fed by `cluster`.
pub fn start(peer: Peer, node: &Node, cluster: &Cluster, programs: &Path) -> Result<Running> {
    let server = cluster.address();
    let listener = node.host.netns.within(|| Ok(TcpListener::bind(server)?))?;
    let door = Forward::start(listener, server)?;
    let mut running = Running {
        _agent: None,
        _proxy: None,
        _door: door,
    };
    match peer {
        Peer::Direct => {}
        Peer::Ours => {
            let kubeconfig = cluster.kubeconfig(User::Agent).display().to_string();
            running._agent =
                Some(node.agent(&["--kubeconfig", &kubeconfig, "--cluster-cidr", CLUSTER_CIDR])?);
        }
        Peer::Nftables | Peer::Iptables => {
            running._proxy = Some(kube_proxy(peer, node, cluster, programs)?);
        }
    }
    Ok(running)
}

/// kube-proxy in the node's network namespace. Two of its flags keep it from writing sysctls that a namespace has not.
fn kube_proxy(peer: Peer, node: &Node, cluster: &Cluster, programs: &Path) -> Result<Process> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", node.host.netns.path().display()))
        .arg(programs.join("kube-proxy"))
        .arg(format!(
            "--kubeconfig={}",
            cluster.kubeconfig(User::NodeProxier).display()
        ))
        .arg(format!("--proxy-mode={}", peer.name()))
        .arg(format!("--hostname-override={}", node.name))
        .arg(format!("--cluster-cidr={CLUSTER_CIDR}"))
        .args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
    let log = cluster
        .folder()
        .join(format!("kube-proxy-{}.log", peer.name()));
    let proxy = Process::start("kube-proxy", command, &log)?;
    // A network card checks checksums before the stack does; a cable of veth has none to check them.
    (node.host.netns)
        .sysctl("net.netfilter.nf_conntrack_checksum", "0")
        .context("conntrack of the node")?;
    Ok(proxy)
}
