//! The maps, as lb_common::map_table lists them, and the lookups of `decide` over them.
#![expect(
    unsafe_code,
    reason = "map values are read and written through pointers here, and only here"
)]

use core::{arch::asm, ptr};

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage, lpm_trie::Key,
    },
    macros::btf_map,
};
use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    agent_state::AgentState,
    config::{Config, FamilyConfig},
    device::DeviceVal,
    event::Event,
    frontend::{FrontendKey, FrontendVal},
    id::{BackendId, ServiceId},
    limit::Bucket,
    map_table::{
        AFFINITY_ENTRIES, Capacity, DEVICE_ENTRIES, EVENT_BYTES, HOST_PORT_ENTRIES, NETNS_ENTRIES,
        NODE_ADDR_ENTRIES, SESSION_ENTRIES,
    },
    name::ServiceName,
    net::{Addr4, Addr6, Address, BePort},
    netns::{NetnsVal, SourceAddr},
    ports::{PORT_WORDS, PortBit},
    reason::{COUNTER_SLOTS, Counter},
    service::{Backend, Service, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    socket::{BoundPort, PEER_PLACES, Peer, SocketVal},
    source::SourceKey,
    tables::{Sessions, Tables},
};

const FRONTENDS: usize = Capacity::Frontends.default_entries() as usize;
const SERVICES: usize = Capacity::Services.default_entries() as usize;
const SLOTS: usize = Capacity::Slots.default_entries() as usize;
const BACKENDS: usize = Capacity::Backends.default_entries() as usize;
const SOURCES: usize = Capacity::Sources.default_entries() as usize;
const NODE_ADDRS: usize = NODE_ADDR_ENTRIES as usize;
const SESSIONS: usize = SESSION_ENTRIES as usize;
const PEERS: usize = PEER_PLACES as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Cookie of the node's own network namespace: a constant of the loaded program.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);

#[btf_map]
static LB4_FRONTENDS: HashMap<FrontendKey<Addr4>, FrontendVal, FRONTENDS> = HashMap::new();
#[btf_map]
static LB6_FRONTENDS: HashMap<FrontendKey<Addr6>, FrontendVal, FRONTENDS> = HashMap::new();
#[btf_map]
static LB4_SERVICES: Array<Service, SERVICES, MMAPABLE> = Array::new();
#[btf_map]
static LB6_SERVICES: Array<Service, SERVICES, MMAPABLE> = Array::new();
#[btf_map]
static LB4_SLOTS: Array<Slot<Addr4>, SLOTS, MMAPABLE> = Array::new();
#[btf_map]
static LB6_SLOTS: Array<Slot<Addr6>, SLOTS, MMAPABLE> = Array::new();
#[btf_map]
static LB4_BACKENDS: Array<Backend<Addr4>, BACKENDS, MMAPABLE> = Array::new();
#[btf_map]
static LB6_BACKENDS: Array<Backend<Addr6>, BACKENDS, MMAPABLE> = Array::new();
#[btf_map]
static LB4_SOURCES: LpmTrie<SourceKey<Addr4>, u32, SOURCES> = LpmTrie::new();
#[btf_map]
static LB6_SOURCES: LpmTrie<SourceKey<Addr6>, u32, SOURCES> = LpmTrie::new();
#[btf_map]
static LB4_NODE_ADDRS: HashMap<Addr4, u32, NODE_ADDRS> = HashMap::new();
#[btf_map]
static LB6_NODE_ADDRS: HashMap<Addr6, u32, NODE_ADDRS> = HashMap::new();
#[btf_map]
static LB4_NAMES: HashMap<ServiceId, ServiceName, SERVICES, NO_PREALLOC> = HashMap::new();
#[btf_map]
static LB6_NAMES: HashMap<ServiceId, ServiceName, SERVICES, NO_PREALLOC> = HashMap::new();
#[btf_map]
static LB_CONFIG: Array<Config, 2> = Array::new();
#[btf_map]
static LB_AGENT: Array<AgentState, 1, MMAPABLE> = Array::new();
#[btf_map]
static LB_NETNS: LruHashMap<u64, NetnsVal, { NETNS_ENTRIES as usize }> = LruHashMap::new();
#[btf_map]
static LB_AFFINITY: LruHashMap<AffinityKey, AffinityVal, { AFFINITY_ENTRIES as usize }> =
    LruHashMap::new();
