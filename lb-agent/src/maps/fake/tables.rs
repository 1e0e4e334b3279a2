//! Decisions over maps in memory, as the programs make them over the kernel's.

use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    frontend::{FrontendKey, FrontendVal},
    id::{BackendId, ServiceId},
    net::{Address, BePort},
    service::{Backend, Service, Slot},
    source::SourceKey,
    tables::Tables,
};

use super::FakeMaps;
use crate::maps::family::Family;

impl<A: Family> Tables<A> for FakeMaps<A> {
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendVal> {
        self.content.frontends.get(key).copied()
    }

    fn service(&self, id: ServiceId) -> Option<Service> {
        self.content.services.get(&id).copied()
    }

    fn slot(&self, index: u32) -> Option<Slot<A>> {
        self.slots.get(&index).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend<A>> {
        self.content.backends.get(&id).copied()
    }

    fn is_node_addr(&self, addr: &A) -> bool {
        self.node_addrs.contains(addr)
    }

    fn source_allowed(&self, service: ServiceId, client: &A) -> bool {
        let holds = |(key, bits): &(SourceKey<A>, u32)| {
            let shift = A::BITS - bits;
            let cut = |addr: A| number(&addr).checked_shr(shift).unwrap_or(0);
            key.service == service && cut(key.addr) == cut(*client)
        };
        self.content.sources.iter().any(holds)
    }

    fn netns_addr(&self, cookie: u64) -> Option<A> {
        self.netns.get(&cookie).copied()
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
        self.affinity.borrow().get(&pin_key(key)).copied()
    }

    fn pin(&self, key: &AffinityKey, val: &AffinityVal) {
        self.affinity.borrow_mut().insert(pin_key(key), *val);
    }

    fn turn(&self, _: ServiceId) -> u32 {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }
}

fn pin_key(key: &AffinityKey) -> (u128, ServiceId) {
    (number(&key.client), key.service)
}

fn number<A: Address>(addr: &A) -> u128 {
    let [high, low] = addr.words();
    u128::from(high) << 64 | u128::from(low)
}
