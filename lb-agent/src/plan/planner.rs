//! Ids, and what the kernel holds: turns desired ports into ops, one Service at a time.
//!
//! A plan changes nothing by itself. The caller applies its ops in order and calls
//! [`Planner::note`] after each that succeeded; it stops at the first that fails, and plans that
//! Service again, at once or after others. No plan is made while another is half applied and may
//! still go on.
//! Whatever a failed attempt left behind is either used by the next plan or taken back.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    frontend::{FrontendKey, FrontendVal, Kind},
    id::{BackendId, ServiceId},
    list::List,
    map_table,
    service::{Backend, Service},
};

use super::{
    Conflict, Family, PortImage, PortKey,
    claims::Claims,
    ids::{Extent, Extents, Pool},
    mirror::{Mirror, Port},
};
use crate::{
    maps::{Capacities, Op},
    model::ObjectKey,
};

/// Why a service port, or a part of it, cannot be planned.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// Only what still rests could be given: wait for readers
    /// ([`crate::maps::LbMaps::wait_for_readers`]), call [`Planner::release_after_grace`], and plan
    /// again.
    #[error(
        "ids and slots are free, but readers may still use them; wait for these and plan again"
    )]
    NeedsGrace,
    /// No room. As much as fits is planned.
    #[error("map {map} is full ({capacity} entries); raise {flag}")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        capacity: u32,
        /// The flag that raises it.
        flag: &'static str,
    },
    /// A name is longer than Kubernetes allows.
    #[error("service port {0} has a name longer than 63 bytes; shorten it")]
    Name(PortKey),
}

/// A service port that is not, or not wholly, as it should be after this plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Which one.
    pub port: PortKey,
    /// Why.
    pub error: PlanError,
}

/// What to do for one Service.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan<A: Family> {
    /// In this order.
    pub ops: Vec<Op<A>>,
    /// Conflicts that begin with it; [`Planner::conflicts`] has all.
    pub conflicts: Vec<Conflict<A>>,
    /// What did not fit. Plan again when something was freed.
    pub refused: Vec<Refused>,
}

/// How many entries are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "named after the maps")]
pub struct Fill {
    pub frontends: usize,
    pub services: usize,
    pub slots: usize,
    pub backends: usize,
    pub sources: usize,
}

/// The ops of a plan by phase, so that no reader meets a half-made service: what is pointed at is
/// written first and freed last.
#[derive(Debug)]
pub(super) struct Phases<A: Family> {
    /// Names, sources, backends, slots, then the service, port by port.
    pub(super) build: Vec<Op<A>>,
    pub(super) answer: Vec<Op<A>>,
    pub(super) unanswer: Vec<Op<A>>,
    pub(super) free_sources: Vec<Op<A>>,
    pub(super) free_services: Vec<Op<A>>,
    pub(super) free_backends: Vec<Op<A>>,
    pub(super) free_names: Vec<Op<A>>,
}

impl<A: Family> Phases<A> {
    pub(super) fn new() -> Self {
        Self {
            build: Vec::new(),
            answer: Vec::new(),
            unanswer: Vec::new(),
            free_sources: Vec::new(),
            free_services: Vec::new(),
            free_backends: Vec::new(),
            free_names: Vec::new(),
        }
    }

    pub(super) fn append(&mut self, mut later: Self) {
        for (all, more) in self.lists().into_iter().zip(later.lists()) {
            all.append(more);
        }
    }

    pub(super) fn in_order(mut self) -> Vec<Op<A>> {
        let mut ops = Vec::new();
        for list in self.lists() {
            ops.append(list);
        }
        ops
    }

    fn lists(&mut self) -> [&mut Vec<Op<A>>; 7] {
        [
            &mut self.build,
            &mut self.answer,
            &mut self.unanswer,
            &mut self.free_sources,
            &mut self.free_services,
            &mut self.free_backends,
            &mut self.free_names,
        ]
    }
}

/// Owns the ids of one family and knows what its maps hold.
#[derive(Clone, Debug)]
pub struct Planner<A: Family> {
    pub(super) capacities: Capacities,
    pub(super) mirror: Mirror<A>,
    pub(super) ports: BTreeMap<PortKey, Port<A>>,
    pub(super) by_id: BTreeMap<ServiceId, PortKey>,
    pub(super) claims: Claims<A>,
    pub(super) service_ids: Pool,
    pub(super) backend_ids: Pool,
    pub(super) slots: Extents,
    /// Adopted Services that nobody has planned since.
    pub(super) unplanned: BTreeSet<ObjectKey>,
    /// Frontends that a plan changes, until that is known to have succeeded.
    unsettled: BTreeSet<FrontendKey<A>>,
}

