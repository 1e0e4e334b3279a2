//! Every map: its name, its shape, who writes it and who reads it.
//!
//! Tests hold the built object and the running kernel against this table.

use crate::{
    affinity::{AffinityKey, AffinityVal},
    agent_state::AgentState,
    config::Config,
    device::DeviceVal,
    event::Event,
    flow::{FlowKey, FlowVal},
    fragment::{FragmentKey, FragmentVal},
    frontend::{FrontendKey, FrontendVal},
    id::ServiceId,
    limit::Bucket,
    name::ServiceName,
    nat::Draft,
    net::{Addr4, Addr6},
    netns::NetnsVal,
    ports::PORT_WORDS,
    reason::COUNTER_SLOTS,
    service::{Backend, Service, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    socket::{BoundPort, PEER_PLACES, Peer, SocketVal},
    source::SourceKey,
};

/// Who writes a map. Everyone may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// The agent alone.
    Agent,
    /// The programs alone.
    Programs,
    /// Both, each its own fields.
    Both,
}

/// Type of a map (enum bpf_map_type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[expect(missing_docs, reason = "the kernel's names")]
pub enum MapType {
    Hash = 1,
    Array = 2,
    PerCpuArray = 6,
    LruHash = 9,
    LpmTrie = 11,
    SkStorage = 24,
    RingBuf = 27,
}

/// Sized by a command-line flag, or fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capacity {
    /// `--max-frontends`
    Frontends,
    /// `--max-services`
    Services,
    /// `--max-slots`
    Slots,
    /// `--max-backends`
    Backends,
    /// `--max-source-ranges`
    Sources,
    /// `--max-flows`, two entries each
    Flows,
    /// `--max-flows`, divided by [`FLOWS_PER_EMBRYO`]
    Embryos,
    /// Fixed.
    Fixed(u32),
}

impl Capacity {
    /// The flag that raises it.
    pub const fn flag(self) -> Option<&'static str> {
        match self {
            Self::Frontends => Some("--max-frontends"),
            Self::Services => Some("--max-services"),
            Self::Slots => Some("--max-slots"),
            Self::Backends => Some("--max-backends"),
            Self::Sources => Some("--max-source-ranges"),
            Self::Flows | Self::Embryos => Some("--max-flows"),
            Self::Fixed(_) => None,
        }
    }

    /// The default, in entries.
    pub const fn default_entries(self) -> u32 {
        match self {
            Self::Frontends => 131_072,
            Self::Services => 65_536,
            Self::Slots => 524_288,
            Self::Backends => 262_144,
            Self::Sources => 65_536,
            Self::Flows => 262_144,
            Self::Embryos => Self::Flows.default_entries() / FLOWS_PER_EMBRYO,
            Self::Fixed(n) => n,
        }
    }
}

/// One map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// Name: at most 15 bytes, for the kernel cuts the rest without a word.
    pub name: &'static str,
    /// Type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Entries.
    pub capacity: Capacity,
    /// Writer.
    pub writer: Writer,
    /// What for.
    pub purpose: &'static str,
}

const fn spec<K, V>(
    name: &'static str,
    map_type: MapType,
    capacity: Capacity,
    writer: Writer,
    purpose: &'static str,
) -> MapSpec {
    assert!(name.len() <= 15, "kernel names have at most 15 bytes");
    MapSpec {
        name,
        map_type,
        key_size: size_of::<K>(),
        value_size: size_of::<V>(),
        capacity,
        writer,
        purpose,
    }
}

/// Key of a longest-prefix map, as the kernel wants it: prefix length, then data.
type Lpm<K> = (u32, K);

/// Sessions of unconnected UDP.
pub const SESSION_ENTRIES: u32 = 65_536;
/// Clients with affinity.
pub const AFFINITY_ENTRIES: u32 = 65_536;
/// Namespaces with known addresses.
pub const NETNS_ENTRIES: u32 = 16_384;
/// Addresses of this node.
pub const NODE_ADDR_ENTRIES: u32 = 1_024;
/// One embryo for so many established flows.
pub const FLOWS_PER_EMBRYO: u32 = 4;
/// Datagrams whose first fragment was seen, per family.
pub const FRAGMENT_ENTRIES: u32 = 8_192;
/// Devices of this node.
pub const DEVICE_ENTRIES: u32 = 4_096;
/// Ports.
pub const HOST_PORT_ENTRIES: u32 = 1 << 16;
/// Bytes of the event ring.
pub const EVENT_BYTES: u32 = 1 << 16;

