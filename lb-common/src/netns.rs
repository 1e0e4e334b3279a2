//! The addresses of clients whose sockets have none yet.

use crate::net::{Addr4, Addr6};

/// Value of `LB_NETNS`, keyed by the namespace's cookie (u64, never reused since boot): the source
/// addresses that the namespace's routes choose for a destination off the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct NetnsVal {
    /// IPv4 source; 0.0.0.0: none.
    pub addr4: Addr4,
    /// IPv6 source; ::, none.
    pub addr6: Addr6,
    /// Zero.
    pub pad: u32,
}

/// Picks a family's address.
pub trait SourceAddr<A> {
    /// The address, `None` where the namespace has none of the family.
    fn source(&self) -> Option<A>;
}

impl SourceAddr<Addr4> for NetnsVal {
    #[inline(always)]
    fn source(&self) -> Option<Addr4> {
        (self.addr4.to_ctx() != 0).then_some(self.addr4)
    }
}

impl SourceAddr<Addr6> for NetnsVal {
    #[inline(always)]
    fn source(&self) -> Option<Addr6> {
        let w = self.addr6.ne_words();
        (w[0] | w[1] | w[2] | w[3] != 0).then_some(self.addr6)
    }
}
