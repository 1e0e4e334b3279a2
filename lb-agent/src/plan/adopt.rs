//! After a restart: the maps are read, and ids, generations and slots come back by name and
//! address, so that unchanged objects need no op.
//!
//! What makes no sense is not trusted: it counts as held by the kernel, so that the next plan of
//! its Service, or [`Planner::sweep`], replaces or removes it.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    frontend::{FrontendKey, Kind},
    id::ServiceId,
    list::{List, ListRange},
    service::Slot,
};

use super::{
    Family, Plan, PlanError, Planner, PortKey,
    ids::{Extent, Pool},
    mirror::Port,
    outcome::Phases,
};
use crate::maps::{Capacities, Content, Op};

impl<A: Family> Planner<A> {
    /// Over maps that hold `content`. What the old agent freed last may still be in use: wait for
    /// readers ([`crate::maps::LbMaps::wait_for_readers`]) before the first op. Plan every Service
    /// next, then [`Planner::sweep`].
    pub fn adopt(capacities: Capacities, content: Content<A>) -> Self {
        let mut planner = Self::new(capacities);
        planner.adopt_ids(&content);
        planner.adopt_lists(&content);
        let Content {
            frontends,
            mut services,
            names,
            mut backends,
            slots: _,
            sources,
            generations,
        } = content;
        services.values_mut().for_each(|service| service.cursor = 0);
        backends.retain(|id, _| (1..capacities.backends).contains(&id.0));
        let mirror = &mut planner.mirror;
        mirror.generations = generations;
        let used = backends.iter().map(|(id, b)| (*id, b.generation));
        mirror.generations.extend(used);
        mirror.services = services;
        mirror.names = names;
        mirror.sources = sources;
        mirror.backends = backends;
        mirror.frontends = frontends;
        planner.index();
        planner
    }

    /// Removes what the adopted maps hold beside everything planned since: Services that are gone,
    /// and entries that belong to nobody. Call it when every Service has been planned, and again
    /// where one of its ops failed.
    ///
    /// # Errors
    /// As [`Planner::plan_service`]; none in practice, for nothing is allocated.
    pub fn sweep(&mut self) -> Result<Plan<A>, PlanError> {
        let mut touched = std::mem::take(&mut self.unsettled);
        let mut phases = Phases::new();
        // A sweep that fails half-way is repeated: what it removes is not forgotten before it is gone.
        let left = std::mem::take(&mut self.unplanned);
        for service in left {
            let ports = self.ports_of(&service);
            for key in &ports {
                self.settle(key);
                phases.append(self.plan_retirement(key, &mut touched));
            }
            if !ports.is_empty() {
                self.unplanned.insert(service);
            }
        }
        let mut plan = Plan::default();
        self.plan_frontends(&touched, &BTreeSet::new(), &mut phases, &mut plan);
        plan.ops = phases.in_order();
        plan.ops.extend(self.strays());
        Ok(plan)
    }

    /// Removal of every entry that no service port owns.
    fn strays(&self) -> Vec<Op<A>> {
        let mirror = &self.mirror;
        let is_known = |id: &ServiceId| self.by_id.contains_key(id);
        let mut phases = Phases::new();
        phases.hands_over = true;
        // Those of a known service are its plan's to keep or remove, and some are being removed already.
        let frontends = (mirror.frontends.iter()).filter(|(key, val)| {
            if val.kind.is_any_port() && !val.service.is_some() {
                !self.claims.has(key) && !self.unsettled.contains(key)
            } else {
                !is_known(&val.service)
            }
        });
        (phases.unanswer).extend(frontends.map(|(key, _)| Op::DelFrontend(*key)));
        let sources = (mirror.sources.iter()).filter(|(key, _)| !is_known(&key.service));
        (phases.free_sources).extend(sources.map(|(key, bits)| Op::DelSource(*key, *bits)));
        let services = mirror.services.keys().filter(|id| !is_known(id));
        (phases.free_services).extend(services.map(|id| Op::DelService(*id)));
        let backends = mirror.backends.iter().filter(|(id, backend)| {
            let owner = (self.by_id.get(&backend.service)).and_then(|key| self.ports.get(key));
            let place = (backend.addr, backend.port);
            owner.and_then(|port| port.backends.get(&place)) != Some(*id)
        });
        (phases.free_backends).extend(backends.map(|(id, _)| self.freed(*id)));
        let names = mirror.names.keys().filter(|id| !is_known(id));
        (phases.free_names).extend(names.map(|id| Op::DelName(*id)));
        phases.in_order()
    }

