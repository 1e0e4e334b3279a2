//! What the agent was asked to do, after all parsing.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::maps::Capacities;

/// Where Services come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// An API server, found as kubectl finds it.
    Kubernetes {
        /// `--kubeconfig`
        kubeconfig: Option<PathBuf>,
        /// `--master`: overrides the server of the kubeconfig.
        master: Option<String>,
    },
    /// `--manifests`: a folder of YAML and JSON files.
    Manifests(PathBuf),
}

/// Which API tells endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum EndpointsSource {
    /// discovery.k8s.io/v1 EndpointSlice
    Slices,
    /// core/v1 Endpoints, for clusters and tools that only write those
    Endpoints,
}

/// `--detect-local-mode` (rule 81): how a pod's traffic is told from other traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DetectLocal {
    /// Source in `--cluster-cidr`.
    ClusterCidr,
    /// Source in the Node's podCIDRs.
    NodeCidr,
    /// Input interface is this one.
    BridgeInterface(String),
    /// Input interface's name begins so.
    InterfaceNamePrefix(String),
}

/// `--nodeport-addresses` (rules 48 to 52), any mix.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodePortAddresses {
    /// `primary`: the Node's primary address of each family.
    pub primary: bool,
    /// CIDRs; a zero one means every address of this host in its family. `all` is both zero CIDRs.
    pub cidrs: Vec<IpNet>,
}

/// Everything that `run` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Services come from.
    pub source: Source,
    /// Which API tells endpoints.
    pub endpoints: EndpointsSource,
    /// This node's name (rule 132).
    pub node_name: String,
    /// `--bind-address`, if it is one address: this node's primary one of its family (rule 134).
    pub bind_address: Option<std::net::IpAddr>,
    /// Feature gate `AllowServiceExternalIPs` (rule 69): `spec.externalIPs` are served.
    pub external_ips: bool,
    /// `--cluster-cidr`, at most one per family.
    pub cluster_cidrs: Vec<IpNet>,
    /// How pods are told from others.
    pub detect_local: DetectLocal,
    /// Where NodePorts answer.
    pub nodeport_addresses: NodePortAddresses,
    /// NodePorts answer on 127.0.0.0/8, in the agent's own network namespace.
    pub localhost4: bool,
    /// NodePorts answer on ::1, in the agent's own network namespace.
    pub localhost6: bool,
    /// Host sockets may not bind a NodePort that is served here.
    pub protect_node_ports: bool,
    /// `--masquerade-all`: of no consequence at sockets, where no packet carries a VIP.
    pub masquerade_all: bool,
    /// Health server; `None`: off.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Metrics server; `None`: off.
    pub metrics_bind_address: Option<SocketAddr>,
    /// cgroup v2 directory whose processes are served.
    pub cgroup_root: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs_root: PathBuf,
    /// Sizes of the maps.
    pub capacities: Capacities,
    /// `--devices`: where packets will be translated; kept for a later version.
    pub devices: Vec<String>,
    /// `--min-sync-period`: how long changes are gathered before they are applied.
    pub min_sync_period: Duration,
    /// `--full-check-period`: how often all maps are compared with what they should hold; zero: never.
    pub full_check_period: Duration,
}
