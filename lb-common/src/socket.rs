//! What a socket dialled and got, and where that is kept.
//!
//! Socket storage is freed with the socket whatever happens, but costs two allocations that wait for RCU: with their
//! freeing 0.7 us of a TCP connection. So `LB_PEERS` holds a place for each of the last 16,384 socket cookies, which the
//! kernel gives out in order; a socket whose place is held by one that has been open for longer uses `LB_SOCKETS`.

use crate::{
    id::{BackendId, ServiceId},
    net::{Addr6, BePort},
};

/// Value of `LB_SOCKETS`, and of a place in `LB_PEERS`. Valid only while `backend` is the socket's peer: no hook runs on an
/// AF_UNSPEC disconnect, so every reader compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SocketVal {
    /// The address dialled; IPv4 as ::ffff:a.b.c.d.
    pub vip: Addr6,
    /// The address it was translated to, in the same form.
    pub backend: Addr6,
    /// The port dialled.
    pub vip_port: BePort,
    /// The port it was translated to.
    pub backend_port: BePort,
    /// The service port.
    pub service: ServiceId,
    /// The backend.
    pub backend_id: BackendId,
    /// Generation of its id.
    pub generation: u16,
    /// [`SocketVal::HAS_SESSION`], or 0.
    pub flags: u8,
    /// 4 or 6: which family's ids; 0: nothing is stored.
    pub family: u8,
}

impl SocketVal {
    /// A datagram of the socket was sent unconnected: its release looks for a session to free.
    pub const HAS_SESSION: u8 = 1;

    /// Is this the peer that the socket was translated to?
    #[inline(always)]
    pub fn is_peer(&self, addr: &Addr6, port: BePort) -> bool {
        self.backend == *addr && self.backend_port == port && self.family != 0
    }
}

/// How many places `LB_PEERS` has; a power of two. A megabyte: what is larger drops out of a CPU's own cache between
/// two sockets of a place.
pub const PEER_PLACES: u32 = 16_384;

/// Value of `LB_PEERS`: a place for one socket, in a cache line of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Peer {
    /// Cookie of the socket that holds it; 0: it is free. Taken by compare-and-swap, given back at release.
    pub socket: u64,
    /// What that socket dialled and got; `flags` and `family` are 0 where the place is free.
    pub val: SocketVal,
    /// Not 0: a socket found the place taken and may be in `LB_SOCKETS`. Never unset.
    pub spilled: u64,
}

impl Peer {
    /// The index of a socket's place.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are meant")]
    pub const fn index(cookie: u64) -> u32 {
        cookie as u32 % PEER_PLACES
    }
}

/// Value of `LB_BOUND`: the port that a socket of the host is bound to, if masqueraded flows could use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BoundPort {
    /// Network order.
    pub port: BePort,
    /// Zero.
    pub pad: [u8; 2],
}

/// A bit of a value of `LB_HOST_PORTS`: a socket from before the hooks is bound to the port. The agent sets and
/// clears it; the bits below are the programs' count.
pub const BOUND_BEFORE: u64 = 1 << 63;