#[btf_map]
static LB_UDP_SESSION: LruHashMap<SessionKey, SessionVal, SESSIONS> = LruHashMap::new();
#[btf_map]
static LB_UDP_REVNAT: LruHashMap<RevnatKey, RevnatVal, SESSIONS> = LruHashMap::new();
#[btf_map]
static LB_DEVICES: HashMap<u32, DeviceVal, { DEVICE_ENTRIES as usize }> = HashMap::new();
#[btf_map]
static LB_PORTS: Array<u64, { PORT_WORDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static LB_HOST_PORTS: Array<u64, { HOST_PORT_ENTRIES as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub static LB_BOUND: SkStorage<BoundPort> = SkStorage::new();
#[btf_map]
static LB_LIMIT: PerCpuArray<Bucket, 1> = PerCpuArray::new();
#[btf_map]
pub static LB_SOCKETS: SkStorage<SocketVal> = SkStorage::new();
// Mapped by nobody: an array that can be is aligned to pages, and so its values to cache lines.
#[btf_map]
static LB_PEERS: Array<Peer, PEERS, MMAPABLE> = Array::new();
#[btf_map]
static LB_COUNTERS: PerCpuArray<u64, { COUNTER_SLOTS as usize }> = PerCpuArray::new();
#[btf_map]
static LB_EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();

/// The tables of the running programs.
pub struct Kernel;

/// Is this the node's own network namespace?
#[inline(always)]
pub fn is_host_netns(cookie: u64) -> bool {
    cookie == HOST_NETNS.load()
}

/// The configuration in force.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    let state = LB_AGENT.get(0)?;
    LB_CONFIG.get(state.active_config & 1)
}

/// Adds one; a CPU's own, so without atomics. Where the kernel preempts a program for another of ours in
/// the midst of it, one count may be lost.
#[inline(always)]
pub fn add_one(counter: u32) {
    if let Some(count) = LB_COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the map's value, valid until the program ends.
        unsafe { *count += 1 };
    }
}

/// A device of this node.
#[inline(always)]
pub fn device(ifindex: u32) -> Option<&'static DeviceVal> {
    // SAFETY: valid until the program ends; the agent replaces entries as a whole.
    unsafe { LB_DEVICES.get(&ifindex) }
}

/// Is the port's bit set?
#[inline(always)]
pub fn has_port((word, mask): PortBit) -> bool {
    LB_PORTS.get(word).is_some_and(|bits| bits & mask != 0)
}

/// Is a socket of the host bound to the port, so that no masqueraded flow may use it?
#[inline(always)]
pub fn is_bound(port: BePort) -> bool {
    LB_HOST_PORTS
        .get(u32::from(port.host()))
        .is_some_and(|sockets| *sockets != 0)
}

/// One more socket of the host is bound to the port.
#[inline(always)]
pub fn add_bound(port: BePort) {
    if let Some(sockets) = LB_HOST_PORTS.get_ptr_mut(u32::from(port.host())) {
        fetch_add(sockets, 1);
    }
}

/// One less. The agent's bit beside the count stays as it is.
#[inline(always)]
pub fn remove_bound(port: BePort) {
    if let Some(sockets) = LB_HOST_PORTS.get_ptr_mut(u32::from(port.host())) {
        fetch_add(sockets, u64::MAX);
    }
}

/// May a refusal be answered now?
#[inline(always)]
pub fn may_answer(now_ns: u64) -> bool {
    let Some(at) = LB_LIMIT.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the map's value, a CPU's own, valid until the program ends.
    let bucket = unsafe { at.read() };
    let Some(bucket) = bucket.take(now_ns) else {
        return false;
    };
    // SAFETY: as above.
    unsafe { at.write(bucket) };
    true
}

/// Hands an event to the agent; false when the ring is full.
#[inline(always)]
pub fn output(event: &Event) -> bool {
    LB_EVENTS.output(event, 0).is_ok()
}

/// Forgets a session and what its replies show.
#[inline(always)]
pub fn forget_session(session: &SessionKey, revnat: &RevnatKey) {
    // An entry that is gone already is what is wanted.
    let _gone = LB_UDP_SESSION.remove(session);
    let _gone = LB_UDP_REVNAT.remove(revnat);
}

/// The place in `LB_PEERS` that a socket may hold.
pub struct Place {
    at: *mut Peer,
    cookie: u64,
}

