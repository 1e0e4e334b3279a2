//! One service port: what it takes to make its entries as they should be.

use std::collections::BTreeMap;

use lb_common::{
    id::{BackendId, ServiceId},
    list::{List, ListRange},
    net::BePort,
    service::{Backend, BackendFlags, Service, Slot},
    source::SourceKey,
};

use super::{
    Family, PlanError, Planner, PortImage, PortKey, Refused,
    ids::{Extent, Pool},
    mirror::{Mirror, Port},
    outcome::{Phases, full},
};
use crate::maps::Op;

impl<A: Family> Planner<A> {
    /// Everything of a port but its frontends. What did not fit is added to `refused`, and the
    /// rest is planned; an error means that nothing of the port is.
    pub(super) fn plan_port(
        &mut self,
        key: &PortKey,
        image: &PortImage<A>,
        refused: &mut Vec<Refused>,
    ) -> Result<Phases<A>, PlanError> {
        let name = key.name().ok_or_else(|| PlanError::Name(key.clone()))?;
        let id = self.id_for(key)?;
        let mut phases = Phases::new();
        let mut refuse = |error: Option<PlanError>| {
            refused.extend(error.map(|error| Refused {
                port: key.clone(),
                error,
            }));
        };
        if self.mirror.names.get(&id) != Some(&name) {
            phases.build.push(Op::PutName(id, name));
        }
        refuse(self.plan_sources(id, image, &mut phases));
        let (placed, error) = self.plan_backends(key, image, &mut phases)?;
        refuse(error);
        let (cluster, error) = self.plan_list(key, List::Cluster, image, &placed, &mut phases)?;
        refuse(error);
        let (local, error) = self.plan_list(key, List::Local, image, &placed, &mut phases)?;
        refuse(error);
        let has_sources = !image.sources.is_empty();
        let service = Service {
            cluster,
            local,
            affinity_timeout_s: image.affinity_timeout_s,
            algorithm: image.algorithm,
            flags: Service::IN_USE | if has_sources { Service::HAS_SOURCES } else { 0 },
            pad: 0,
            cursor: 0,
        };
        if self.mirror.services.get(&id) != Some(&service) {
            phases.build.push(Op::PutService(id, service));
        }
        Ok(phases)
    }

    fn id_for(&mut self, key: &PortKey) -> Result<ServiceId, PlanError> {
        if let Some(port) = self.ports.get(key) {
            return Ok(port.id);
        }
        let id = take(&mut self.service_ids)?
            .ok_or_else(|| full(A::MAPS.services, self.capacities.services))?;
        let id = ServiceId(id);
        self.ports.insert(key.clone(), Port::new(id));
        self.by_id.insert(id, key.clone());
        Ok(id)
    }

    /// Ranges that do not fit are left out, which lets fewer clients in.
    fn plan_sources(
        &self,
        service: ServiceId,
        image: &PortImage<A>,
        phases: &mut Phases<A>,
    ) -> Option<PlanError> {
        let held = &self.mirror.sources;
        let mut room = (self.capacities.sources as usize).saturating_sub(held.len());
        let mut error = None;
        for (addr, bits) in &image.sources {
            let key = SourceKey {
                service,
                addr: *addr,
            };
            if held.contains(&(key, *bits)) {
                continue;
            }
            if room == 0 {
                error = Some(full(A::MAPS.sources, self.capacities.sources));
                break;
            }
            room -= 1;
            phases.build.push(Op::PutSource(key, *bits));
        }
        let gone = (self.mirror.sources_of(service))
            .filter(|(key, bits)| !image.sources.contains(&(key.addr, *bits)));
        (phases.free_sources).extend(gone.map(|(key, bits)| Op::DelSource(*key, *bits)));
        error
    }

    /// Gives every endpoint its slot form. Endpoints in use come first, so that where ids run out
    /// those that carry no traffic go without.
    fn plan_backends(
        &mut self,
        key: &PortKey,
        image: &PortImage<A>,
        phases: &mut Phases<A>,
    ) -> Result<Placed<A>, PlanError> {
        let mut placed = BTreeMap::new();
        let mut error = None;
        let Some(port) = self.ports.get_mut(key) else {
            return Ok((placed, error));
        };
        let in_use = |flags: &BackendFlags| {
            flags.has(BackendFlags::IN_CLUSTER) || flags.has(BackendFlags::IN_LOCAL)
        };
        for wanted in [true, false] {
            let endpoints = image.endpoints.iter();
            for (place, flags) in endpoints.filter(|(_, flags)| in_use(flags) == wanted) {
                let held = held(port, &self.mirror, place);
                let new = match held {
                    Some(held) => Some(held),
                    None => allot(port, &self.mirror, &mut self.backend_ids, *place)?,
                };
                let Some((id, backend)) = new else {
                    error = Some(full(A::MAPS.backends, self.capacities.backends));
                    continue;
                };
                let backend = Backend {
                    flags: *flags,
                    ..backend
                };
                if held != Some((id, backend)) {
                    phases.build.push(Op::PutBackend(id, backend));
                }
                placed.insert(*place, backend.slot(id));
            }
        }
        let gone = (port.backends.iter())
            .filter(|(place, _)| !image.endpoints.contains_key(place))
            .map(|(_, id)| *id);
        let gone: Vec<BackendId> = gone.collect();
        (phases.free_backends).extend(gone.into_iter().map(|id| self.freed(id)));
        Ok((placed, error))
    }

