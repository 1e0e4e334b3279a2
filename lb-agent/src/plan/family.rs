//! What the agent needs to know of an address family beyond what the programs need.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use lb_common::net::{Addr4, Addr6, Address};

/// The names of a family's maps, as in [`lb_common::map_table`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named after the maps")]
pub struct MapNames {
    pub frontends: &'static str,
    pub services: &'static str,
    pub names: &'static str,
    pub slots: &'static str,
    pub backends: &'static str,
    pub sources: &'static str,
    pub node_addrs: &'static str,
}

/// IPv4 or IPv6. The two are independent (rule 6).
pub trait Family: Address + Default {
    /// Its maps.
    const MAPS: MapNames;
    /// The address, if it is of this family. A v4-mapped IPv6 address is not IPv4.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// As the standard library has it.
    fn ip(self) -> IpAddr;
    /// From a number in host order; bits that an address of the family has not are cut.
    fn from_number(number: u128) -> Self;

    /// As a number in host order.
    fn number(self) -> u128 {
        let [high, low] = self.words();
        u128::from(high) << 64 | u128::from(low)
    }

    /// First and last address of a network of this family.
    fn bounds(net: &IpNet) -> Option<(u128, u128)> {
        let first = Self::from_ip(net.network())?.number();
        let last = Self::from_ip(net.broadcast())?.number();
        Some((first, last))
    }
}

impl Family for Addr4 {
    const MAPS: MapNames = MapNames {
        frontends: "LB4_FRONTENDS",
        services: "LB4_SERVICES",
        names: "LB4_NAMES",
        slots: "LB4_SLOTS",
        backends: "LB4_BACKENDS",
        sources: "LB4_SOURCES",
        node_addrs: "LB4_NODE_ADDRS",
    };

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }

    #[expect(clippy::cast_possible_truncation, reason = "the cut is the contract")]
    fn from_number(number: u128) -> Self {
        Ipv4Addr::from_bits(number as u32).into()
    }
}

impl Family for Addr6 {
    const MAPS: MapNames = MapNames {
        frontends: "LB6_FRONTENDS",
        services: "LB6_SERVICES",
        names: "LB6_NAMES",
        slots: "LB6_SLOTS",
        backends: "LB6_BACKENDS",
        sources: "LB6_SOURCES",
        node_addrs: "LB6_NODE_ADDRS",
    };

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip.into()),
        }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }

    fn from_number(number: u128) -> Self {
        Ipv6Addr::from_bits(number).into()
    }
}