impl Place {
    #[inline(always)]
    pub fn of(cookie: u64) -> Option<Self> {
        let at = LB_PEERS.get_ptr_mut(Peer::index(cookie))?;
        Some(Self { at, cookie })
    }

    #[inline(always)]
    fn holder(&self) -> u64 {
        // SAFETY: the map's value, valid until the program ends.
        unsafe { (&raw const (*self.at).socket).read_volatile() }
    }

    #[inline(always)]
    fn val(&self) -> *mut SocketVal {
        // SAFETY: as above.
        unsafe { &raw mut (*self.at).val }
    }

    /// What the socket dialled and got, if it holds the place.
    #[inline(always)]
    pub fn held(&self) -> Option<*mut SocketVal> {
        (self.holder() == self.cookie).then_some(self.val())
    }

    /// The same, taken for the socket if it is free. Looks first, for a swap costs more.
    #[inline(always)]
    pub fn take(&self) -> Option<*mut SocketVal> {
        let mut holder = self.holder();
        if holder == 0 {
            // SAFETY: the map's value, valid until the program ends.
            holder = compare_and_swap(unsafe { &raw mut (*self.at).socket }, 0, self.cookie);
        }
        (holder == 0 || holder == self.cookie).then_some(self.val())
    }

    /// Gives it back, if the socket holds it. Emptied first, so that whoever takes it finds nothing of ours.
    #[inline(always)]
    pub fn leave(&self) {
        if self.holder() != self.cookie {
            return;
        }
        // SAFETY: the map's value, valid until the program ends.
        unsafe {
            (&raw mut (*self.at).val.flags).write_volatile(0);
            (&raw mut (*self.at).val.family).write_volatile(0);
            (&raw mut (*self.at).socket).write_volatile(0);
        }
    }

    /// May the socket be in `LB_SOCKETS`?
    #[inline(always)]
    pub fn has_spilled(&self) -> bool {
        // SAFETY: the map's value, valid until the program ends.
        unsafe { (&raw const (*self.at).spilled).read_volatile() != 0 }
    }

    /// The socket goes to `LB_SOCKETS`.
    #[inline(always)]
    pub fn note_spill(&self) {
        // SAFETY: the map's value, valid until the program ends.
        unsafe { (&raw mut (*self.at).spilled).write_volatile(1) };
    }
}

macro_rules! kernel_tables {
    ($addr:ty, $frontends:ident, $services:ident, $slots:ident, $backends:ident, $sources:ident, $node_addrs:ident) => {
        impl Tables<$addr> for Kernel {
            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<FrontendVal> {
                // SAFETY: a value of 8 bytes, copied at once; the kernel replaces entries as a whole.
                unsafe { $frontends.get(key).copied() }
            }

            #[inline(always)]
            fn service(&self, id: ServiceId) -> Option<Service> {
                let at = $services.get_ptr(id.0)?;
                // SAFETY: the map's value, valid until the program ends. Volatile: each list is one
                // 64-bit load, so the agent's one 64-bit store is seen whole.
                Some(unsafe { ptr::read_volatile(at) })
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<Slot<$addr>> {
                $slots.get(index).copied()
            }

            #[inline(always)]
            fn backend(&self, id: BackendId) -> Option<Backend<$addr>> {
                $backends.get(id.0).copied()
            }

            #[inline(always)]
            fn is_node_addr(&self, addr: &$addr) -> bool {
                $node_addrs.get_ptr(addr).is_some()
            }

            #[inline(always)]
            fn source_allowed(&self, service: ServiceId, client: &$addr) -> bool {
                let len = SourceKey::<$addr>::prefix_len(<$addr>::BITS);
                $sources
                    .get(&Key::new(
                        len,
                        SourceKey {
                            service,
                            addr: *client,
                        },
                    ))
                    .is_some()
            }

            #[inline(always)]
            fn netns_addr(&self, cookie: u64) -> Option<$addr> {
                // SAFETY: copied at once; LRU entries are replaced as a whole.
                unsafe { LB_NETNS.get(&cookie) }?.source()
            }

            #[inline(always)]
            fn is_node_port(&self, port: BePort) -> bool {
                config().is_some_and(|config| config.is_node_port(port))
            }

            #[inline(always)]
            fn localhost(&self) -> bool {
                config().is_some_and(FamilyConfig::<$addr>::localhost)
            }

            #[inline(always)]
            fn service_range(&self, addr: &$addr) -> Option<u32> {
                FamilyConfig::<$addr>::ranges(config()?).find(addr)
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey) -> Option<AffinityVal> {
                // SAFETY: copied at once.
                unsafe { LB_AFFINITY.get(key).copied() }
            }

            #[inline(always)]
            fn pin(&self, key: &AffinityKey, val: &AffinityVal) {
                if let Some(at) = LB_AFFINITY.get_ptr_mut(key) {
                    // SAFETY: the map's value, valid until the program ends. A reader that sees half
                    // of it finds backend and generation at odds and chooses anew. In place, for an
                    // insertion into an LRU costs ten times as much.
                    unsafe { at.write(*val) };
                    return;
                }
                // Best effort by contract.
                let _full = LB_AFFINITY.insert(key, val, 0);
            }

            #[inline(always)]
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a turn is taken by remainder"
            )]
            fn turn(&self, id: ServiceId) -> u32 {
                let Some(at) = $services.get_ptr_mut(id.0) else {
                    return 0;
                };
                // SAFETY: the map's value, valid until the program ends; the agent never writes it.
                let cursor = unsafe { &raw mut (*at).cursor };
                fetch_add(cursor, 1) as u32
            }
        }
    };
}

