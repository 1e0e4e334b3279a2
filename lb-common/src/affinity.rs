//! ClientIP session affinity (rules 70 to 76).

use crate::{
    id::{BackendId, ServiceId},
    net::Addr6,
};

/// Key of `LB_AFFINITY`: one client of one service port.
///
/// A service id belongs to one family; every frontend of the service port shares it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct AffinityKey {
    /// Who: the source address as seen before masquerade (rule 75), or a network namespace.
    pub client: Addr6,
    /// The service port.
    pub service: ServiceId,
    /// 4 or 6: which family's service ids.
    pub family: u32,
}

impl AffinityKey {
    /// At the socket the source address does not exist yet: one network namespace is one client.
    /// Written as 100::cookie, in the discard-only prefix (RFC 6666), which no packet comes from.
    #[inline(always)]
    pub const fn of_netns(cookie: u64, service: ServiceId, family: u8) -> Self {
        let c = cookie.to_be_bytes();
        let client = Addr6 {
            ip6: [
                1, 0, 0, 0, 0, 0, 0, 0, c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7],
            ],
        };
        Self {
            client,
            service,
            family: family as u32,
        }
    }
}

/// Value of `LB_AFFINITY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct AffinityVal {
    /// Last new connection: nanoseconds since boot (CLOCK_BOOTTIME).
    pub last_ns: u64,
    /// The pinned backend.
    pub backend: BackendId,
    /// Generation of its id.
    pub generation: u16,
    /// Zero.
    pub pad: u16,
}

impl AffinityVal {
    /// Has the client been idle for less than the timeout? Idle time between connections (rule 71).
    #[inline(always)]
    pub const fn is_fresh(&self, now_ns: u64, timeout_s: u32) -> bool {
        now_ns.saturating_sub(self.last_ns) < timeout_s as u64 * 1_000_000_000
    }
}
