//! What an op that succeeded means: the mirror, and who owns which id and slots, change here alone.

use lb_common::{
    frontend::{FrontendKey, FrontendVal},
    id::{BackendId, ServiceId},
    list::List,
    service::{Backend, Service},
};

use super::{Family, Planner, PortKey, ids::Extent, planner::is_handover};
use crate::maps::Op;

impl<A: Family> Planner<A> {
    /// Notes that an op has succeeded.
    pub fn note(&mut self, op: &Op<A>) {
        match op {
            Op::PutName(id, name) => {
                let old = self.mirror.names.insert(*id, *name);
                self.note_built(*id, old != Some(*name));
            }
            Op::DelName(id) => {
                let was_known = self.mirror.names.remove(id).is_some();
                self.retire_service_id(*id, was_known);
            }
            Op::PutSource(key, bits) => {
                let is_new = self.mirror.sources.insert((*key, *bits));
                self.note_built(key.service, is_new);
            }
            Op::DelSource(key, bits) => {
                self.mirror.sources.remove(&(*key, *bits));
            }
            Op::PutBackend(id, backend) => self.note_backend(*id, backend),
            Op::PutSlots(base, slots) => {
                let old = self.mirror.runs.insert(*base, slots.clone());
                if let Some(slot) = slots.first() {
                    self.note_built(slot.service, old.as_ref() != Some(slots));
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
                self.handed_over |= is_handover(self.disown_frontend(key), val);
                self.mirror.frontends.insert(*key, *val);
                if let Some(port) = self.port_mut(val.service) {
                    port.frontends.insert(*key);
                }
            }
            Op::DelFrontend(key) => {
                self.unsettled.remove(key);
                self.disown_frontend(key);
                self.handed_over |= self.mirror.is_foreign(&key.vip);
            }
            Op::AwaitReaders => self.handed_over = false,
        }
    }

    /// Takes back what an earlier plan of the port took and nobody has used.
    pub(super) fn settle(&mut self, key: &PortKey) {
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
        self.note_built(backend.service, old != Some(*backend));
    }

    /// One op less that builds the port; an op that only repeats what is there is none of a plan's.
    fn note_built(&mut self, id: ServiceId, is_change: bool) {
        if is_change && let Some(port) = self.port_mut(id) {
            port.build_left = port.build_left.saturating_sub(1);
        }
    }

    fn note_service(&mut self, id: ServiceId, service: &Service) {
        let service = Service {
            cursor: 0,
            ..*service
        };
        let old = self.mirror.services.insert(id, service);
        self.note_built(id, old != Some(service));
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

    fn disown_frontend(&mut self, key: &FrontendKey<A>) -> Option<FrontendVal> {
        let old = self.mirror.frontends.remove(key)?;
        if let Some(port) = self.port_mut(old.service) {
            port.frontends.remove(key);
        }
        Some(old)
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
