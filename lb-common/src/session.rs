//! Unconnected UDP: which backend a socket's datagrams to a VIP go to, and what its replies show.
//!
//! A session is kept as conntrack would keep it: until its backend no longer serves, or until it
//! has been idle. Both maps use one address form for both families, for the kernel runs sendmsg4
//! but recvmsg6 on a v4-mapped socket.

use crate::{
    id::{BackendId, ServiceId},
    net::{Addr6, BePort, Proto},
};

/// Idle time of a session that has seen a reply, as `nf_conntrack_udp_timeout_stream`.
pub const REPLIED_TIMEOUT_NS: u64 = 120_000_000_000;
/// Idle time of a session that has not, as `nf_conntrack_udp_timeout`.
pub const UNREPLIED_TIMEOUT_NS: u64 = 30_000_000_000;

/// Key of `LB_UDP_SESSION`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SessionKey {
    /// The socket's cookie, never reused since boot.
    pub socket: u64,
    /// The address dialled; IPv4 as ::ffff:a.b.c.d.
    pub vip: Addr6,
    /// The port dialled.
    pub port: BePort,
    /// UDP.
    pub proto: Proto,
    /// Zero.
    pub pad: [u8; 5],
}

impl SessionKey {
    /// Of a socket and what it dials.
    #[inline(always)]
    pub const fn new(socket: u64, vip: Addr6, port: BePort) -> Self {
        Self {
            socket,
            vip,
            port,
            proto: Proto::UDP,
            pad: [0; 5],
        }
    }
}

/// Value of `LB_UDP_SESSION`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SessionVal {
    /// The backend's address; IPv4 as ::ffff:a.b.c.d.
    pub addr: Addr6,
    /// Its port.
    pub port: BePort,
    /// Generation of its id.
    pub generation: u16,
    /// Its id.
    pub backend: BackendId,
    /// The service port.
    pub service: ServiceId,
    /// 1 once a reply was received.
    pub replied: u16,
    /// 1 when another VIP of the socket has the same backend: then the one written last is shown.
    pub contested: u16,
    /// Last datagram either way: nanoseconds since boot.
    pub last_ns: u64,
}

impl SessionVal {
    /// Not idle for too long?
    #[inline(always)]
    pub const fn is_fresh(&self, now_ns: u64) -> bool {
        let timeout = if self.replied == 0 {
            UNREPLIED_TIMEOUT_NS
        } else {
            REPLIED_TIMEOUT_NS
        };
        now_ns.saturating_sub(self.last_ns) < timeout
    }
}

/// Key of `LB_UDP_REVNAT`: where a reply comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RevnatKey {
    /// The socket's cookie.
    pub socket: u64,
    /// The backend's address; IPv4 as ::ffff:a.b.c.d.
    pub addr: Addr6,
    /// Its port.
    pub port: BePort,
    /// Zero.
    pub pad: [u8; 6],
}

impl RevnatKey {
    /// Of a socket and a peer.
    #[inline(always)]
    pub const fn new(socket: u64, addr: Addr6, port: BePort) -> Self {
        Self {
            socket,
            addr,
            port,
            pad: [0; 6],
        }
    }
}

/// Value of `LB_UDP_REVNAT`: what the reply shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RevnatVal {
    /// The address dialled; IPv4 as ::ffff:a.b.c.d.
    pub vip: Addr6,
    /// The port dialled.
    pub port: BePort,
    /// UDP.
    pub proto: Proto,
    /// Zero.
    pub pad: [u8; 5],
}

impl RevnatVal {
    /// What a session's replies show.
    #[inline(always)]
    pub const fn of(key: &SessionKey) -> Self {
        Self {
            vip: key.vip,
            port: key.port,
            proto: key.proto,
            pad: [0; 5],
        }
    }
}