kernel_tables!(
    Addr4,
    LB4_FRONTENDS,
    LB4_SERVICES,
    LB4_SLOTS,
    LB4_BACKENDS,
    LB4_SOURCES,
    LB4_NODE_ADDRS
);
kernel_tables!(
    Addr6,
    LB6_FRONTENDS,
    LB6_SERVICES,
    LB6_SLOTS,
    LB6_BACKENDS,
    LB6_SOURCES,
    LB6_NODE_ADDRS
);

impl Sessions for Kernel {
    #[inline(always)]
    fn session<R>(&self, key: &SessionKey, look: impl FnOnce(&SessionVal) -> R) -> Option<R> {
        // SAFETY: valid until the program ends; an entry that is recycled meanwhile is another
        // socket's, and what is read of it is compared with this one's before it is used.
        unsafe { LB_UDP_SESSION.get(key) }.map(look)
    }

    #[inline(always)]
    fn revnat<R>(&self, key: &RevnatKey, look: impl FnOnce(&RevnatVal) -> R) -> Option<R> {
        // SAFETY: as above.
        unsafe { LB_UDP_REVNAT.get(key) }.map(look)
    }

    #[inline(always)]
    fn put_session(&self, key: &SessionKey, val: &SessionVal) -> bool {
        LB_UDP_SESSION.insert(key, val, 0).is_ok()
    }

    #[inline(always)]
    fn put_revnat(&self, key: &RevnatKey, val: &RevnatVal) -> bool {
        LB_UDP_REVNAT.insert(key, val, 0).is_ok()
    }

    #[inline(always)]
    fn note(&self, counter: Counter) {
        add_one(counter as u32);
    }

    #[inline(always)]
    fn contest(&self, key: &SessionKey) {
        if let Some(at) = LB_UDP_SESSION.get_ptr_mut(key) {
            // SAFETY: the map's value, valid until the program ends; the field is written whole.
            unsafe { (&raw mut (*at).contested).write_volatile(1) };
        }
    }

    #[inline(always)]
    fn touch(&self, key: &SessionKey, now_ns: u64, replied: bool) {
        let Some(at) = LB_UDP_SESSION.get_ptr_mut(key) else {
            return;
        };
        // SAFETY: the map's value, valid until the program ends; both fields are written whole, and
        // the later of two writers may win.
        unsafe {
            (&raw mut (*at).last_ns).write_volatile(now_ns);
            if replied {
                (&raw mut (*at).replied).write_volatile(1);
            }
        }
    }
}

/// Adds, wrapping, and returns what was there. core has no atomics on this target.
#[inline(always)]
fn fetch_add(at: *mut u64, mut value: u64) -> u64 {
    // SAFETY: `at` points to an aligned u64 inside a map value.
    unsafe {
        asm!("{v} = atomic_fetch_add((u64 *)({p} + 0), {v})", p = in(reg) at, v = inout(reg) value)
    };
    value
}

/// Writes `new` where `old` is, and returns what was there.
#[inline(always)]
fn compare_and_swap(at: *mut u64, old: u64, new: u64) -> u64 {
    let mut value = old;
    // SAFETY: `at` points to an aligned u64 inside a map value. The instruction has its old value in r0.
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, {n})", p = in(reg) at, n = in(reg) new, inout("r0") value)
    };
    value
}
