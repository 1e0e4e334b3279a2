//! Rare events, from the programs to the agent through the ring buffer `LB_EVENTS`.

use crate::{
    id::ServiceId,
    net::{Addr6, BePort, Proto},
};

/// What happened; unknown values are reported as such.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct EventKind(pub u32);

impl EventKind {
    /// A client's namespace is not in `LB_NETNS`, and source ranges need its address.
    pub const NETNS_UNKNOWN: Self = Self(1);
    /// A bind to a served NodePort was refused.
    pub const BIND_REFUSED: Self = Self(2);
    /// Lists changed under the reader too often.
    pub const RACED: Self = Self(3);
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// The client's network namespace.
    pub netns: u64,
    /// What happened.
    pub kind: u32,
    /// Process id in the init pid namespace.
    pub pid: u32,
    /// The service port, or none.
    pub service: ServiceId,
    /// 4 or 6.
    pub family: u32,
    /// The address dialled or bound; IPv4 as ::ffff:a.b.c.d.
    pub addr: Addr6,
    /// Its port.
    pub port: BePort,
    /// Its protocol.
    pub proto: Proto,
    /// Zero.
    pub pad: [u8; 5],
}
