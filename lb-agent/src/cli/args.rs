//! The command line as users type it. What kube-proxy has, has kube-proxy's name, meaning and
//! default; `settings.rs` makes a checked `Config` of it.

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use lb_common::map_table::Capacity;

use super::{dial::Target, output::Format};
use crate::config::{EndpointsSource, PacketHook, Packets};

/// Where maps and links are pinned unless told otherwise.
pub const BPFFS_ROOT: &str = "/sys/fs/bpf/lb";

/// Kubernetes Services in BPF, beside any CNI: translates connections at the socket, without
/// netfilter
#[derive(Parser, Clone, Debug)]
#[command(name = "lb-agent", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Keep the data plane as the API server or a folder of manifests says
    Run(Box<RunArgs>),
    /// Show the Services that the data plane serves
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Show the flows of packets from outside
    #[command(subcommand)]
    Flows(FlowsCommand),
    /// Show whether agent and data plane are well; exits with 1 when they are not
    Status(ShowArgs),
    /// Show which kernel features are there, which are missing and what that costs; exits with 1 when
    /// a required one is missing
    Check(ShowArgs),
    /// Say what happens to a connection and why, by the decision that the kernel runs
    Explain(ExplainArgs),
    /// Detach and unpin everything below --bpffs-root
    Cleanup(CleanupArgs),
    /// Load every program without attaching it and show its size
    #[command(hide = true)]
    Programs {
        #[command(flatten)]
        #[expect(missing_docs, reason = "flattened")]
        roots: Roots,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `service ...`
#[derive(Subcommand, Clone, Debug)]
pub enum ServiceCommand {
    /// Every frontend of every Service
    List(ShowArgs),
    /// One Service with its frontends and endpoints
    Get {
        /// Which: NAMESPACE/NAME
        #[arg(value_name = "NS/NAME", value_parser = parse_service)]
        service: (String, String),
        #[command(flatten)]
        #[expect(missing_docs, reason = "flattened")]
        show: ShowArgs,
    },
}

/// `flows ...`
#[derive(Subcommand, Clone, Debug)]
pub enum FlowsCommand {
    /// Every flow: client, destination, backend, state, and since when it is idle
    List {
        #[command(flatten)]
        #[expect(missing_docs, reason = "flattened")]
        filter: FlowFilter,
        #[command(flatten)]
        #[expect(missing_docs, reason = "flattened")]
        show: ShowArgs,
    },
}

/// Which flows.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct FlowFilter {
    /// Only of this Service
    #[arg(long, value_name = "NS/NAME", value_parser = parse_service)]
    pub service: Option<(String, String)>,
    /// Only of this client, ADDR or ADDR:PORT
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub client: Option<String>,
    /// Only to this backend, ADDR or ADDR:PORT
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub backend: Option<String>,
}

/// Where to look, for every verb.
#[derive(ClapArgs, Clone, Debug)]
pub struct Roots {
    /// cgroup v2 directory whose processes are served [default: the cgroup v2 mount, found in the
    /// mount table]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Directory of a BPF file system where maps and links are pinned
    #[arg(long, value_name = "DIR", default_value = BPFFS_ROOT)]
    pub bpffs_root: PathBuf,
}

/// For verbs that only look.
#[derive(ClapArgs, Clone, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub roots: Roots,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// `explain`
#[derive(ClapArgs, Clone, Debug)]
pub struct ExplainArgs {
    /// The client, by its address [default: this process]
    #[arg(long, value_name = "ADDR", conflicts_with = "pid")]
    pub from: Option<IpAddr>,
    /// The client, by a process of its network namespace
    #[arg(long, value_name = "N")]
    pub pid: Option<u32>,
    /// Its packets arrive on this device of the node: what our programs there do with them
    #[arg(long, value_name = "DEV", requires = "from")]
    pub dev: Option<String>,
    /// What it dials: ADDR:PORT or ADDR:PORT/PROTO, IPv6 in brackets; TCP unless told
    #[arg(long, value_name = "ADDR:PORT[/PROTO]")]
    pub to: Target,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub show: ShowArgs,
}

