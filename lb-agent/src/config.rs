//! What the agent was asked to do, after all parsing.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use lb_common::track::Timeouts;

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
        /// `None`: as fast as it answers.
        rate: Option<ApiRate>,
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

/// By what programs run on devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum PacketHook {
    /// TCX where the kernel has it (Linux 6.6), else clsact.
    #[default]
    Auto,
    /// TCX links.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// How packets are translated on the node's devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packets {
    /// `--devices`: names and globs of the devices that packets are translated on; empty: those with an
    /// address of the node or a way out.
    pub devices: Vec<String>,
    /// `--pod-devices`: globs of devices of workloads whose sockets are not this kernel's.
    pub pod_devices: Vec<String>,
    /// `--snat-ports`: ports of masqueraded flows, both ends included.
    pub snat_ports: (u16, u16),
    /// `--packet-mark-bit`: the bit of a packet's mark that says it is ours already, 0 to 31.
    pub mark_bit: u8,
    /// `--masquerade-local-backends`: towards backends of this node, too.
    pub masquerade_local: bool,
    /// `--no-redirect`: masqueraded packets go through the stack.
    pub no_redirect: bool,
    /// The address that nobody has, for packets through `lb0`, IPv4.
    pub lb0_addr4: std::net::Ipv4Addr,
    /// Likewise, IPv6.
    pub lb0_addr6: std::net::Ipv6Addr,
    /// How long idle flows live; no longer than netfilter's connections.
    pub timeouts: Timeouts,
    /// `--packet-hook`: by what programs run on devices.
    pub hook: PacketHook,
}

impl Packets {
    /// The upper part of Linux's own ephemeral range (32768 to 60999), beyond every NodePort.
    pub const SNAT_PORTS: (u16, u16) = (40_000, 60_999);
    /// kube-proxy uses bits 14 and 15, the portmap plugin 13, Calico 16 and up, the AWS plugin 7; Cilium 8
    /// to 11, with 0 to 7 and 16 and up as an identity.
    pub const MARK_BIT: u8 = 12;
    /// A link-local address that no host configures by itself.
    pub const LB0_ADDR4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 42, 1);
    /// Likewise, in a prefix of its own.
    pub const LB0_ADDR6: std::net::Ipv6Addr =
        std::net::Ipv6Addr::new(0xfd00, 0x6c62, 0, 0, 0, 0, 0, 0x2a01);
}

impl Default for Packets {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            pod_devices: Vec::new(),
            snat_ports: Self::SNAT_PORTS,
            mark_bit: Self::MARK_BIT,
            masquerade_local: false,
            no_redirect: false,
            lb0_addr4: Self::LB0_ADDR4,
            lb0_addr6: Self::LB0_ADDR6,
            timeouts: Timeouts::DEFAULT,
            hook: PacketHook::Auto,
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// `--logging-format`
    pub format: LogFormat,
    /// `-v`
    pub verbosity: u8,
}

/// How fast the API server may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApiRate {
    /// `--kube-api-qps`: from one request to the next, in the long run.
    pub every: Duration,
    /// `--kube-api-burst`: requests that may come at once.
    pub burst: u32,
}

/// The file of `--config` as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// What was in it.
    pub text: String,
}

/// Everything that `run` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--config`: the agent ends when it changes.
    pub file: Option<ConfigFile>,
    /// All of kube-proxy's fields, for `/configz`.
    pub shown: serde_json::Value,
    /// `--oom-score-adj`, -1000 to 1000.
    pub oom_score_adj: i32,
    /// `--iptables-sync-period` and its like: a change that is not applied in twice this time makes the agent unhealthy
    /// (rule 115).
    pub sync_period: Duration,
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
    /// `--masquerade-all`: packets to ClusterIPs are masqueraded, whoever sends them (rule 77). Of no consequence at
    /// sockets, where no packet carries a VIP.
    pub masquerade_all: bool,
    /// Health server; `None`: off.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Metrics server; `None`: off.
    pub metrics_bind_address: Option<SocketAddr>,
    /// `--bind-address-hard-fail`: an address of these that cannot be listened on ends the agent.
    pub bind_hard_fail: bool,
    /// cgroup v2 directory whose processes are served.
    pub cgroup_root: PathBuf,
    /// Where maps and links are pinned.
    pub bpffs_root: PathBuf,
    /// Sizes of the maps.
    pub capacities: Capacities,
    /// Everything about packets.
    pub packets: Packets,
    /// `--min-sync-period`: how long changes are gathered before they are applied.
    pub min_sync_period: Duration,
    /// `--full-check-period`: how often all maps are compared with what they should hold; zero: never.
    pub full_check_period: Duration,
}
