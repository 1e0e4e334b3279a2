//! `loadBalancerSourceRanges` in longest-prefix form.

use crate::{id::ServiceId, net::Address};

/// Data of a key of `LB4_SOURCES` and `LB6_SOURCES`, after the prefix length: the length counts the
/// 32 bits of the service id, then those of the address. The value is a u32, 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct SourceKey<A> {
    /// The service port, as the map compares it: bytes in memory order, always whole.
    pub service: ServiceId,
    /// The client, or the range's address.
    pub addr: A,
}

impl<A: Address> SourceKey<A> {
    /// Prefix length of a range of `bits` bits; `A::BITS` to look a client up.
    #[inline(always)]
    pub const fn prefix_len(bits: u32) -> u32 {
        ServiceId::BITS + bits
    }
}
