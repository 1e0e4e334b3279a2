//! A service port, its slots and its backends.

use crate::{
    id::{BackendId, ServiceId},
    list::{List, ListRange},
    net::{Address, BePort},
};

/// How an index into a list is chosen; unknown values mean random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Algorithm(pub u8);

impl Algorithm {
    /// Uniform, per connection (rule 33).
    pub const RANDOM: Self = Self(0);
    /// In turn, per node.
    pub const ROUND_ROBIN: Self = Self(1);

    /// As the annotation spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ROUND_ROBIN => "round-robin",
            Self(_) => "random",
        }
    }
}

/// Value of `LB4_SERVICES` and `LB6_SERVICES`, one per service port and family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Service {
    /// The Cluster list (rule 28).
    pub cluster: ListRange,
    /// The Local list (rule 29).
    pub local: ListRange,
    /// Seconds of idleness after which ClientIP affinity ends; 0: no affinity.
    pub affinity_timeout_s: u32,
    /// How to choose.
    pub algorithm: Algorithm,
    /// See [`Service::HAS_SOURCES`].
    pub flags: u8,
    /// Zero.
    pub pad: u16,
    /// Turn counter of round-robin, written by the programs alone.
    pub cursor: u64,
}

impl Service {
    /// In use: a zeroed entry of the array is no service.
    pub const IN_USE: u8 = 1;
    /// `LB*_SOURCES` holds ranges for it.
    pub const HAS_SOURCES: u8 = 2;

    /// One of its lists.
    #[inline(always)]
    pub const fn list(&self, list: List) -> ListRange {
        match list {
            List::Cluster => self.cluster,
            List::Local => self.local,
        }
    }
}

/// Value of `LB4_SLOTS` and `LB6_SLOTS`: a backend's place in a list.
///
/// Address and port are repeated here, so that a connect reads one cache line instead of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Slot<A> {
    /// Where to go.
    pub addr: A,
    /// Which port there.
    pub port: BePort,
    /// Generation of the backend id.
    pub generation: u16,
    /// The backend.
    pub backend: BackendId,
    /// The service whose list this slot is in: a reader that raced with reuse of the range sees it.
    pub service: ServiceId,
}

/// Value of `LB4_BACKENDS` and `LB6_BACKENDS`: an endpoint of one service port.
///
/// Every endpoint that the API knows is here, usable or not, so that `explain` can say why one is
/// left out; a list holds those whose flag for it is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Backend<A> {
    /// Where it is.
    pub addr: A,
    /// The port it listens on.
    pub port: BePort,
    /// Raised each time the id is given to another endpoint.
    pub generation: u16,
    /// Its service port; none: the id is free.
    pub service: ServiceId,
    /// Conditions and places.
    pub flags: BackendFlags,
}

/// Conditions and places of a backend, a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct BackendFlags(pub u32);

impl BackendFlags {
    /// In the Cluster list.
    pub const IN_CLUSTER: Self = Self(1);
    /// In the Local list.
    pub const IN_LOCAL: Self = Self(1 << 1);
    /// Condition `ready` (rule 18).
    pub const READY: Self = Self(1 << 2);
    /// Ready or `serving`: flows of UDP stay with it (rule 90).
    pub const SERVING: Self = Self(1 << 3);
    /// Condition `terminating`.
    pub const TERMINATING: Self = Self(1 << 4);
    /// `nodeName` is this node (a *local* endpoint).
    pub const ON_NODE: Self = Self(1 << 5);
    /// Its address is loopback or one of this node's own: reachable from a socket bound to loopback.
    pub const HOST_ADDR: Self = Self(1 << 6);
    /// Ready, but hints keep this node's clients away (rule 25).
    pub const HINTED_AWAY: Self = Self(1 << 7);

    /// All of `other`'s bits set?
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `other` set or not.
    pub const fn set(self, other: Self, on: bool) -> Self {
        if on {
            self.with(other)
        } else {
            Self(self.0 & !other.0)
        }
    }

    /// The flag of a list.
    #[inline(always)]
    pub const fn of(list: List) -> Self {
        match list {
            List::Cluster => Self::IN_CLUSTER,
            List::Local => Self::IN_LOCAL,
        }
    }
}

impl<A: Address> Backend<A> {
    /// Does it carry new connections of `service` on `list`, and is it still what `generation` named?
    #[inline(always)]
    pub fn serves(&self, service: ServiceId, generation: u16, flag: BackendFlags) -> bool {
        self.service == service && self.generation == generation && self.flags.has(flag)
    }

    /// The slot that puts it, under its id, into a list.
    pub const fn slot(&self, id: BackendId) -> Slot<A> {
        Slot {
            addr: self.addr,
            port: self.port,
            generation: self.generation,
            backend: id,
            service: self.service,
        }
    }
}
