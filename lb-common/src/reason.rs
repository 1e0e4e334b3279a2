//! Everything that is counted: the one list for kernel, metrics, command line and documents.

/// Declares a counter enum with its metric label and meaning, in the order of the map's indices.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal),+ $(,)?) => {
        /// What the programs count; the value is an index into `LB_COUNTERS`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])+ $name),+ }

        impl Counter {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Label in metrics and in the command line: snake case.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),+ }
            }

            /// One sentence for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+)),+ }
            }
        }
    };
}

counters! {
    /// connections and datagrams translated by a fresh choice
    HitChosen = "hit_chosen",
    /// connections translated to the backend that session affinity pinned
    HitPinned = "hit_pinned",
    /// datagrams translated to the backend that their session holds
    HitSession = "hit_session",
    /// replies whose source was shown as the address dialled
    ReplyTranslated = "reply_translated",
    /// peer names shown as the address dialled
    PeerTranslated = "peer_translated",
    /// refused: the service has no usable endpoint (rules 43 to 45)
    NoEndpoints = "no_endpoints",
    /// refused: a Local policy, and no endpoint on this node (rules 36, 40)
    NoLocalEndpoints = "no_local_endpoints",
    /// refused: a ClusterIP on a port that no service has (rule 83)
    UnknownPort = "unknown_port",
    /// refused: an address of a ServiceCIDR that no service owns (rule 84)
    UnallocatedAddress = "unallocated_address",
    /// refused: the client is outside loadBalancerSourceRanges (rule 63)
    SourceDenied = "source_denied",
    /// refused: source ranges differ within this node's pods, and the client's address is not known yet
    SourceUnknown = "source_unknown",
    /// refused: the socket is bound to loopback, and no endpoint is on loopback or on this node's own addresses
    LoopbackBound = "loopback_bound",
    /// refused: lists changed under the reader too often
    Raced = "raced",
    /// bind refused: the port is a NodePort that is served here
    BindRefused = "bind_refused",
    /// a UDP socket dialled more VIPs than there are backends: replies show the VIP written last
    RevnatConflict = "revnat_conflict",
    /// socket state could not be stored: the peer shows as the backend
    StateLost = "state_lost",
    /// events that did not fit into the ring buffer
    EventLost = "event_lost",
    /// packets dropped: no free port to masquerade with; widen --snat-ports
    NoSnatPort = "no_snat_port",
    /// packets dropped: no room for a flow; raise --max-flows
    FlowTableFull = "flow_table_full",
    /// flows that keep the client's address under another port, for another flow has the same answers
    PortChanged = "port_changed",
    /// UDP flows moved to another backend, for theirs no longer serves (rules 89 to 92)
    FlowMoved = "flow_moved",
    /// packets dropped: too short for what they claim to be, or of lengths that contradict each other
    Malformed = "malformed",
    /// packets dropped: the kernel refused to change or send them
    NotSent = "not_sent",
    /// fragments dropped: the first one of their datagram was not seen
    FragmentUnknown = "fragment_unknown",
    /// packets dropped: they left with the address that nobody has, and their flow is gone
    FlowUnknown = "flow_unknown",
    /// ICMP errors about translated packets, translated
    IcmpTranslated = "icmp_translated",
    /// refused packets answered with RST or ICMP
    RejectSent = "reject_sent",
    /// refused packets not answered, to stay below the rate
    RejectLimited = "reject_limited",
    /// packets dropped and answered: hops used up
    HopsExceeded = "hops_exceeded",
    /// packets dropped and answered: larger than the way on
    TooBig = "too_big",
    /// packets of the host or a CNI that had the tuple of a masqueraded flow, moved to another port
    HostPortMoved = "host_port_moved",
    /// rejected on their way out: packets to a ClusterIP that no hook translated, as a pod's SCTP and all of
    /// workloads whose sockets are not this kernel's (--pod-devices)
    Untranslated = "untranslated",
}