/// `cleanup`
#[derive(ClapArgs, Clone, Debug)]
pub struct CleanupArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub roots: Roots,
    /// Even while an agent runs on this --bpffs-root
    #[arg(long)]
    pub force: bool,
}

/// How logs look.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// `--detect-local-mode`
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "kube-proxy's names")]
pub enum DetectLocalMode {
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    #[value(name = "NodeCIDR")]
    NodeCidr,
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

/// `run`. Values stay unset unless given, so that `--config` can tell.
#[derive(ClapArgs, Clone, Debug, Default)]
#[command(args_override_self = true)]
pub struct RunArgs {
    /// Kubeconfig of the API server [default: the one that the cluster gives to its pods]
    #[arg(long, value_name = "FILE", help_heading = "Source")]
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, in place of the kubeconfig's
    #[arg(long, value_name = "URL", help_heading = "Source")]
    pub master: Option<String>,
    /// Read Services, EndpointSlices, Endpoints and Nodes from the YAML and JSON files of a folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"], help_heading = "Source")]
    pub manifests: Option<PathBuf>,
    /// Which API tells endpoints [default: slices]
    #[arg(long, value_enum, value_name = "API", help_heading = "Source")]
    pub endpoints_source: Option<EndpointsSource>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME", help_heading = "Source")]
    pub hostname_override: Option<String>,
    /// KubeProxyConfiguration file: kube-proxy's flags are then ignored, but for --hostname-override
    #[arg(long, value_name = "FILE", help_heading = "Source")]
    pub config: Option<PathBuf>,

    /// Addresses of the cluster's pods, at most one range per family
    #[arg(long, value_name = "CIDRS", help_heading = "Services")]
    pub cluster_cidr: Option<String>,
    /// Where NodePorts answer: CIDRs, `primary`, `localhost`, `all` [default: primary]
    #[arg(long, value_name = "LIST", help_heading = "Services")]
    pub nodeport_addresses: Option<String>,
    /// This node's primary address, in place of its Node object's; all zeros: none [default: 0.0.0.0]
    #[arg(long, value_name = "ADDR", help_heading = "Services")]
    pub bind_address: Option<String>,
    /// Feature gates, NAME=BOOL: AllowServiceExternalIPs=false leaves externalIPs unserved; others say
    /// nothing here
    #[arg(long, value_name = "LIST", help_heading = "Services")]
    pub feature_gates: Option<String>,
    /// NodePorts answer on 127.0.0.0/8 and ::1 of the host [default: true, unless
    /// --nodeport-addresses is given and holds no loopback]
    #[arg(long, visible_alias = "iptables-localhost-nodeports", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Services")]
    pub localhost_node_ports: Option<bool>,
    /// Refuse host processes that bind a NodePort which is served here
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Services")]
    pub protect_node_ports: Option<bool>,
    /// Masquerade all packets to ClusterIPs; of no consequence at sockets, where no packet carries a VIP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Services")]
    pub masquerade_all: Option<bool>,
    /// How pods are told from other clients [default: ClusterCIDR]
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        ignore_case = true,
        help_heading = "Services"
    )]
    pub detect_local_mode: Option<DetectLocalMode>,
    /// Bridge of this node's pods, for BridgeInterface
    #[arg(long, value_name = "NAME", help_heading = "Services")]
    pub pod_bridge_interface: Option<String>,
    /// How names of pods' interfaces begin, for InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX", help_heading = "Services")]
    pub pod_interface_name_prefix: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub packets: PacketArgs,

    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub maps: MapArgs,

    /// Health server, IP or IP:PORT; empty: none [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDR", help_heading = "Observation")]
    pub healthz_bind_address: Option<String>,
    /// Metrics server, IP or IP:PORT; empty: none [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDR", help_heading = "Observation")]
    pub metrics_bind_address: Option<String>,
    /// End when an address of these cannot be listened on, instead of trying again
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = "Observation")]
    pub bind_address_hard_fail: Option<bool>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "flattened")]
    pub log: LogArgs,
}

