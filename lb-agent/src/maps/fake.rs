//! The maps in memory: what tests plan against. Refuses what the kernel would refuse, and notes
//! every moment at which a reader in the kernel would have met something half-made.

mod tables;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use lb_common::{
    config::Config,
    frontend::{FrontendKey, FrontendVal, Kind},
    id::{BackendId, ServiceId},
    list::{List, ListRange},
    map_table,
    service::{Backend, BackendFlags, Service, Slot},
};

use super::{Capacities, Content, LbMaps, MapError, Op, family::Family};

/// Maps of one family in memory.
#[derive(Clone, Debug)]
pub struct FakeMaps<A: Family> {
    capacities: Capacities,
    content: Content<A>,
    /// Every slot ever written, covered or not.
    slots: BTreeMap<u32, Slot<A>>,
    /// What readers of before the last grace period may still use.
    resting: Resting,
    violations: Vec<String>,
    ops: u64,
    /// `LB*_NODE_ADDRS`
    pub node_addrs: BTreeSet<A>,
    /// `LB_NETNS`
    pub netns: BTreeMap<u64, A>,
    /// `LB_CONFIG`
    pub config: Config,
    affinity: RefCell<BTreeMap<(u128, ServiceId), lb_common::affinity::AffinityVal>>,
    turn: Cell<u32>,
}

#[derive(Clone, Debug, Default)]
struct Resting {
    slots: BTreeSet<u32>,
    backends: BTreeSet<BackendId>,
    services: BTreeSet<ServiceId>,
    /// Readers may have found them behind an address that now is somebody else's.
    handed_over: BTreeSet<ServiceId>,
}

