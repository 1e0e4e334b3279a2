//! Addresses as numbers, for what counts with whole networks of either family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use crate::maps::family::Family;

/// An address in host order.
pub(super) fn number<A: Family>(addr: A) -> u128 {
    let [high, low] = addr.words();
    u128::from(high) << 64 | u128::from(low)
}

/// The reverse; a number beyond the family's last address gives that one.
pub(super) fn from_number<A: Family>(number: u128) -> A {
    let ip = if A::FAMILY == 4 {
        let bits = u32::try_from(number).unwrap_or(u32::MAX);
        IpAddr::V4(Ipv4Addr::from_bits(bits))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(number))
    };
    A::from_ip(ip).unwrap_or(A::UNSPECIFIED)
}

/// First and last address of a network; `None` for one of the other family.
pub(super) fn bounds<A: Family>(net: &IpNet) -> Option<(u128, u128)> {
    let first = A::from_ip(net.network())?;
    let last = A::from_ip(net.broadcast())?;
    Some((number(first), number(last)))
}
