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
    net::{BePort, Proto},
    service::{Backend, BackendFlags},
};

use super::{
    Conflict, Family, Plan, PlanError, PortImage, PortKey, Refused,
    claims::Claims,
    ids::{Extents, Pool},
    mirror::{Mirror, Port},
    outcome::{Fill, Phases, full},
};
use crate::{
    maps::{Capacities, Op},
    model::ObjectKey,
};

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
    pub(super) unsettled: BTreeSet<FrontendKey<A>>,
    /// An address went from one service to another, and readers may still use the old one.
    pub(super) handed_over: bool,
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
            handed_over: false,
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
        let mut plan = Plan::default();
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
        let gone = known.iter().filter(|key| !desired.contains_key(key));
        for key in gone {
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

    /// Every reader that ran when the last ops were applied has ended: what rests is free again.
    /// Call it right after [`crate::maps::LbMaps::wait_for_readers`].
    pub fn release_after_grace(&mut self) {
        self.service_ids.release();
        self.backend_ids.release();
        self.slots.release();
        self.handed_over = false;
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

    /// Does the op take serving away from a backend of a UDP port (rule 89)?
    pub fn loses_udp(&self, op: &Op<A>) -> bool {
        let Op::PutBackend(id, new) = op else {
            return false;
        };
        let Some(old) = self.mirror.backends.get(id) else {
            return false;
        };
        let is_udp = (self.by_id.get(&old.service)).is_some_and(|port| port.proto == Proto::UDP);
        let serving = BackendFlags::SERVING;
        is_udp && old.flags.has(serving) && !new.serves(old.service, old.generation, serving)
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

    /// Decides every touched address anew: the first claimant that can answer does.
    pub(super) fn plan_frontends(
        &mut self,
        touched: &BTreeSet<FrontendKey<A>>,
        good: &BTreeSet<&PortKey>,
        phases: &mut Phases<A>,
        plan: &mut Plan<A>,
    ) {
        let capacity = self.capacities.frontends;
        phases.hands_over |= self.handed_over;
        let mut room = (capacity as usize).saturating_sub(self.mirror.frontends.len());
        let (addresses, ports): (Vec<_>, Vec<_>) =
            touched.iter().partition(|key| key.is_any_port());
        // A reader who finds an address as such looks for the port once more.
        for key in ports.into_iter().chain(addresses) {
            let held = self.mirror.frontends.get(key).copied();
            let Some((port, val)) = self.answer(key, held, good) else {
                if held.is_some() {
                    phases.hands_over |= self.mirror.is_foreign(&key.vip);
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
                phases.hands_over |= is_handover(held, &val);
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
            if wanted.kind == Kind::FOREIGN {
                return Some((claimant.clone(), *wanted));
            }
            let wanted = self.owned_by(claimant, *wanted);
            let port = self.ports.get(claimant)?;
            let is_built = port.build_left == 0 && self.mirror.services.contains_key(&port.id);
            if good.contains(claimant) || is_built {
                return Some((claimant.clone(), wanted));
            }
            let is_own =
                |held: &FrontendVal| held.service == wanted.service && held.kind != Kind::FOREIGN;
            let kept = held.filter(is_own)?;
            Some((claimant.clone(), kept))
        };
        self.claims.claimants(key).find_map(answers)
    }

    /// A claim's value with the claimant's id in it; an address as such belongs to nobody.
    fn owned_by(&self, port: &PortKey, mut val: FrontendVal) -> FrontendVal {
        if !val.kind.is_any_port() {
            val.service = self.service_id(port).unwrap_or(ServiceId::NONE);
        }
        val
    }

    /// A port that nobody wants any more.
    pub(super) fn plan_retirement(
        &mut self,
        key: &PortKey,
        touched: &mut BTreeSet<FrontendKey<A>>,
    ) -> Phases<A> {
        (self.claims).replace(key, 0, &BTreeMap::new(), touched);
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
        let mut free = no_backend(generation);
        if let Some(backend) = self.mirror.backends.get(&id) {
            // Address and port stay, so that a reader of before sees a whole backend or a free one: an
            // element is written word by word.
            (free.addr, free.port) = (backend.addr, backend.port);
        }
        Op::PutBackend(id, free)
    }
}

/// Does an address go on under `val`, for those who did not find `held`?
pub(super) fn is_handover(held: Option<FrontendVal>, val: &FrontendVal) -> bool {
    val.kind == Kind::FOREIGN || held.is_some_and(|held| held.service != val.service)
}

/// A free backend id keeps its generation.
pub(super) fn no_backend<A: Family>(generation: u16) -> Backend<A> {
    Backend {
        addr: A::UNSPECIFIED,
        port: BePort::new(0),
        generation,
        service: ServiceId::NONE,
        flags: BackendFlags::default(),
    }
}
