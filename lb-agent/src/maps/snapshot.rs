//! One family's maps as they stood at one moment: `decide` runs on it as it runs in the kernel.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    config::Config,
    frontend::{FrontendKey, FrontendVal},
    id::{BackendId, ServiceId},
    net::BePort,
    netns::NetnsVal,
    service::{Backend, Service, Slot},
    tables::Tables,
};

use super::{Content, family::Family};

/// What a decision reads.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot<A: Family> {
    /// Everything about services.
    pub content: Content<A>,
    /// `LB*_NODE_ADDRS`
    pub node_addrs: BTreeSet<A>,
    /// The settings in force.
    pub config: Config,
    /// `LB_NETNS`
    pub netns: BTreeMap<u64, NetnsVal>,
    /// `LB_AFFINITY`, both families.
    pub affinity: Vec<(AffinityKey, AffinityVal)>,
}

impl<A: Family> Tables<A> for Snapshot<A> {
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendVal> {
        self.content.frontends.get(key).copied()
    }

    fn service(&self, id: ServiceId) -> Option<Service> {
        self.content.services.get(&id).copied()
    }

    fn slot(&self, index: u32) -> Option<Slot<A>> {
        self.content.slots.get(&index).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend<A>> {
        self.content.backends.get(&id).copied()
    }

    fn is_node_addr(&self, addr: &A) -> bool {
        self.node_addrs.contains(addr)
    }

    fn source_allowed(&self, service: ServiceId, client: &A) -> bool {
        self.content
            .sources
            .iter()
            .any(|(range, bits)| range.service == service && in_prefix(client, &range.addr, *bits))
    }

    fn netns_addr(&self, cookie: u64) -> Option<A> {
        A::source(self.netns.get(&cookie)?)
    }

    fn is_node_port(&self, port: BePort) -> bool {
        self.config.is_node_port(port)
    }

    fn localhost(&self) -> bool {
        A::settings(&self.config).localhost()
    }

    fn service_range(&self, addr: &A) -> Option<u32> {
        A::settings(&self.config).ranges().find(addr)
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityVal> {
        let found = self.affinity.iter().find(|(pinned, _)| pinned == key);
        found.map(|(_, val)| *val)
    }

    /// A look at the data plane pins nobody.
    fn pin(&self, _: &AffinityKey, _: &AffinityVal) {}

    /// Nor does it take a turn.
    fn turn(&self, id: ServiceId) -> u32 {
        let cursor = self.service(id).map_or(0, |service| service.cursor);
        u32::try_from(cursor & u64::from(u32::MAX)).unwrap_or_default()
    }
}

/// Do the first `bits` of both agree?
fn in_prefix<A: Family>(addr: &A, range: &A, bits: u32) -> bool {
    let number = |addr: &A| {
        let [high, low] = addr.words();
        u128::from(high) << 64 | u128::from(low)
    };
    let rest = A::BITS.saturating_sub(bits);
    let (a, b) = (number(addr), number(range));
    a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use lb_common::net::{Addr4, Addr6};

    use super::*;

    #[test]
    fn prefixes_compare_as_the_kernel_compares() {
        let v4 = |a: [u8; 4]| Addr4::from(Ipv4Addr::from(a));
        let v6 = |a: &str| Addr6::from(a.parse::<Ipv6Addr>().expect("an address"));
        assert!(in_prefix(&v4([10, 1, 2, 3]), &v4([10, 0, 0, 0]), 8));
        assert!(!in_prefix(&v4([11, 1, 2, 3]), &v4([10, 0, 0, 0]), 8));
        assert!(in_prefix(&v4([11, 1, 2, 3]), &v4([0, 0, 0, 0]), 0));
        assert!(in_prefix(&v4([1, 2, 3, 4]), &v4([1, 2, 3, 4]), 32));
        assert!(in_prefix(&v6("fd00::1"), &v6("fd00::"), 64));
        assert!(!in_prefix(&v6("fd00:0:0:1::1"), &v6("fd00::"), 64));
        assert!(in_prefix(&v6("fd00::1"), &v6("::"), 0));
    }
}