/// Where the data plane lives and how large it is.
#[derive(ClapArgs, Clone, Debug)]
#[command(next_help_heading = "Data plane")]
#[expect(missing_docs, reason = "named after the maps")]
pub struct MapArgs {
    #[command(flatten)]
    pub roots: Roots,
    /// Service ports, each family
    #[arg(long, value_name = "N", default_value_t = Capacity::Services.default_entries(), value_parser = entries())]
    pub max_services: u32,
    /// Places in backend lists, each family
    #[arg(long, value_name = "N", default_value_t = Capacity::Slots.default_entries(), value_parser = entries())]
    pub max_slots: u32,
    /// Endpoints of service ports, each family
    #[arg(long, value_name = "N", default_value_t = Capacity::Backends.default_entries(), value_parser = entries())]
    pub max_backends: u32,
    /// Addresses that clients dial, with port and protocol, each family
    #[arg(long, value_name = "N", default_value_t = Capacity::Frontends.default_entries(), value_parser = entries())]
    pub max_frontends: u32,
    /// loadBalancerSourceRanges, each family
    #[arg(long, value_name = "N", default_value_t = Capacity::Sources.default_entries(), value_parser = entries())]
    pub max_source_ranges: u32,
    /// Entries for flows of packets, two each, each family
    #[arg(long, value_name = "N", default_value_t = Capacity::Flows.default_entries(), value_parser = entries())]
    pub max_flows: u32,
    /// Changes are written at most once in so much time
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub min_sync_period: std::time::Duration,
    /// How often all maps are compared with what they should hold; 0: never
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub full_check_period: std::time::Duration,
}

/// How packets are translated.
#[derive(Clone, PartialEq, Eq, Debug, clap::Args)]
#[command(next_help_heading = "Packets")]
pub struct PacketArgs {
    /// Devices whose packets are translated: names and globs [default: those with an address of the node, or
    /// a route out]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub devices: Vec<String>,
    /// Devices of workloads whose sockets are not this kernel's (gVisor, Kata, VMs): names and globs
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub pod_devices: Vec<String>,
    /// Source ports of masqueraded packets, both ends included; kept from the host's own connections
    #[arg(long, value_name = "FROM-TO", default_value = "40000-60999")]
    pub snat_ports: String,
    /// The bit of a packet's mark by which our own are known
    #[arg(long, value_name = "BIT", default_value_t = Packets::MARK_BIT, value_parser = clap::value_parser!(u8).range(0..32))]
    pub packet_mark_bit: u8,
    /// Masquerade towards endpoints of this node, too, where kube-proxy does
    #[arg(long)]
    pub masquerade_local_backends: bool,
    /// Send masqueraded packets through the stack, where hosts filter or encrypt what they forward
    #[arg(long)]
    pub no_redirect: bool,
    /// By what programs run on devices: `auto` is TCX where the kernel has it (Linux 6.6), else clsact
    #[arg(long, value_enum, value_name = "HOOK", default_value_t)]
    pub packet_hook: PacketHook,
    /// The IPv4 address of packets through lb0; belongs to nobody
    #[arg(long, value_name = "ADDR", default_value_t = Packets::LB0_ADDR4)]
    pub lb0_address4: std::net::Ipv4Addr,
    /// The IPv6 address of packets through lb0; belongs to nobody
    #[arg(long, value_name = "ADDR", default_value_t = Packets::LB0_ADDR6)]
    pub lb0_address6: std::net::Ipv6Addr,
}