impl<A: Family> FakeMaps<A> {
    /// Empty maps.
    pub fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            content: empty(),
            slots: BTreeMap::new(),
            resting: Resting::default(),
            violations: Vec::new(),
            ops: 0,
            node_addrs: BTreeSet::new(),
            netns: BTreeMap::new(),
            config: Config::default(),
            affinity: RefCell::default(),
            turn: Cell::new(0),
        }
    }

    /// What a reader could have met that it should not have; empty after good plans.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// How many ops succeeded.
    pub fn ops(&self) -> u64 {
        self.ops
    }

    /// Another hand in the maps: changes them behind the planner's back, without any check.
    pub fn meddle(&mut self, change: impl FnOnce(&mut Content<A>)) {
        let mut content = self.content();
        change(&mut content);
        self.slots.extend(std::mem::take(&mut content.slots));
        self.content = content;
    }

    fn content(&self) -> Content<A> {
        let lists = (self.content.services.values()).flat_map(|s| [s.cluster, s.local]);
        let covered = lists.flat_map(indices);
        Content {
            slots: covered
                .filter_map(|i| Some((i, *self.slots.get(&i)?)))
                .collect(),
            ..self.content.clone()
        }
    }

    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violation(what());
        }
    }

    fn put_backend(&mut self, id: BackendId, new: Backend<A>) {
        let old = self.content.backends.get(&id).copied();
        let last = old.map(|b| b.generation);
        let last = last.or_else(|| self.content.generations.get(&id).copied());
        if !new.service.is_some() {
            if let Some(old) = old {
                let list = |list| self.list_of(old.service, list);
                let mut listed = [List::Cluster, List::Local].into_iter().flat_map(list);
                let is_listed = listed.any(|slot| slot.backend == id);
                self.expect(!is_listed, || {
                    format!("{id:?} is freed while a list has it")
                });
                self.resting.backends.insert(id);
            }
            self.content.backends.remove(&id);
            self.content.generations.insert(id, new.generation);
            return;
        }
        match old {
            Some(old) => self.expect(
                (old.addr, old.port, old.service, old.generation)
                    == (new.addr, new.port, new.service, new.generation),
                || format!("{id:?} is given away while it is in use"),
            ),
            None => {
                let rests = self.resting.backends.contains(&id);
                self.expect(!rests, || {
                    format!("{id:?} is reused without a grace period")
                });
                let is_new = new.generation != 0 && last != Some(new.generation);
                self.expect(is_new, || {
                    format!("{id:?} is reused under its last generation")
                });
            }
        }
        self.content.generations.remove(&id);
        self.content.backends.insert(id, new);
    }

    fn put_slots(&mut self, base: u32, slots: &[Slot<A>]) {
        let lists = (self.content.services.values()).flat_map(|s| [s.cluster, s.local]);
        let run = indices(ListRange::new(
            base,
            u32::try_from(slots.len()).unwrap_or(u32::MAX),
        ));
        let overlaps = |list: ListRange| {
            let covered = indices(list);
            covered.start < run.end && run.start < covered.end
        };
        let changes = (run.clone().zip(slots)).any(|(i, slot)| self.slots.get(&i) != Some(slot));
        if changes && lists.filter(|list| !list.is_empty()).any(overlaps) {
            self.violation(format!(
                "slots {run:?} are written while a list covers them"
            ));
        }
        let rest = self.resting.slots.range(run.clone()).next().is_some();
        self.expect(!rest, || {
            format!("slots {run:?} are reused without a grace period")
        });
        self.slots.extend(run.zip(slots.iter().copied()));
    }

    fn put_service(&mut self, id: ServiceId, new: Service) {
        for list in [List::Cluster, List::Local] {
            self.check_list(id, list, new.list(list));
        }
        let was = self.content.services.insert(id, new);
        self.rest_slots(was, [new.cluster, new.local]);
        if was.is_none() {
            let rests = self.resting.services.contains(&id);
            self.expect(!rests, || {
                format!("{id:?} is reused without a grace period")
            });
        }
    }

    /// A list must be what the flags of its backends say, those on this host first.
    fn check_list(&mut self, id: ServiceId, list: List, range: ListRange) {
        let mut on_host_ended = false;
        for i in indices(range) {
            let Some(slot) = self.slots.get(&i).copied() else {
                self.violation(format!("{id:?} {list:?}: slot {i} was never written"));
                continue;
            };
            let backend = self.content.backends.get(&slot.backend).copied();
            let is_sound = backend.is_some_and(|b| b.slot(slot.backend) == slot);
            let flag = BackendFlags::of(list);
            let flags = backend.map(|b| b.flags).unwrap_or_default();
            self.expect(slot.service == id && is_sound && flags.has(flag), || {
                format!("{id:?} {list:?}: slot {i} is {slot:?}, its backend {backend:?}")
            });
            let on_host = flags.has(BackendFlags::HOST_ADDR);
            self.expect(!(on_host && on_host_ended), || {
                format!("{id:?} {list:?}: slot {i} on this host comes after one that is not")
            });
            on_host_ended |= !on_host;
        }
    }

    fn rest_slots(&mut self, was: Option<Service>, now: [ListRange; 2]) {
        let lists = was.map_or([ListRange::default(); 2], |s| [s.cluster, s.local]);
        let gone = lists.into_iter().filter(|list| !now.contains(list));
        self.resting.slots.extend(gone.flat_map(indices));
    }

    fn put_frontend(&mut self, key: FrontendKey<A>, val: FrontendVal) {
        if !val.kind.is_any_port() {
            let is_known = self.content.services.contains_key(&val.service);
            self.expect(is_known, || {
                format!("{key:?} points at no service: {val:?}")
            });
            let has_sources = (self.content.services.get(&val.service))
                .is_some_and(|s| s.flags & Service::HAS_SOURCES != 0);
            self.expect(has_sources || !val.has_source_ranges(), || {
                format!("{key:?} asks for source ranges, and the service has none")
            });
        }
        let held = self.content.frontends.insert(key, val);
        if let Some(held) = held.filter(|held| held.service != val.service) {
            self.resting.handed_over.insert(held.service);
        }
    }

    fn del_frontend(&mut self, key: &FrontendKey<A>) {
        let held = self.content.frontends.remove(key);
        let whole = self.content.frontends.get(&FrontendKey::any_port(key.vip));
        if whole.is_some_and(|whole| whole.kind == Kind::FOREIGN) {
            (self.resting.handed_over).extend(held.map(|held| held.service));
        }
    }

    fn list_of(&self, service: ServiceId, list: List) -> Vec<Slot<A>> {
        let range = self.content.services.get(&service).map(|s| s.list(list));
        let slots = indices(range.unwrap_or_default()).filter_map(|i| self.slots.get(&i));
        slots.copied().collect()
    }

    /// Room for one more entry?
    fn room(
        &self,
        has: bool,
        len: usize,
        capacity: u32,
        map: &'static str,
    ) -> Result<(), MapError> {
        if has || len < capacity as usize {
            return Ok(());
        }
        let flag = map_table::find(map).and_then(|spec| spec.capacity.flag());
        Err(MapError::Full {
            map,
            capacity,
            flag: flag.unwrap_or("its size"),
        })
    }

    /// Index of an array: the kernel answers E2BIG.
    fn within(&self, map: &'static str, index: u32, capacity: u32) -> Result<(), MapError> {
        if index < capacity {
            return Ok(());
        }
        Err(MapError::Kernel {
            map,
            action: "update",
            key: index.to_string(),
            source: std::io::Error::from_raw_os_error(libc::E2BIG),
        })
    }

    fn admit(&self, op: &Op<A>) -> Result<(), MapError> {
        let (caps, held) = (self.capacities, &self.content);
        match op {
            Op::PutName(id, _) => {
                let has = held.names.contains_key(id);
                self.room(has, held.names.len(), caps.services, A::MAPS.names)
            }
            Op::PutSource(key, bits) => {
                let has = held.sources.contains(&(*key, *bits));
                self.room(has, held.sources.len(), caps.sources, A::MAPS.sources)
            }
            Op::PutFrontend(key, _) => {
                let has = held.frontends.contains_key(key);
                self.room(has, held.frontends.len(), caps.frontends, A::MAPS.frontends)
            }
            Op::PutBackend(id, _) => self.within(A::MAPS.backends, id.0, caps.backends),
            Op::PutService(id, _) => self.within(A::MAPS.services, id.0, caps.services),
            Op::PutSlots(base, slots) => {
                let last = u32::try_from(slots.len())
                    .unwrap_or(u32::MAX)
                    .saturating_sub(1);
                self.within(A::MAPS.slots, base.saturating_add(last), caps.slots)
            }
            Op::DelName(_)
            | Op::DelSource(..)
            | Op::DelService(_)
            | Op::DelFrontend(_)
            | Op::AwaitReaders => Ok(()),
        }
    }
}