impl<A: Family> Planner<A> {
    /// Over empty maps.
    pub fn new(capacities: Capacities) -> Self {
        Self {
            mirror: Mirror::new(),
            ports: BTreeMap::new(),
            by_id: BTreeMap::new(),
            claims: Claims::new(),
            service_ids: Pool::new(capacities.services, &BTreeSet::new()),
            backend_ids: Pool::new(capacities.backends, &BTreeSet::new()),
            slots: Extents::new(capacities.slots),
            unplanned: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            capacities,
        }
    }

    /// What it takes to make the ports of `service` as `desired`; an empty map takes all of it
    /// away. Zero ops where nothing has changed.
    ///
    /// The ops may concern other Services, too: where this one gives an address up, the next
    /// claimant answers in the same plan.
    ///
    /// # Errors
    /// [`PlanError::NeedsGrace`] alone; nothing has changed then.
    pub fn plan_service(
        &mut self,
        service: &ObjectKey,
        desired: &BTreeMap<PortKey, PortImage<A>>,
    ) -> Result<Plan<A>, PlanError> {
        let known = self.ports_of(service);
        for key in &known {
            self.settle(key);
        }
        let mut plan = Plan {
            ops: Vec::new(),
            conflicts: Vec::new(),
            refused: Vec::new(),
        };
        let mut phases = Phases::new();
        let mut good = BTreeSet::new();
        for (key, image) in desired {
            match self.plan_port(key, image, &mut plan.refused) {
                Ok(port_phases) => {
                    if let Some(port) = self.ports.get_mut(key) {
                        port.build_left = port_phases.build.len();
                    }
                    phases.append(port_phases);
                    good.insert(key);
                }
                Err(PlanError::NeedsGrace) => return Err(PlanError::NeedsGrace),
                Err(error) => plan.refused.push(Refused {
                    port: key.clone(),
                    error,
                }),
            }
        }
        self.unplanned.remove(service);
        let mut touched = std::mem::take(&mut self.unsettled);
        for key in good.iter().copied() {
            let image = &desired[key];
            (self.claims).replace(key, image.created_s, &image.frontends, &mut touched);
            if let Some(port) = self.ports.get(key) {
                touched.extend(&port.frontends);
            }
        }
        for key in known.iter().filter(|key| !desired.contains_key(key)) {
            (self.claims).replace(key, 0, &BTreeMap::new(), &mut touched);
            phases.append(self.plan_retirement(key, &mut touched));
        }
        self.plan_frontends(&touched, &good, &mut phases, &mut plan);
        plan.ops = phases.in_order();
        Ok(plan)
    }

    /// Takes all of a Service away.
    ///
    /// # Errors
    /// None in practice: nothing is allocated.
    pub fn forget(&mut self, service: &ObjectKey) -> Result<Plan<A>, PlanError> {
        self.plan_service(service, &BTreeMap::new())
    }

    /// Notes that an op has succeeded.
    pub fn note(&mut self, op: &Op<A>) {
        match op {
            Op::PutName(id, name) => {
                self.mirror.names.insert(*id, *name);
                self.note_built(*id);
            }
            Op::DelName(id) => {
                let was_known = self.mirror.names.remove(id).is_some();
                self.retire_service_id(*id, was_known);
            }
            Op::PutSource(key, bits) => {
                self.mirror.sources.insert((*key, *bits));
                self.note_built(key.service);
            }
            Op::DelSource(key, bits) => {
                self.mirror.sources.remove(&(*key, *bits));
            }
            Op::PutBackend(id, backend) => self.note_backend(*id, backend),
            Op::PutSlots(base, slots) => {
                self.mirror.runs.insert(*base, slots.clone());
                if let Some(slot) = slots.first() {
                    self.note_built(slot.service);
                }
            }
            Op::PutService(id, service) => self.note_service(*id, service),
            Op::DelService(id) => {
                let was_known = self.mirror.services.remove(id).is_some();
                self.own(*id, Vec::new());
                if !self.by_id.contains_key(id) && !self.mirror.names.contains_key(id) {
                    self.retire_service_id(*id, was_known);
                }
            }
            Op::PutFrontend(key, val) => {
                self.unsettled.remove(key);
                self.disown_frontend(key);
                self.mirror.frontends.insert(*key, *val);
                if let Some(port) = self.port_mut(val.service) {
                    port.frontends.insert(*key);
                }
            }
            Op::DelFrontend(key) => {
                self.unsettled.remove(key);
                self.disown_frontend(key);
            }
        }
    }

