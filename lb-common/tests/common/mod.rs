//! Tables in plain collections, and short forms for what is in them.

#![allow(
    dead_code,
    reason = "every test target is its own crate and uses its part"
)]

pub mod frame;
pub mod node;
pub mod packet;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    decide::{Client, Dial, Fixed, PACKET},
    flow::{FlowKey, FlowVal},
    frontend::{Class, FrontendKey, FrontendVal, Kind},
    id::{BackendId, ServiceId},
    list::{Empty, ListRange},
    nat::Flows,
    net::{Addr4, Addr6, Address, BePort, Proto},
    reason::Counter,
    service::{Backend, BackendFlags, Service, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    tables::{Sessions, Tables},
};

pub const SERVICE: ServiceId = ServiceId(7);
pub const OTHER_SERVICE: ServiceId = ServiceId(8);
pub const NETNS: u64 = 4_026_531_840;
pub const SECOND: u64 = 1_000_000_000;

/// Everything that a decision may look at.
pub struct Vecs<A> {
    pub frontends: HashMap<FrontendKey<A>, FrontendVal>,
    pub services: HashMap<ServiceId, Service>,
    pub slots: Vec<Slot<A>>,
    pub backends: HashMap<BackendId, Backend<A>>,
    pub node_addrs: Vec<A>,
    pub sources: Vec<(ServiceId, A)>,
    pub netns: HashMap<u64, A>,
    pub node_ports: std::ops::RangeInclusive<u16>,
    pub localhost: bool,
    /// A range and its flags.
    pub range: Option<(A, A, u32)>,
    pub pins: RefCell<Vec<(AffinityKey, AffinityVal)>>,
    pub turn: Cell<u32>,
    pub sessions: RefCell<Vec<(SessionKey, SessionVal)>>,
    pub revnats: RefCell<Vec<(RevnatKey, RevnatVal)>>,
    pub notes: RefCell<Vec<Counter>>,
    /// No room for sessions, or for what replies show.
    pub sessions_full: bool,
    pub revnats_full: bool,
    /// What the first reads of the service find, before the agent's change is seen.
    pub stale: RefCell<Vec<Service>>,
    pub frontend_reads: Cell<u32>,
    /// So many reads of frontends find nothing: they are before the agent's change.
    pub early_reads: Cell<u32>,
    pub flows: RefCell<HashMap<FlowKey<A>, FlowVal<A>>>,
    /// Halves that there is room for.
    pub flow_room: Cell<usize>,
    /// What another CPU puts in just before the first of it is reserved here.
    pub rival: RefCell<Vec<(FlowKey<A>, FlowVal<A>)>>,
}

impl<A: Address> Vecs<A> {
    pub fn new() -> Self {
        Self {
            frontends: HashMap::new(),
            services: HashMap::new(),
            slots: Vec::new(),
            backends: HashMap::new(),
            node_addrs: Vec::new(),
            sources: Vec::new(),
            netns: HashMap::new(),
            node_ports: 30000..=32767,
            localhost: true,
            range: None,
            pins: RefCell::default(),
            turn: Cell::new(0),
            sessions: RefCell::default(),
            revnats: RefCell::default(),
            notes: RefCell::default(),
            sessions_full: false,
            revnats_full: false,
            stale: RefCell::default(),
            frontend_reads: Cell::new(0),
            early_reads: Cell::new(0),
            flows: RefCell::default(),
            flow_room: Cell::new(usize::MAX),
            rival: RefCell::default(),
        }
    }

    /// One service with these backends in its Cluster list, the first `local` of them in the Local
    /// one too, behind one address.
    pub fn serving(vip: A, backends: &[A], local: usize) -> Self {
        let mut tables = Self::new();
        let key = FrontendKey::new(vip, BePort::new(80), Proto::TCP);
        let udp = FrontendKey::new(vip, BePort::new(80), Proto::UDP);
        let val = FrontendVal::new(SERVICE, Kind::CLUSTER_IP);
        tables.frontends.extend([(key, val), (udp, val)]);
        for (i, addr) in (1..).zip(backends) {
            let mut flags = BackendFlags::IN_CLUSTER.with(BackendFlags::SERVING);
            flags = flags.set(BackendFlags::IN_LOCAL, i as usize <= local);
            let backend = Backend {
                addr: *addr,
                port: BePort::new(8080),
                generation: 1,
                service: SERVICE,
                flags,
            };
            tables.backends.insert(BackendId(i), backend);
            tables.slots.push(backend.slot(BackendId(i)));
        }
        let list = |len: usize| match u32::try_from(len) {
            Ok(0) | Err(_) => ListRange::empty(Empty::Drop),
            Ok(len) => ListRange::new(0, len),
        };
        let service = Service {
            cluster: list(backends.len()),
            local: list(local),
            flags: Service::IN_USE,
            ..Service::default()
        };
        tables.services.insert(SERVICE, service);
        tables
    }

    pub fn service_mut(&mut self) -> &mut Service {
        self.services.get_mut(&SERVICE).expect("it is there")
    }

    /// Replaces the value of every frontend.
    pub fn all_frontends(&mut self, change: impl Fn(FrontendVal) -> FrontendVal) {
        self.frontends
            .values_mut()
            .for_each(|val| *val = change(*val));
    }
}

impl<A: Address> Tables<A> for Vecs<A> {
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendVal> {
        let reads = self.frontend_reads.get() + 1;
        self.frontend_reads.set(reads);
        if reads <= self.early_reads.get() {
            return None;
        }
        self.frontends.get(key).copied()
    }