use Capacity::{Backends, Embryos, Fixed, Flows, Frontends, Services, Slots, Sources};
use MapType::{Array, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf, SkStorage};
use Writer::{Agent, Both, Programs};

/// All maps.
pub const MAPS: &[MapSpec] = &[
    spec::<FrontendKey<Addr4>, FrontendVal>(
        "LB4_FRONTENDS",
        Hash,
        Frontends,
        Agent,
        "what clients dial",
    ),
    spec::<FrontendKey<Addr6>, FrontendVal>(
        "LB6_FRONTENDS",
        Hash,
        Frontends,
        Agent,
        "what clients dial",
    ),
    spec::<u32, Service>(
        "LB4_SERVICES",
        Array,
        Services,
        Both,
        "lists, algorithm and affinity of a service port",
    ),
    spec::<u32, Service>(
        "LB6_SERVICES",
        Array,
        Services,
        Both,
        "lists, algorithm and affinity of a service port",
    ),
    spec::<u32, Slot<Addr4>>(
        "LB4_SLOTS",
        Array,
        Slots,
        Agent,
        "the lists: backends in their places",
    ),
    spec::<u32, Slot<Addr6>>(
        "LB6_SLOTS",
        Array,
        Slots,
        Agent,
        "the lists: backends in their places",
    ),
    spec::<u32, Backend<Addr4>>(
        "LB4_BACKENDS",
        Array,
        Backends,
        Agent,
        "endpoints and their conditions",
    ),
    spec::<u32, Backend<Addr6>>(
        "LB6_BACKENDS",
        Array,
        Backends,
        Agent,
        "endpoints and their conditions",
    ),
    spec::<Lpm<SourceKey<Addr4>>, u32>(
        "LB4_SOURCES",
        LpmTrie,
        Sources,
        Agent,
        "loadBalancerSourceRanges",
    ),
    spec::<Lpm<SourceKey<Addr6>>, u32>(
        "LB6_SOURCES",
        LpmTrie,
        Sources,
        Agent,
        "loadBalancerSourceRanges",
    ),
    spec::<Addr4, u32>(
        "LB4_NODE_ADDRS",
        Hash,
        Fixed(NODE_ADDR_ENTRIES),
        Agent,
        "addresses that NodePorts answer on",
    ),
    spec::<Addr6, u32>(
        "LB6_NODE_ADDRS",
        Hash,
        Fixed(NODE_ADDR_ENTRIES),
        Agent,
        "addresses that NodePorts answer on",
    ),
    spec::<u32, Config>(
        "LB_CONFIG",
        Array,
        Fixed(2),
        Agent,
        "run-time settings, the one in force and the next",
    ),
    spec::<u32, AgentState>(
        "LB_AGENT",
        Array,
        Fixed(1),
        Agent,
        "what the agent says of itself",
    ),
    spec::<ServiceId, ServiceName>(
        "LB4_NAMES",
        Hash,
        Services,
        Agent,
        "Kubernetes names of service ids",
    ),
    spec::<ServiceId, ServiceName>(
        "LB6_NAMES",
        Hash,
        Services,
        Agent,
        "Kubernetes names of service ids",
    ),
    spec::<u64, NetnsVal>(
        "LB_NETNS",
        LruHash,
        Fixed(NETNS_ENTRIES),
        Agent,
        "source addresses of network namespaces",
    ),
    spec::<AffinityKey, AffinityVal>(
        "LB_AFFINITY",
        LruHash,
        Fixed(AFFINITY_ENTRIES),
        Programs,
        "pinned clients",
    ),
    spec::<SessionKey, SessionVal>(
        "LB_UDP_SESSION",
        LruHash,
        Fixed(SESSION_ENTRIES),
        Programs,
        "unconnected UDP: socket and VIP",
    ),
    spec::<RevnatKey, RevnatVal>(
        "LB_UDP_REVNAT",
        LruHash,
        Fixed(SESSION_ENTRIES),
        Programs,
        "unconnected UDP: what replies show",
    ),
    spec::<FlowKey<Addr4>, FlowVal<Addr4>>(
        "LB4_FLOWS",
        Hash,
        Flows,
        Both,
        "established flows of packets, both halves",
    ),
    spec::<FlowKey<Addr4>, FlowVal<Addr4>>(
        "LB4_EMBRYOS",
        LruHash,
        Embryos,
        Programs,
        "flows of packets that are not established yet",
    ),
    spec::<FragmentKey<Addr4>, FragmentVal>(
        "LB4_FRAGMENTS",
        LruHash,
        Fixed(FRAGMENT_ENTRIES),
        Programs,
        "ports of datagrams that come in fragments",
    ),
    spec::<FlowKey<Addr6>, FlowVal<Addr6>>(
        "LB6_FLOWS",
        Hash,
        Flows,
        Both,
        "established flows of packets, both halves",
    ),
    spec::<FlowKey<Addr6>, FlowVal<Addr6>>(
        "LB6_EMBRYOS",
        LruHash,
        Embryos,
        Programs,
        "flows of packets that are not established yet",
    ),
    spec::<FragmentKey<Addr6>, FragmentVal>(
        "LB6_FRAGMENTS",
        LruHash,
        Fixed(FRAGMENT_ENTRIES),
        Programs,
        "ports of datagrams that come in fragments",
    ),
    spec::<u32, Draft<Addr4>>(
        "LB4_DRAFT",
        PerCpuArray,
        Fixed(1),
        Programs,
        "where a flow is put together",
    ),
    spec::<u32, Draft<Addr6>>(
        "LB6_DRAFT",
        PerCpuArray,
        Fixed(1),
        Programs,
        "where a flow is put together",
    ),
    spec::<u32, [u64; 8]>(
        "LB_QUESTION",
        PerCpuArray,
        Fixed(1),
        Programs,
        "where the kernel is asked for routes and sockets",
    ),
    spec::<u32, DeviceVal>(
        "LB_DEVICES",
        Hash,
        Fixed(DEVICE_ENTRIES),
        Agent,
        "devices of this node, by interface index",
    ),
    spec::<u32, u64>(
        "LB_PORTS",
        Array,
        Fixed(PORT_WORDS),
        Agent,
        "a bit per port that any frontend or backend uses",
    ),
    spec::<u32, u64>(
        "LB_HOST_PORTS",
        Array,
        Fixed(HOST_PORT_ENTRIES),
        Both,
        "by port of masqueraded flows: host sockets bound to it",
    ),
    spec::<i32, BoundPort>(
        "LB_BOUND",
        SkStorage,
        Fixed(0),
        Programs,
        "the port of LB_HOST_PORTS that a socket is bound to",
    ),
    spec::<u32, Bucket>(
        "LB_LIMIT",
        PerCpuArray,
        Fixed(1),
        Programs,
        "how many refusals may be answered",
    ),
    spec::<i32, SocketVal>(
        "LB_SOCKETS",
        SkStorage,
        Fixed(0),
        Programs,
        "what a socket dialled and got, where it has no place in LB_PEERS",
    ),
    spec::<u32, Peer>(
        "LB_PEERS",
        Array,
        Fixed(PEER_PLACES),
        Programs,
        "what a socket dialled and got",
    ),
    spec::<u32, u64>(
        "LB_COUNTERS",
        PerCpuArray,
        Fixed(COUNTER_SLOTS),
        Programs,
        "hits and refusals by reason",
    ),
    spec::<(), Event>(
        "LB_EVENTS",
        RingBuf,
        Fixed(EVENT_BYTES),
        Programs,
        "rare events",
    ),
];