    /// Every reader that ran when the last ops were applied has ended: what rests is free again.
    /// Call it right after [`crate::maps::LbMaps::wait_for_readers`].
    pub fn release_after_grace(&mut self) {
        self.service_ids.release();
        self.backend_ids.release();
        self.slots.release();
    }

    /// Every conflict that stands.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict<A>> {
        self.claims.conflicts()
    }

    /// The id of a service port, once it was given one.
    pub fn service_id(&self, port: &PortKey) -> Option<ServiceId> {
        self.ports.get(port).map(|port| port.id)
    }

    /// The service port behind an id.
    pub fn port_of(&self, id: ServiceId) -> Option<&PortKey> {
        self.by_id.get(&id)
    }

    /// How full the maps are.
    pub fn fill(&self) -> Fill {
        Fill {
            frontends: self.mirror.frontends.len(),
            services: self.mirror.services.len(),
            slots: self.mirror.runs.values().map(Vec::len).sum(),
            backends: self.mirror.backends.len(),
            sources: self.mirror.sources.len(),
        }
    }

    pub(super) fn ports_of(&self, service: &ObjectKey) -> Vec<PortKey> {
        let first = PortKey::first_of(service);
        (self.ports.range(first..).map(|(key, _)| key))
            .take_while(|key| key.service == *service)
            .cloned()
            .collect()
    }

    pub(super) fn port_mut(&mut self, id: ServiceId) -> Option<&mut Port<A>> {
        self.ports.get_mut(self.by_id.get(&id)?)
    }

    /// Takes back what an earlier plan of the port took and nobody has used.
    fn settle(&mut self, key: &PortKey) {
        let Some(port) = self.ports.get_mut(key) else {
            return;
        };
        let pending = std::mem::take(&mut port.pending);
        for id in pending.backends {
            self.backend_ids.give_back(id.0);
        }
        for extent in pending.extents {
            self.mirror.runs.remove(&extent.base);
            self.slots.give_back(extent);
        }
    }

    /// Decides every touched address anew: the first claimant that can answer does.
    fn plan_frontends(
        &mut self,
        touched: &BTreeSet<FrontendKey<A>>,
        good: &BTreeSet<&PortKey>,
        phases: &mut Phases<A>,
        plan: &mut Plan<A>,
    ) {
        let capacity = self.capacities.frontends;
        let mut room = (capacity as usize).saturating_sub(self.mirror.frontends.len());
        for key in touched {
            let held = self.mirror.frontends.get(key).copied();
            let Some((port, val)) = self.answer(key, held, good) else {
                if held.is_some() {
                    phases.unanswer.push(Op::DelFrontend(*key));
                    self.unsettled.insert(*key);
                }
                self.claims.judge(key, None);
                continue;
            };
            if held.is_none() && room == 0 {
                plan.refused.push(Refused {
                    port,
                    error: full(A::MAPS.frontends, capacity),
                });
                continue;
            }
            if held != Some(val) {
                room -= usize::from(held.is_none());
                phases.answer.push(Op::PutFrontend(*key, val));
                self.unsettled.insert(*key);
            }
            plan.conflicts.extend(self.claims.judge(key, Some(&port)));
        }
    }

    /// Who answers on `key`, and how. A claimant whose lists are in the maps, or will be by then,
    /// answers as it wants to; one that is half built only keeps what it holds already.
    fn answer(
        &self,
        key: &FrontendKey<A>,
        held: Option<FrontendVal>,
        good: &BTreeSet<&PortKey>,
    ) -> Option<(PortKey, FrontendVal)> {
        let answers = |(claimant, wanted): (&PortKey, &FrontendVal)| {
            let wanted = self.owned_by(claimant, *wanted);
            let port = self.ports.get(claimant)?;
            let is_built = port.build_left == 0 && self.mirror.services.contains_key(&port.id);
            if good.contains(claimant) || is_built {
                return Some((claimant.clone(), wanted));
            }
            let kept = held.filter(|held| held.service == wanted.service)?;
            Some((claimant.clone(), kept))
        };
        self.claims.claimants(key).find_map(answers)
    }

    /// A claim's value with the claimant's id in it; a ClusterIP as such belongs to nobody.
    fn owned_by(&self, port: &PortKey, mut val: FrontendVal) -> FrontendVal {
        if val.kind != Kind::ANY_PORT {
            val.service = self.service_id(port).unwrap_or(ServiceId::NONE);
        }
        val
    }

    /// A port that nobody wants any more.
    fn plan_retirement(
        &mut self,
        key: &PortKey,
        touched: &mut BTreeSet<FrontendKey<A>>,
    ) -> Phases<A> {
        let mut phases = Phases::new();
        let Some(port) = self.ports.get(key) else {
            return phases;
        };
        let id = port.id;
        touched.extend(&port.frontends);
        let sources = self.mirror.sources_of(id);
        (phases.free_sources).extend(sources.map(|(key, bits)| Op::DelSource(*key, *bits)));
        if self.mirror.services.contains_key(&id) {
            phases.free_services.push(Op::DelService(id));
        }
        let backends = port.backends.values();
        (phases.free_backends).extend(backends.map(|id| self.freed(*id)));
        if self.mirror.names.contains_key(&id) {
            phases.free_names.push(Op::DelName(id));
        } else {
            // The name comes first: nothing of it was ever written.
            self.ports.remove(key);
            self.by_id.remove(&id);
            self.service_ids.give_back(id.0);
        }
        phases
    }

    /// The op that frees a backend id.
    pub(super) fn freed(&self, id: BackendId) -> Op<A> {
        let generation = self.mirror.generations.get(&id).copied().unwrap_or(0);
        Op::PutBackend(id, no_backend(generation))
    }

    fn note_backend(&mut self, id: BackendId, backend: &Backend<A>) {
        let old = self.mirror.backends.get(&id).copied();
        if let Some(old) = old
            && (old.service, old.addr, old.port) != (backend.service, backend.addr, backend.port)
            && let Some(port) = self.port_mut(old.service)
            && port.backends.get(&(old.addr, old.port)) == Some(&id)
        {
            port.backends.remove(&(old.addr, old.port));
        }
        self.mirror.generations.insert(id, backend.generation);
        if !backend.service.is_some() {
            if self.mirror.backends.remove(&id).is_some() {
                self.backend_ids.retire(id.0);
            }
            return;
        }
        self.mirror.backends.insert(id, *backend);
        if let Some(port) = self.port_mut(backend.service) {
            port.backends.insert((backend.addr, backend.port), id);
            port.pending.backends.remove(&id);
        }
        self.note_built(backend.service);
    }

    /// One op less that builds the port.
    fn note_built(&mut self, id: ServiceId) {
        if let Some(port) = self.port_mut(id) {
            port.build_left = port.build_left.saturating_sub(1);
        }
    }

    fn note_service(&mut self, id: ServiceId, service: &Service) {
        let service = Service {
            cursor: 0,
            ..*service
        };
        self.mirror.services.insert(id, service);
        self.note_built(id);
        let lists = [List::Cluster, List::Local].map(|list| service.list(list));
        let covered = (lists.iter().filter(|list| !list.is_empty()))
            .map(|list| Extent {
                base: list.base(),
                len: list.len(),
            })
            .collect();
        self.own(id, covered);
    }

    /// The lists of a service cover these slots and no others from here on.
    fn own(&mut self, id: ServiceId, covered: Vec<Extent>) {
        let Some(port) = self.port_mut(id) else {
            return;
        };
        let known: Vec<Extent> = (covered.iter().copied())
            .filter(|e| port.owned.contains(e) || port.pending.extents.contains(e))
            .collect();
        port.pending.extents.retain(|e| !known.contains(e));
        let old = std::mem::replace(&mut port.owned, known.clone());
        for extent in old.into_iter().filter(|e| !known.contains(e)) {
            self.mirror.runs.remove(&extent.base);
            self.slots.retire(extent);
        }
    }

    fn disown_frontend(&mut self, key: &FrontendKey<A>) {
        let Some(old) = self.mirror.frontends.remove(key) else {
            return;
        };
        if let Some(port) = self.port_mut(old.service) {
            port.frontends.remove(key);
        }
    }

    /// The name of a service went, and with it all that was known of it.
    fn retire_service_id(&mut self, id: ServiceId, was_known: bool) {
        if let Some(key) = self.by_id.get(&id).cloned() {
            self.settle(&key);
            self.ports.remove(&key);
            self.by_id.remove(&id);
        }
        if was_known {
            self.service_ids.retire(id.0);
        }
    }
}

/// A free backend id keeps its generation.
pub(super) fn no_backend<A: Family>(generation: u16) -> Backend<A> {
    Backend {
        addr: A::UNSPECIFIED,
        port: lb_common::net::BePort::new(0),
        generation,
        service: ServiceId::NONE,
        flags: lb_common::service::BackendFlags::default(),
    }
}

/// No room in a map.
pub(super) fn full(map: &'static str, capacity: u32) -> PlanError {
    let flag = map_table::find(map).and_then(|spec| spec.capacity.flag());
    PlanError::Full {
        map,
        capacity,
        flag: flag.unwrap_or("its size"),
    }
}