impl<A: Family> LbMaps<A> for FakeMaps<A> {
    fn capacities(&self) -> Capacities {
        self.capacities
    }

    fn read(&self) -> Result<Content<A>, MapError> {
        Ok(self.content())
    }

    fn apply(&mut self, op: &Op<A>) -> Result<(), MapError> {
        self.admit(op)?;
        self.ops += 1;
        match op {
            Op::PutName(id, name) => {
                self.content.names.insert(*id, *name);
            }
            Op::DelName(id) => {
                self.content.names.remove(id);
                self.resting.services.insert(*id);
            }
            Op::PutSource(key, bits) => {
                self.content.sources.insert((*key, *bits));
            }
            Op::DelSource(key, bits) => {
                self.content.sources.remove(&(*key, *bits));
            }
            Op::PutBackend(id, backend) => self.put_backend(*id, *backend),
            Op::PutSlots(base, slots) => self.put_slots(*base, slots),
            Op::PutService(id, service) => self.put_service(*id, *service),
            Op::DelService(id) => {
                let points = self
                    .content
                    .frontends
                    .values()
                    .any(|val| val.service == *id);
                self.expect(!points, || {
                    format!("{id:?} goes while a frontend points at it")
                });
                let is_read = self.resting.handed_over.contains(id);
                self.expect(!is_read, || {
                    format!("{id:?} goes while readers of an address that goes on may use it")
                });
                let was = self.content.services.remove(id);
                self.rest_slots(was, [ListRange::default(); 2]);
            }
            Op::PutFrontend(key, val) => self.put_frontend(*key, *val),
            Op::DelFrontend(key) => self.del_frontend(key),
            Op::AwaitReaders => self.resting = Resting::default(),
        }
        Ok(())
    }

    fn wait_for_readers(&mut self) -> Result<(), MapError> {
        self.resting = Resting::default();
        Ok(())
    }
}

fn indices(list: ListRange) -> std::ops::Range<u32> {
    if list.is_empty() {
        return 0..0;
    }
    list.base()..list.base().saturating_add(list.len())
}

fn empty<A: Family>() -> Content<A> {
    Content {
        frontends: BTreeMap::new(),
        services: BTreeMap::new(),
        names: BTreeMap::new(),
        backends: BTreeMap::new(),
        slots: BTreeMap::new(),
        sources: BTreeSet::new(),
        generations: BTreeMap::new(),
    }
}