impl Default for PacketArgs {
    fn default() -> Self {
        let packets = Packets::default();
        let (lo, hi) = packets.snat_ports;
        Self {
            devices: packets.devices,
            pod_devices: packets.pod_devices,
            snat_ports: format!("{lo}-{hi}"),
            packet_mark_bit: packets.mark_bit,
            masquerade_local_backends: packets.masquerade_local,
            no_redirect: packets.no_redirect,
            packet_hook: packets.hook,
            lb0_address4: packets.lb0_addr4,
            lb0_address6: packets.lb0_addr6,
        }
    }
}

impl Default for MapArgs {
    fn default() -> Self {
        Self {
            roots: Roots::default(),
            max_services: Capacity::Services.default_entries(),
            max_slots: Capacity::Slots.default_entries(),
            max_backends: Capacity::Backends.default_entries(),
            max_frontends: Capacity::Frontends.default_entries(),
            max_source_ranges: Capacity::Sources.default_entries(),
            max_flows: Capacity::Flows.default_entries(),
            min_sync_period: std::time::Duration::ZERO,
            full_check_period: std::time::Duration::from_secs(300),
        }
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            bpffs_root: BPFFS_ROOT.into(),
        }
    }
}

/// What is logged and how.
#[derive(ClapArgs, Clone, Debug, Default)]
pub struct LogArgs {
    /// How logs look
    #[arg(
        long,
        visible_alias = "logging-format",
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Observation"
    )]
    pub log_format: LogFormat,
    /// How much is logged, as kube-proxy counts: from 4 on debug, from 6 on trace; RUST_LOG says it
    /// finer
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0, action = ArgAction::Set, help_heading = "Observation")]
    pub verbosity: u8,
}

/// Entries of one map: an array of more than 2^24 would be gigabytes.
fn entries() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(2..=1 << 24)
}

fn parse_service(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((ns, name)) if !ns.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((ns.to_owned(), name.to_owned()))
        }
        _ => Err("a service is named NAMESPACE/NAME, such as shop/web".to_owned()),
    }
}

/// As Go writes durations: `5m`, `1m30s`, `0`.
pub(super) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    if text == "0" {
        return Ok(std::time::Duration::ZERO);
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| std::time::Duration::try_from(duration).ok())
        .ok_or_else(|| "a duration is a number with its unit, such as 30s, 5m or 1h30m".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    fn run(args: &[&str]) -> RunArgs {
        let args = ["lb-agent", "run"].iter().chain(args).copied();
        let args = Args::try_parse_from(args).expect("a good command line");
        let Command::Run(run) = args.command else {
            panic!("{args:?}");
        };
        *run
    }

    #[test]
    fn switches_are_written_as_kube_proxy_writes_them() {
        assert_eq!(run(&[]).masquerade_all, None);
        assert_eq!(run(&["--masquerade-all"]).masquerade_all, Some(true));
        assert_eq!(run(&["--masquerade-all=false"]).masquerade_all, Some(false));
        assert_eq!(
            run(&["--localhost-node-ports=false"]).localhost_node_ports,
            Some(false)
        );
        assert_eq!(
            run(&["--masquerade-all", "false"]).masquerade_all,
            Some(false)
        );
        assert_eq!(
            run(&["--masquerade-all", "-v", "4"]).masquerade_all,
            Some(true)
        );
        assert_eq!(run(&["-v", "4"]).log.verbosity, 4);
        assert_eq!(run(&["--v=2"]).log.verbosity, 2);
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let s = std::time::Duration::from_secs;
        assert_eq!(parse_duration("5m"), Ok(s(300)));
        assert_eq!(parse_duration("1m30s"), Ok(s(90)));
        assert_eq!(parse_duration("0"), Ok(s(0)));
        assert!(parse_duration("-5s").is_err());
        assert!(parse_duration("5").is_err());
    }

    #[test]
    fn a_client_is_named_once() {
        let both = [
            "lb-agent",
            "explain",
            "--from",
            "10.0.0.1",
            "--pid",
            "1",
            "--to",
            "10.96.0.1:80",
        ];
        assert!(Args::try_parse_from(both).is_err());
    }
}