impl Counter {
    /// How many.
    pub const COUNT: usize = Self::ALL.len();
}

/// Entries of `LB_COUNTERS`. A packet program may interrupt a socket program on the same CPU, and
/// counting is not atomic: so socket hooks count below this half, packet hooks above it.
pub const COUNTER_SLOTS: u32 = 128;
/// Where the counters of packets begin.
pub const PACKET_COUNTERS: u32 = COUNTER_SLOTS / 2;

/// What a refused caller sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Answer {
    /// REJECT: ECONNREFUSED at the socket, ICMP or RST in packets (rule 43).
    Refused,
    /// DROP: EHOSTUNREACH at the socket, silence in packets. A socket call that can never succeed
    /// fails at once instead of hanging until a timeout.
    Unreachable,
}

/// Why a flow is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Reason {
    /// [`Counter::NoEndpoints`]
    NoEndpoints,
    /// [`Counter::NoLocalEndpoints`]
    NoLocalEndpoints,
    /// [`Counter::UnknownPort`]
    UnknownPort,
    /// [`Counter::UnallocatedAddress`]
    UnallocatedAddress,
    /// [`Counter::SourceDenied`]
    SourceDenied,
    /// [`Counter::SourceUnknown`]
    SourceUnknown,
    /// [`Counter::LoopbackBound`]
    LoopbackBound,
    /// [`Counter::Raced`]
    Raced,
}

impl Reason {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::UnknownPort,
        Self::UnallocatedAddress,
        Self::SourceDenied,
        Self::SourceUnknown,
        Self::LoopbackBound,
        Self::Raced,
    ];

    /// The reason of a number that it was turned into.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::NoEndpoints),
            1 => Some(Self::NoLocalEndpoints),
            2 => Some(Self::UnknownPort),
            3 => Some(Self::UnallocatedAddress),
            4 => Some(Self::SourceDenied),
            5 => Some(Self::SourceUnknown),
            6 => Some(Self::LoopbackBound),
            7 => Some(Self::Raced),
            _ => None,
        }
    }

    /// Where it is counted.
    #[inline(always)]
    pub const fn counter(self) -> Counter {
        match self {
            Self::NoEndpoints => Counter::NoEndpoints,
            Self::NoLocalEndpoints => Counter::NoLocalEndpoints,
            Self::UnknownPort => Counter::UnknownPort,
            Self::UnallocatedAddress => Counter::UnallocatedAddress,
            Self::SourceDenied => Counter::SourceDenied,
            Self::SourceUnknown => Counter::SourceUnknown,
            Self::LoopbackBound => Counter::LoopbackBound,
            Self::Raced => Counter::Raced,
        }
    }

    /// What the caller sees: table 1.E, rules 63, 83 and 84.
    #[inline(always)]
    pub const fn answer(self) -> Answer {
        match self {
            Self::NoEndpoints | Self::UnknownPort | Self::LoopbackBound | Self::Raced => {
                Answer::Refused
            }
            Self::NoLocalEndpoints
            | Self::UnallocatedAddress
            | Self::SourceDenied
            | Self::SourceUnknown => Answer::Unreachable,
        }
    }

    /// The rule of the behaviour checklist behind it.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::NoEndpoints => "rules 43-45: no usable endpoint anywhere",
            Self::NoLocalEndpoints => "rule 36 or 40: policy Local, endpoints only on other nodes",
            Self::UnknownPort => "rule 83: ClusterIP known, port or protocol not",
            Self::UnallocatedAddress => "rule 84: address in a ServiceCIDR, owned by no service",
            Self::SourceDenied => "rule 63: client outside loadBalancerSourceRanges",
            Self::SourceUnknown => "rule 63: client's address not known yet",
            Self::LoopbackBound => "a socket bound to loopback reaches only endpoints on this host",
            Self::Raced => "the lists changed under the reader",
        }
    }
}
