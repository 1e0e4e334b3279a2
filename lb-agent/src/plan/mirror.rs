//! What the kernel holds, as far as the ops that succeeded tell.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    frontend::{FrontendKey, FrontendVal, Kind},
    id::{BackendId, ServiceId},
    name::ServiceName,
    net::BePort,
    service::{Backend, Service, Slot},
    source::SourceKey,
};

use super::{Family, ids::Extent};

/// The content of one family's maps. Slots are kept as the runs that were written together.
#[derive(Clone, Debug)]
pub(super) struct Mirror<A: Family> {
    pub(super) frontends: BTreeMap<FrontendKey<A>, FrontendVal>,
    /// The cursor is the programs' own and always 0 here.
    pub(super) services: BTreeMap<ServiceId, Service>,
    pub(super) names: BTreeMap<ServiceId, ServiceName>,
    pub(super) backends: BTreeMap<BackendId, Backend<A>>,
    pub(super) sources: BTreeSet<(SourceKey<A>, u32)>,
    /// Runs of slots by their base, published or about to be.
    pub(super) runs: BTreeMap<u32, Vec<Slot<A>>>,
    /// The last generation of every backend id that was ever given.
    pub(super) generations: BTreeMap<BackendId, u16>,
}

impl<A: Family> Mirror<A> {
    pub(super) fn new() -> Self {
        Self {
            frontends: BTreeMap::new(),
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            backends: BTreeMap::new(),
            sources: BTreeSet::new(),
            runs: BTreeMap::new(),
            generations: BTreeMap::new(),
        }
    }

    /// The source ranges of a service port.
    pub(super) fn sources_of(
        &self,
        service: ServiceId,
    ) -> impl Iterator<Item = &(SourceKey<A>, u32)> {
        let first = SourceKey {
            service,
            addr: A::UNSPECIFIED,
        };
        (self.sources.range((first, 0)..)).take_while(move |(key, _)| key.service == service)
    }

    /// Does the address as such belong to another proxy?
    pub(super) fn is_foreign(&self, vip: &A) -> bool {
        let whole = self.frontends.get(&FrontendKey::any_port(*vip));
        whole.is_some_and(|whole| whole.kind == Kind::FOREIGN)
    }

    /// The generation that a backend id gets with its next owner: never 0, never the last one.
    pub(super) fn next_generation(&self, id: BackendId) -> u16 {
        let last = self.generations.get(&id).copied().unwrap_or(0);
        last.wrapping_add(1).max(1)
    }
}

/// What is known of one service port beside its entries in the maps.
#[derive(Clone, Debug)]
pub(super) struct Port<A: Family> {
    pub(super) id: ServiceId,
    /// The backends that the kernel holds.
    pub(super) backends: BTreeMap<(A, BePort), BackendId>,
    /// The frontends that the kernel holds.
    pub(super) frontends: BTreeSet<FrontendKey<A>>,
    /// The slots that its published lists cover.
    pub(super) owned: Vec<Extent>,
    /// Given to it by a plan, but not known to be in use.
    pub(super) pending: Pending,
    /// How many ops that build it are planned and not known to have succeeded.
    pub(super) build_left: usize,
}

impl<A: Family> Port<A> {
    pub(super) fn new(id: ServiceId) -> Self {
        Self {
            id,
            backends: BTreeMap::new(),
            frontends: BTreeSet::new(),
            owned: Vec::new(),
            pending: Pending::default(),
            build_left: 0,
        }
    }
}

/// What a plan took and has not been seen to use: the next plan of the port takes it back.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    pub(super) backends: BTreeSet<BackendId>,
    pub(super) extents: Vec<Extent>,
}