    /// A list: the published one where its slots are as they should be, else a new run. Where there
    /// is no run so long, the list is cut to the longest.
    fn plan_list(
        &mut self,
        key: &PortKey,
        list: List,
        image: &PortImage<A>,
        placed: &BTreeMap<(A, BePort), Slot<A>>,
        phases: &mut Phases<A>,
    ) -> Result<(ListRange, Option<PlanError>), PlanError> {
        let places = image.list(list);
        let mut slots: Vec<Slot<A>> =
            (places.iter().filter_map(|place| placed.get(place)).copied()).collect();
        if slots.is_empty() {
            return Ok((ListRange::empty(image.verdict), None));
        }
        if let Some(range) = self.published(key, list, &slots) {
            return Ok((range, None));
        }
        let wanted = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        if self.slots.longest() < wanted && self.slots.is_resting() {
            return Err(PlanError::NeedsGrace);
        }
        let error = || full(A::MAPS.slots, self.capacities.slots);
        let longest = self.slots.longest();
        if longest < wanted
            && let Some(range) = self.still_good(key, list, &slots)
            && range.len() >= longest
        {
            return Ok((range, Some(error())));
        }
        let taken = self.slots.take_up_to(wanted).ok_or_else(error)?;
        if let Some(port) = self.ports.get_mut(key) {
            port.pending.extents.push(taken);
        }
        let error = (taken.len < wanted).then(error);
        slots.truncate(taken.len as usize);
        phases.build.push(Op::PutSlots(taken.base, slots));
        Ok((ListRange::new(taken.base, taken.len), error))
    }

    /// The list that readers see, if it has exactly these slots.
    fn published(&self, key: &PortKey, list: List, slots: &[Slot<A>]) -> Option<ListRange> {
        let (range, run) = self.seen(key, list)?;
        (run == slots).then_some(range)
    }

    /// The list that readers see, if each of its slots is still wanted: better than a shorter one.
    fn still_good(&self, key: &PortKey, list: List, slots: &[Slot<A>]) -> Option<ListRange> {
        let (range, run) = self.seen(key, list)?;
        let wanted: BTreeMap<BackendId, &Slot<A>> =
            slots.iter().map(|slot| (slot.backend, slot)).collect();
        let is_wanted = |slot: &Slot<A>| wanted.get(&slot.backend) == Some(&slot);
        run.iter().all(is_wanted).then_some(range)
    }

    /// The list that readers see, and its slots.
    fn seen(&self, key: &PortKey, list: List) -> Option<(ListRange, &[Slot<A>])> {
        let port = self.ports.get(key)?;
        let range = self.mirror.services.get(&port.id)?.list(list);
        let extent = Extent {
            base: range.base(),
            len: range.len(),
        };
        let run = self.mirror.runs.get(&extent.base)?;
        (port.owned.contains(&extent)).then_some((range, run.as_slice()))
    }
}

/// The slots of endpoints by place, and what was wrong where some are missing.
type Placed<A> = (BTreeMap<(A, BePort), Slot<A>>, Option<PlanError>);

/// The backend that the kernel holds for an endpoint.
fn held<A: Family>(
    port: &Port<A>,
    mirror: &Mirror<A>,
    place: &(A, BePort),
) -> Option<(BackendId, Backend<A>)> {
    let id = port.backends.get(place)?;
    Some((*id, *mirror.backends.get(id)?))
}

/// A new backend for an endpoint, without flags; `None`: there is no id for it.
fn allot<A: Family>(
    owner: &mut Port<A>,
    mirror: &Mirror<A>,
    ids: &mut Pool,
    (addr, port): (A, BePort),
) -> Result<Option<(BackendId, Backend<A>)>, PlanError> {
    let Some(id) = take(ids)?.map(BackendId) else {
        return Ok(None);
    };
    owner.pending.backends.insert(id);
    let backend = Backend {
        addr,
        port,
        generation: mirror.next_generation(id),
        service: owner.id,
        flags: BackendFlags::default(),
    };
    Ok(Some((id, backend)))
}

/// An id, unless none is free; one that only rests must be waited for.
fn take(pool: &mut Pool) -> Result<Option<u32>, PlanError> {
    match pool.take() {
        Some(id) => Ok(Some(id)),
        None if pool.is_resting() => Err(PlanError::NeedsGrace),
        None => Ok(None),
    }
}