    fn service(&self, id: ServiceId) -> Option<Service> {
        let stale = self.stale.borrow_mut().pop();
        stale.or_else(|| self.services.get(&id).copied())
    }

    fn slot(&self, index: u32) -> Option<Slot<A>> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, id: BackendId) -> Option<Backend<A>> {
        self.backends.get(&id).copied()
    }

    fn is_node_addr(&self, addr: &A) -> bool {
        self.node_addrs.contains(addr)
    }

    fn source_allowed(&self, service: ServiceId, client: &A) -> bool {
        self.sources.contains(&(service, *client))
    }

    fn netns_addr(&self, cookie: u64) -> Option<A> {
        self.netns.get(&cookie).copied()
    }

    fn is_node_port(&self, port: BePort) -> bool {
        self.node_ports.contains(&port.host())
    }

    fn localhost(&self) -> bool {
        self.localhost
    }

    fn service_range(&self, addr: &A) -> Option<u32> {
        let (lo, hi, flags) = self.range?;
        addr.within(&lo, &hi).then_some(flags)
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityVal> {
        find(&self.pins.borrow(), key)
    }

    fn pin(&self, key: &AffinityKey, val: &AffinityVal) {
        put(&mut self.pins.borrow_mut(), key, val);
    }

    fn turn(&self, _: ServiceId) -> u32 {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }
}

impl<A: Address> Flows<A> for Vecs<A> {
    fn load(&self, key: &FlowKey<A>, to: &mut FlowVal<A>) -> bool {
        let flows = self.flows.borrow();
        let found = flows.get(key);
        found.inspect(|val| *to = **val).is_some()
    }

    fn is_flow(&self, key: &FlowKey<A>) -> bool {
        self.flows.borrow().contains_key(key)
    }

    fn reserve(&self, key: &FlowKey<A>, val: &FlowVal<A>) -> bool {
        let mut flows = self.flows.borrow_mut();
        let mut rival = self.rival.borrow_mut();
        if rival.first().is_some_and(|(first, _)| first == key) {
            flows.extend(rival.drain(..));
        }
        if flows.contains_key(key) || flows.len() >= self.flow_room.get() {
            return false;
        }
        flows.insert(*key, *val);
        true
    }

    fn forget(&self, key: &FlowKey<A>) {
        self.flows.borrow_mut().remove(key);
    }

    fn note_port_changed(&self) {
        self.notes.borrow_mut().push(Counter::PortChanged);
    }
}

impl<A: Address> Sessions for Vecs<A> {
    fn session<R>(&self, key: &SessionKey, look: impl FnOnce(&SessionVal) -> R) -> Option<R> {
        find(&self.sessions.borrow(), key).map(|val| look(&val))
    }

    fn revnat<R>(&self, key: &RevnatKey, look: impl FnOnce(&RevnatVal) -> R) -> Option<R> {
        find(&self.revnats.borrow(), key).map(|val| look(&val))
    }

    fn put_session(&self, key: &SessionKey, val: &SessionVal) -> bool {
        if !self.sessions_full {
            put(&mut self.sessions.borrow_mut(), key, val);
        }
        !self.sessions_full
    }

    fn put_revnat(&self, key: &RevnatKey, val: &RevnatVal) -> bool {
        if !self.revnats_full {
            put(&mut self.revnats.borrow_mut(), key, val);
        }
        !self.revnats_full
    }

    fn note(&self, counter: Counter) {
        self.notes.borrow_mut().push(counter);
    }

    fn touch(&self, key: &SessionKey, now_ns: u64, replied: bool) {
        for (_, val) in self
            .sessions
            .borrow_mut()
            .iter_mut()
            .filter(|(k, _)| k == key)
        {
            val.last_ns = now_ns;
            val.replied |= u16::from(replied);
        }
    }

    fn contest(&self, key: &SessionKey) {
        let mut sessions = self.sessions.borrow_mut();
        let named = sessions.iter_mut().filter(|(k, _)| k == key);
        named.for_each(|(_, val)| val.contested = 1);
    }
}

fn find<K: PartialEq, V: Copy>(entries: &[(K, V)], key: &K) -> Option<V> {
    entries.iter().find(|(k, _)| k == key).map(|(_, val)| *val)
}

fn put<K: PartialEq + Copy, V: Copy>(entries: &mut Vec<(K, V)>, key: &K, val: &V) {
    entries.retain(|(k, _)| k != key);
    entries.push((*key, *val));
}

pub fn v4(text: &str) -> Addr4 {
    text.parse::<std::net::Ipv4Addr>()
        .expect("an address")
        .into()
}

pub fn v6(text: &str) -> Addr6 {
    text.parse::<std::net::Ipv6Addr>()
        .expect("an address")
        .into()
}

pub fn dial<A>(addr: A, port: u16) -> Dial<A> {
    Dial {
        addr,
        port: BePort::new(port),
        proto: Proto::TCP,
    }
}

pub fn pod<A>() -> Client<A> {
    Client {
        class: Class::Pod,
        netns: NETNS,
        addr: None,
    }
}

pub fn host<A>() -> Client<A> {
    Client {
        class: Class::Host,
        ..pod()
    }
}

pub fn outside<A>(addr: A) -> Client<A> {
    Client {
        class: Class::Outside,
        netns: PACKET,
        addr: Some(addr),
    }
}

pub const fn dice(random: u32) -> Fixed {
    Fixed { now_ns: 0, random }
}

pub const fn at_second(second: u64, random: u32) -> Fixed {
    Fixed {
        now_ns: second * SECOND,
        random,
    }
}