    /// Names give ids their owners. An id that anything refers to is not given to others, even
    /// where it has no name: what refers to it would be taken for the new owner's.
    fn adopt_ids(&mut self, content: &Content<A>) {
        let is_valid = |id: &ServiceId| (1..self.capacities.services).contains(&id.0);
        for (id, name) in content.names.iter().filter(|(id, _)| is_valid(id)) {
            let Some(key) = PortKey::of(name) else {
                continue;
            };
            if self.ports.contains_key(&key) {
                continue;
            }
            self.unplanned.insert(key.service.clone());
            self.ports.insert(key.clone(), Port::new(*id));
            self.by_id.insert(*id, key);
        }
        let referred = (content.names.keys().chain(content.services.keys()).copied())
            .chain(content.frontends.values().map(|val| val.service))
            .chain(content.backends.values().map(|backend| backend.service))
            .chain(content.sources.iter().map(|(key, _)| key.service));
        let used: BTreeSet<u32> = (referred.filter(is_valid)).map(|id| id.0).collect();
        self.service_ids = Pool::new(self.capacities.services, &used);
        let used: BTreeSet<u32> = (content.backends.keys().map(|id| id.0))
            .filter(|id| (1..self.capacities.backends).contains(id))
            .collect();
        self.backend_ids = Pool::new(self.capacities.backends, &used);
    }

    /// Lists that overlap nothing own their slots; those whose slots say what they should are kept.
    fn adopt_lists(&mut self, content: &Content<A>) {
        for (id, service) in &content.services {
            for list in [List::Cluster, List::Local] {
                let range = service.list(list);
                if !range.is_empty() {
                    self.adopt_list(*id, range, content);
                }
            }
        }
    }

    fn adopt_list(&mut self, id: ServiceId, range: ListRange, content: &Content<A>) {
        let extent = Extent {
            base: range.base(),
            len: range.len(),
        };
        let Some(port) = (self.by_id.get(&id)).and_then(|key| self.ports.get_mut(key)) else {
            return;
        };
        if !self.slots.reserve(extent) {
            return;
        }
        port.owned.push(extent);
        let is_sound = |slot: &Slot<A>| {
            let backend = content.backends.get(&slot.backend);
            slot.service == id && backend.is_some_and(|b| b.slot(slot.backend) == *slot)
        };
        let slots = (extent.base..extent.base + extent.len).map(|i| content.slots.get(&i).copied());
        let run: Option<Vec<Slot<A>>> = slots.map(|slot| slot.filter(is_sound)).collect();
        if let Some(run) = run {
            self.mirror.runs.insert(extent.base, run);
        }
    }

    /// Whose backends and frontends are whose. What a frontend serves counts as claimed, before
    /// all others, until its owner is planned: a restart moves no address.
    fn index(&mut self) {
        for (id, backend) in &self.mirror.backends {
            let owner = self.by_id.get(&backend.service);
            if let Some(port) = owner.and_then(|key| self.ports.get_mut(key)) {
                let place = (backend.addr, backend.port);
                port.backends.entry(place).or_insert(*id);
            }
        }
        for (key, val) in &self.mirror.frontends {
            let owner = self.by_id.get(&val.service);
            if let Some(port) = owner.and_then(|key| self.ports.get_mut(key)) {
                port.frontends.insert(*key);
            }
        }
        for (key, port) in &self.ports {
            let entry = |key| Some((key, *self.mirror.frontends.get(&key)?));
            let mut wanted: BTreeMap<_, _> =
                port.frontends.iter().copied().filter_map(entry).collect();
            // Whose a ClusterIP as such is, no entry says: whoever answers on a port of it.
            let as_such = (wanted
                .iter()
                .filter(|(_, val)| val.kind == Kind::CLUSTER_IP))
            .filter_map(|(key, _)| entry(FrontendKey::any_port(key.vip)))
            .filter(|(_, val)| val.kind == Kind::ANY_PORT);
            let as_such: Vec<_> = as_such.collect();
            wanted.extend(as_such);
            (self.claims).replace(key, i64::MIN, &wanted, &mut BTreeSet::new());
        }
    }
}
