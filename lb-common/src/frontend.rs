//! What a client dials, and what the agent compiled about it.

use crate::{
    id::ServiceId,
    list::List,
    net::{Address, BePort, Proto},
};

/// Key of `LB4_FRONTENDS` and `LB6_FRONTENDS`.
///
/// A NodePort is stored once, under the unspecified address; a VIP as such (rule 83) under port 0
/// and protocol 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// The address dialled.
    pub vip: A,
    /// The port dialled.
    pub port: BePort,
    /// TCP, UDP or SCTP.
    pub proto: Proto,
    /// Zero.
    pub pad: u8,
}

impl<A: Address> FrontendKey<A> {
    /// An address, port and protocol.
    #[inline(always)]
    pub const fn new(vip: A, port: BePort, proto: Proto) -> Self {
        Self {
            vip,
            port,
            proto,
            pad: 0,
        }
    }

    /// A NodePort on whatever address counts as this node's.
    #[inline(always)]
    pub const fn node_port(port: BePort, proto: Proto) -> Self {
        Self::new(A::UNSPECIFIED, port, proto)
    }

    /// An address on a port that no service has: a ClusterIP (rule 83), or what belongs to another
    /// proxy (rule 2).
    #[inline(always)]
    pub const fn any_port(vip: A) -> Self {
        Self::new(vip, BePort::new(0), Proto::ANY)
    }

    /// Is it an [`Self::any_port`]?
    #[inline(always)]
    pub fn is_any_port(&self) -> bool {
        self.proto == Proto::ANY
    }
}

/// Kind of a frontend; unknown values are kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Kind(pub u8);

impl Kind {
    /// A ClusterIP whose other ports are refused (rule 83).
    pub const ANY_PORT: Self = Self(0);
    /// `spec.clusterIPs`
    pub const CLUSTER_IP: Self = Self(1);
    /// `spec.ports[].nodePort`
    pub const NODE_PORT: Self = Self(2);
    /// `status.loadBalancer.ingress[].ip`
    pub const LOAD_BALANCER: Self = Self(3);
    /// `spec.externalIPs`
    pub const EXTERNAL_IP: Self = Self(4);
    /// The ClusterIP of a Service of another proxy (rule 2): nobody else's, and not ours to refuse.
    pub const FOREIGN: Self = Self(5);

    /// As users know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ANY_PORT => "AnyPort",
            Self::CLUSTER_IP => "ClusterIP",
            Self::NODE_PORT => "NodePort",
            Self::LOAD_BALANCER => "LoadBalancer",
            Self::EXTERNAL_IP => "ExternalIP",
            Self::FOREIGN => "Foreign",
            Self(_) => "unknown",
        }
    }

    /// Is it of an address as such, which no service port owns?
    pub const fn is_any_port(self) -> bool {
        matches!(self, Self::ANY_PORT | Self::FOREIGN)
    }
}

/// Who dials, as far as policies tell clients apart (rule 39).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// A socket of a pod on this node: any network namespace but the host's.
    Pod,
    /// A socket of the node's own namespace, host-network pods included.
    Host,
    /// A packet that came from elsewhere.
    Outside,
}

impl Class {
    /// The class of a number that it was turned into.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        match index {
            0 => Self::Pod,
            1 => Self::Host,
            _ => Self::Outside,
        }
    }
}

/// What `loadBalancerSourceRanges` say about a class of clients, compiled by the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SourceRule {
    /// No filter, or every client of the class is inside.
    #[default]
    Allow,
    /// Every client of the class is outside all ranges.
    Deny,
    /// The client's address decides.
    Check,
}

/// Value of `LB4_FRONTENDS` and `LB6_FRONTENDS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FrontendVal {
    /// The service port behind it; none for a VIP as such.
    pub service: ServiceId,
    /// What it is.
    pub kind: Kind,
    /// One bit per [`Class`]: it uses the Local list.
    local: u8,
    /// Two bits per [`Class`]: its [`SourceRule`].
    sources: u8,
    /// Zero.
    pad: u8,
}

impl FrontendVal {
    /// Clients of every class use the Cluster list and are let in.
    #[inline(always)]
    pub const fn new(service: ServiceId, kind: Kind) -> Self {
        Self {
            service,
            kind,
            local: 0,
            sources: 0,
            pad: 0,
        }
    }

    /// The value of a VIP as such (rule 83).
    pub const fn any_port() -> Self {
        Self::new(ServiceId::NONE, Kind::ANY_PORT)
    }

    /// The value of an address of another proxy (rule 2).
    pub const fn foreign() -> Self {
        Self::new(ServiceId::NONE, Kind::FOREIGN)
    }

    /// Clients of `class` use the Local list.
    pub const fn with_local(mut self, class: Class) -> Self {
        self.local |= 1 << class as u8;
        self
    }

    /// Clients of `class` are under `rule`.
    pub const fn with_sources(mut self, class: Class, rule: SourceRule) -> Self {
        self.sources |= (rule as u8) << (2 * class as u8);
        self
    }

    /// The list that clients of `class` use.
    #[inline(always)]
    pub const fn list(&self, class: Class) -> List {
        if self.local >> (class as u8) & 1 == 1 {
            List::Local
        } else {
            List::Cluster
        }
    }

    /// Does it treat clients of every class alike?
    #[inline(always)]
    pub const fn is_same_for_all(&self) -> bool {
        self.sources == 0 && (self.local == 0 || self.local == 0b111)
    }

    /// The rule that clients of `class` are under; unknown bits deny.
    #[inline(always)]
    pub const fn sources(&self, class: Class) -> SourceRule {
        match self.sources >> (2 * class as u8) & 3 {
            0 => SourceRule::Allow,
            2 => SourceRule::Check,
            _ => SourceRule::Deny,
        }
    }

    /// Is any class of clients filtered by source?
    #[inline(always)]
    pub const fn has_source_ranges(&self) -> bool {
        self.sources != 0
    }
}
