//! What differs between the families' maps: their names and the form of an address.

use std::net::IpAddr;

use bytemuck::Pod;
use lb_common::{
    config::FamilyConfig,
    frontend::FrontendKey,
    net::{Addr4, Addr6, Address},
    netns::{NetnsVal, SourceAddr},
    service::{Backend, Slot},
    source::SourceKey,
};

/// Names of one family's maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "named after the maps")]
pub struct Names {
    pub frontends: &'static str,
    pub services: &'static str,
    pub slots: &'static str,
    pub backends: &'static str,
    pub sources: &'static str,
    pub node_addrs: &'static str,
    pub names: &'static str,
    pub flows: &'static str,
    pub embryos: &'static str,
    pub fragments: &'static str,
}

/// An address family that has maps.
///
/// The associated types are the generic ones of `lb-common`; they are named here because only here
/// it is known that each of them is plain memory.
pub trait Family: Address {
    /// [`FrontendKey`] of this family.
    type FrontendKey: Pod + From<FrontendKey<Self>> + Into<FrontendKey<Self>>;
    /// [`Slot`] of this family.
    type Slot: Pod + From<Slot<Self>> + Into<Slot<Self>>;
    /// [`Backend`] of this family.
    type Backend: Pod + From<Backend<Self>> + Into<Backend<Self>>;
    /// [`SourceKey`] of this family.
    type SourceKey: Pod + From<SourceKey<Self>> + Into<SourceKey<Self>>;

    /// Its maps.
    const MAPS: Names;
    /// As `ipFamilies` spells it.
    const LABEL: &'static str;

    /// As the standard library has it.
    fn ip(self) -> IpAddr;
    /// `None` for the other family.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// Its part of the settings.
    fn settings(config: &lb_common::config::Config) -> &dyn FamilyConfig<Self>;
    /// Its source address of a network namespace.
    fn source(netns: &NetnsVal) -> Option<Self>;
}

impl Family for Addr4 {
    type FrontendKey = FrontendKey<Self>;
    type Slot = Slot<Self>;
    type Backend = Backend<Self>;
    type SourceKey = SourceKey<Self>;

    const MAPS: Names = Names {
        frontends: "LB4_FRONTENDS",
        services: "LB4_SERVICES",
        slots: "LB4_SLOTS",
        backends: "LB4_BACKENDS",
        sources: "LB4_SOURCES",
        node_addrs: "LB4_NODE_ADDRS",
        names: "LB4_NAMES",
        flows: "LB4_FLOWS",
        embryos: "LB4_EMBRYOS",
        fragments: "LB4_FRAGMENTS",
    };
    const LABEL: &'static str = "IPv4";

    fn ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn settings(config: &lb_common::config::Config) -> &dyn FamilyConfig<Self> {
        config
    }

    fn source(netns: &NetnsVal) -> Option<Self> {
        netns.source()
    }
}

impl Family for Addr6 {
    type FrontendKey = FrontendKey<Self>;
    type Slot = Slot<Self>;
    type Backend = Backend<Self>;
    type SourceKey = SourceKey<Self>;

    const MAPS: Names = Names {
        frontends: "LB6_FRONTENDS",
        services: "LB6_SERVICES",
        slots: "LB6_SLOTS",
        backends: "LB6_BACKENDS",
        sources: "LB6_SOURCES",
        node_addrs: "LB6_NODE_ADDRS",
        names: "LB6_NAMES",
        flows: "LB6_FLOWS",
        embryos: "LB6_EMBRYOS",
        fragments: "LB6_FRAGMENTS",
    };
    const LABEL: &'static str = "IPv6";

    fn ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(ip) => Some(ip.into()),
            IpAddr::V4(_) => None,
        }
    }

    fn settings(config: &lb_common::config::Config) -> &dyn FamilyConfig<Self> {
        config
    }

    fn source(netns: &NetnsVal) -> Option<Self> {
        netns.source()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::map_table::find;

    use super::*;

    #[test]
    fn every_name_is_in_the_map_table() {
        for names in [Addr4::MAPS, Addr6::MAPS] {
            for name in [
                names.frontends,
                names.services,
                names.slots,
                names.backends,
                names.sources,
                names.node_addrs,
                names.names,
            ] {
                assert!(find(name).is_some(), "{name}");
            }
        }
    }
}