/// Finds a map by its name.
pub fn find(name: &str) -> Option<&'static MapSpec> {
    MAPS.iter().find(|spec| spec.name == name)
}

/// Every program on the node's devices: its name, and its hook. Devices without a link header (tun, ipip,
/// WireGuard) have programs of their own, for packets there begin with the network header.
pub const PACKET_PROGRAMS: &[(&str, &str)] = &[
    ("lb_tc_in", "tcx/ingress"),
    ("lb_tc_out", "tcx/egress"),
    ("lb_tc_in_l3", "tcx/ingress"),
    ("lb_tc_out_l3", "tcx/egress"),
    ("lb_lb0_out", "tcx/egress"),
];

/// Every program on the cgroup: its name, which is also its pin's, and its hook.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("lb_connect4", "cgroup/connect4"),
    ("lb_connect6", "cgroup/connect6"),
    ("lb_sendmsg4", "cgroup/sendmsg4"),
    ("lb_sendmsg6", "cgroup/sendmsg6"),
    ("lb_recvmsg4", "cgroup/recvmsg4"),
    ("lb_recvmsg6", "cgroup/recvmsg6"),
    ("lb_getpeer4", "cgroup/getpeername4"),
    ("lb_getpeer6", "cgroup/getpeername6"),
    ("lb_post_bind4", "cgroup/post_bind4"),
    ("lb_post_bind6", "cgroup/post_bind6"),
    ("lb_sock_release", "cgroup/sock_release"),
];
