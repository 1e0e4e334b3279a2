//! What happens to a new flow: the one decision of the project.
//!
//! Pure: tables, time, randomness and what is known of the client are arguments. In the kernel the
//! tables are BPF maps; the agent's `explain` and the tests run the same source.
//!
//! What is rare is kept out of line, and then returns a number: a larger result goes through the
//! caller's memory and leaves r0 to chance, which the verifier may refuse ("cannot return stack
//! pointer to the caller", Linux 6.18).

use crate::{
    affinity::{AffinityKey, AffinityVal},
    config::OWNED,
    frontend::{Class, FrontendKey, FrontendVal, Kind, SourceRule},
    id::ServiceId,
    list::{Empty, List, ListRange},
    net::{Address, BePort, Proto},
    reason::{Counter, Reason},
    service::{Algorithm, BackendFlags, Service, Slot},
    tables::Tables,
};

/// How often a reader that raced with a change of the lists looks again.
const RACE_TRIES: u32 = 4;
/// The namespace of a client that is known by its packets alone.
pub const PACKET: u64 = 0;
/// No index: beyond every array.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// How many slots are searched for a backend on this host. The agent puts those first.
const HOST_ADDR_TRIES: u32 = 16;

/// Where a client wants to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dial<A> {
    /// The address dialled.
    pub addr: A,
    /// The port dialled.
    pub port: BePort,
    /// TCP or UDP at sockets; SCTP too in packets.
    pub proto: Proto,
}

/// What may be asked of a client. A trait, for in the kernel each answer costs a helper call, which
/// a destination that is no Service's must not pay.
pub trait Caller<A> {
    /// May it be bound to loopback? No packet from there arrives on a device.
    fn may_be_on_loopback(&self) -> bool {
        true
    }
    /// How policies see it.
    fn class(&self) -> Class;
    /// Its network namespace: the cookie; 0 for a packet, which has none.
    fn netns(&self) -> u64;
    /// Its address: of a packet, or what the socket is bound to; `None` where the kernel has not
    /// chosen one yet.
    fn addr(&self) -> Option<A>;
}

/// The clock and the dice of a decision; a trait for the same reason.
pub trait Chance {
    /// Nanoseconds since boot (CLOCK_BOOTTIME).
    fn now_ns(&self) -> u64;
    /// Uniform.
    fn random(&self) -> u32;
}

/// A client whose facts are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client<A> {
    /// How policies see it.
    pub class: Class,
    /// Its network namespace.
    pub netns: u64,
    /// Its address: of a packet, or what the socket is bound to; `None` where the kernel has not
    /// chosen one yet.
    pub addr: Option<A>,
}

impl<A: Address> Caller<A> for Client<A> {
    fn class(&self) -> Class {
        self.class
    }

    fn netns(&self) -> u64 {
        self.netns
    }

    fn addr(&self) -> Option<A> {
        self.addr
    }
}

/// A clock that stands and dice that are thrown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixed {
    /// Nanoseconds since boot (CLOCK_BOOTTIME).
    pub now_ns: u64,
    /// Uniform.
    pub random: u32,
}

impl Chance for Fixed {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn random(&self) -> u32 {
        self.random
    }
}

/// A destination that belongs to a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// No Service's business: the flow is left as it is.
    Pass,
    /// A frontend answers.
    Found(FrontendVal),
    /// Nobody answers there, and nobody else may.
    Refuse(Reason),
}

/// The answer for one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<A> {
    /// Leave it as it is.
    Pass,
    /// Translate the destination.
    Dnat(Dnat<A>),
    /// Refuse it.
    Refuse {
        /// Why.
        reason: Reason,
        /// Whose; may be none.
        service: ServiceId,
    },
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dnat<A> {
    /// The backend chosen, in its slot's form.
    pub to: Slot<A>,
    /// What was dialled.
    pub kind: Kind,
    /// How the backend was found: [`Counter::HitChosen`], `HitPinned` or `HitSession`.
    pub hit: Counter,
}

/// Finds the frontend of a destination: one hash lookup where it is a Service's or nobody's
/// business, more only for addresses and ports that may be a Service's.
#[inline(always)]
pub fn lookup<A: Address, T: Tables<A>>(
    tables: &T,
    dial: &Dial<A>,
    caller: &impl Caller<A>,
) -> Lookup {
    // A NodePort's key has the unspecified address: dialled as such, it means loopback, below.
    if !dial.addr.is_unspecified()
        && let Some(frontend) = tables.frontend(&FrontendKey::new(dial.addr, dial.port, dial.proto))
    {
        return Lookup::Found(frontend);
    }
    if tables.is_node_port(dial.port)
        && is_node(tables, &dial.addr, caller)
        && let Some(frontend) = tables.frontend(&FrontendKey::node_port(dial.port, dial.proto))
    {
        return Lookup::Found(frontend);
    }
    match tables.service_range(&dial.addr) {
        None => Lookup::Pass,
        Some(flags) => match unknown_port(tables, dial, flags) {
            Lookup::Refuse(Reason::UnknownPort) => came_late(tables, dial),
            answer @ (Lookup::Pass | Lookup::Found(_) | Lookup::Refuse(_)) => answer,
        },
    }
}

/// An address that has no such port. Its ports are written before the address as such: whoever has seen
/// this one and looks again sees them.
#[inline(always)]
fn came_late<A: Address, T: Tables<A>>(tables: &T, dial: &Dial<A>) -> Lookup {
    match tables.frontend(&FrontendKey::new(dial.addr, dial.port, dial.proto)) {
        Some(frontend) => Lookup::Found(frontend),
        None => Lookup::Refuse(Reason::UnknownPort),
    }
}

/// Do NodePorts answer on `addr` for this caller? On loopback only for the host's own sockets:
/// another namespace's loopback is its own. The unspecified address means loopback, too.
#[inline(always)]
fn is_node<A: Address, T: Tables<A>>(tables: &T, addr: &A, caller: &impl Caller<A>) -> bool {
    if addr.is_loopback() || addr.is_unspecified() {
        return tables.localhost() && caller.class() == Class::Host;
    }
    tables.is_node_addr(addr)
}

/// An address in a service range without a frontend on this port (rules 83, 84). What belongs to
/// another proxy must reach that proxy (rule 2).
#[inline(always)]
fn unknown_port<A: Address, T: Tables<A>>(tables: &T, dial: &Dial<A>, range_flags: u32) -> Lookup {
    let kind = any_port_kind(tables, &dial.addr);
    if kind == u32::from(Kind::FOREIGN.0) {
        return Lookup::Pass;
    }
    if kind != NOWHERE {
        return Lookup::Refuse(Reason::UnknownPort);
    }
    if range_flags & OWNED != 0 {
        return Lookup::Refuse(Reason::UnallocatedAddress);
    }
    Lookup::Pass
}

/// The kind of the entry that an address as such has; `NOWHERE` without one.
#[inline(never)]
fn any_port_kind<A: Address, T: Tables<A>>(tables: &T, addr: &A) -> u32 {
    let entry = tables.frontend(&FrontendKey::any_port(*addr));
    entry.map_or(NOWHERE, |val| u32::from(val.kind.0))
}

/// Decides a new flow.
#[inline(always)]
pub fn decide<A: Address, T: Tables<A>>(
    tables: &T,
    dial: &Dial<A>,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Decision<A> {
    match lookup(tables, dial, caller) {
        Lookup::Pass => Decision::Pass,
        Lookup::Refuse(reason) => Decision::Refuse {
            reason,
            service: ServiceId::NONE,
        },
        Lookup::Found(frontend) => choose(tables, &frontend, caller, chance),
    }
}

/// Chooses a backend behind a frontend.
#[inline(always)]
pub fn choose<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendVal,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Decision<A> {
    match try_choose(tables, frontend, caller, chance) {
        Ok((to, hit)) => Decision::Dnat(Dnat {
            to,
            kind: frontend.kind,
            hit,
        }),
        Err(reason) => Decision::Refuse {
            reason,
            service: frontend.service,
        },
    }
}

/// `choose`, as the backend and how it was found, or why there is none.
#[inline(always)]
pub(crate) fn try_choose<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendVal,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Result<(Slot<A>, Counter), Reason> {
    let class = class_for(frontend, caller);
    admit(tables, frontend, class, caller)?;
    let service = tables
        .service(frontend.service)
        .ok_or(Reason::NoEndpoints)?;
    let list = frontend.list(class);
    let range = service.list(list);
    if range.is_empty() {
        return Err(match range.verdict() {
            Empty::Reject => Reason::NoEndpoints,
            Empty::Drop => Reason::NoLocalEndpoints,
        });
    }
    if caller.may_be_on_loopback() && caller.addr().is_some_and(|addr| addr.is_loopback()) {
        // The addresses of this host are beyond the loopback of any other namespace.
        if caller.class() != Class::Host {
            return Err(Reason::LoopbackBound);
        }
        let slot = on_host(tables, range, frontend.service, chance)?;
        return Ok((slot, Counter::HitChosen));
    }
    if service.affinity_timeout_s == 0 {
        let slot = pick(tables, &service, list, frontend.service, chance)?;
        return Ok((slot, Counter::HitChosen));
    }
    sticky(tables, frontend.service, &service, list, caller, chance)
}

/// The caller's class where the frontend tells classes apart; any other where it does not.
#[inline(always)]
pub fn class_for<A>(frontend: &FrontendVal, caller: &impl Caller<A>) -> Class {
    if frontend.is_same_for_all() {
        Class::Pod
    } else {
        caller.class()
    }
}

/// Source ranges, looked at before anything else (rule 63): by the client's address where it is known, else
/// by what was compiled for its class. A socket bound to loopback has no address outside its host.
#[inline(always)]
fn admit<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendVal,
    class: Class,
    caller: &impl Caller<A>,
) -> Result<(), Reason> {
    if !frontend.has_source_ranges() {
        return Ok(());
    }
    let known = match caller.addr() {
        Some(addr) if !addr.is_loopback() => Some(addr),
        _ => match frontend.sources(class) {
            SourceRule::Allow => return Ok(()),
            SourceRule::Deny => return Err(Reason::SourceDenied),
            SourceRule::Check => tables.netns_addr(caller.netns()),
        },
    };
    let addr = known.ok_or(Reason::SourceUnknown)?;
    if tables.source_allowed(frontend.service, &addr) {
        Ok(())
    } else {
        Err(Reason::SourceDenied)
    }
}

/// Chooses under ClientIP affinity: the pinned backend, or a new one, which is pinned.
#[inline(always)]
fn sticky<A: Address, T: Tables<A>>(
    tables: &T,
    id: ServiceId,
    service: &Service,
    list: List,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Result<(Slot<A>, Counter), Reason> {
    let key = affinity_key(caller, id);
    let now_ns = chance.now_ns();
    let (slot, hit) = match pinned(tables, &key, service, list, now_ns) {
        Some(slot) => (slot, Counter::HitPinned),
        None => (pick(tables, service, list, id, chance)?, Counter::HitChosen),
    };
    let val = AffinityVal {
        last_ns: now_ns,
        backend: slot.backend,
        generation: slot.generation,
        pad: 0,
    };
    tables.pin(&key, &val);
    Ok((slot, hit))
}

/// Who a client is to affinity: the source address of a packet; at the socket, where there is none
/// yet, the network namespace.
#[inline(always)]
pub fn affinity_key<A: Address>(caller: &impl Caller<A>, service: ServiceId) -> AffinityKey {
    let netns = caller.netns();
    match caller.addr() {
        Some(addr) if netns == PACKET => AffinityKey {
            client: addr.mapped(),
            service,
            family: A::FAMILY as u32,
        },
        _ => AffinityKey::of_netns(netns, service, A::FAMILY),
    }
}

/// The backend that the client is pinned to, while it is in the list of the policy in use (rule 72).
#[inline(always)]
pub fn pinned<A: Address, T: Tables<A>>(
    tables: &T,
    key: &AffinityKey,
    service: &Service,
    list: List,
    now_ns: u64,
) -> Option<Slot<A>> {
    let pin = tables.affinity(key)?;
    if !pin.is_fresh(now_ns, service.affinity_timeout_s) {
        return None;
    }
    let backend = tables.backend(pin.backend)?;
    backend
        .serves(key.service, pin.generation, BackendFlags::of(list))
        .then(|| backend.slot(pin.backend))
}

/// Chooses a slot of a list. A slot of another service means that the range was given away between
/// two reads: the service is read again.
#[inline(always)]
fn pick<A: Address, T: Tables<A>>(
    tables: &T,
    service: &Service,
    list: List,
    id: ServiceId,
    chance: &impl Chance,
) -> Result<Slot<A>, Reason> {
    let number = if service.algorithm == Algorithm::ROUND_ROBIN {
        tables.turn(id)
    } else {
        chance.random()
    };
    let slot = slot_at(tables, place(service, list, number))?;
    if slot.service == id {
        return Ok(slot);
    }
    let slot = slot_at(tables, place_again(tables, id, list, number))?;
    if slot.service == id {
        Ok(slot)
    } else {
        Err(Reason::Raced)
    }
}

/// Index of the slot that a number falls on; [`NOWHERE`] when the list is empty.
#[inline(always)]
fn place(service: &Service, list: List, number: u32) -> u32 {
    let range = service.list(list);
    if range.is_empty() {
        return NOWHERE;
    }
    range
        .base()
        .wrapping_add(index(number, range.len(), service.algorithm))
}

#[inline(always)]
fn slot_at<A, T: Tables<A>>(tables: &T, index: u32) -> Result<Slot<A>, Reason> {
    tables.slot(index).ok_or(Reason::Raced)
}

/// Looks again after a race.
#[inline(never)]
fn place_again<A: Address, T: Tables<A>>(
    tables: &T,
    id: ServiceId,
    list: List,
    number: u32,
) -> u32 {
    for _ in 0..RACE_TRIES {
        let Some(service) = tables.service(id) else {
            return NOWHERE;
        };
        let at = place(&service, list, number);
        let Some(slot) = tables.slot(at) else {
            return NOWHERE;
        };
        if slot.service == id {
            return at;
        }
    }
    NOWHERE
}

/// An index below `len`: a number in turn by remainder, a random one by multiplication, which needs
/// no division and spreads as evenly.
#[inline(always)]
fn index(number: u32, len: u32, algorithm: Algorithm) -> u32 {
    if algorithm == Algorithm::ROUND_ROBIN {
        return number % len;
    }
    ((number as u64 * len as u64) >> 32) as u32
}

/// One of the backends on this host's own addresses: the only ones that a socket bound to loopback
/// reaches (routing a loopback source off the host is EINVAL).
#[inline(always)]
fn on_host<A: Address, T: Tables<A>>(
    tables: &T,
    range: ListRange,
    id: ServiceId,
    chance: &impl Chance,
) -> Result<Slot<A>, Reason> {
    let found = count_on_host(tables, range, id);
    if found == 0 {
        return Err(Reason::LoopbackBound);
    }
    let slot = slot_at(
        tables,
        range
            .base()
            .wrapping_add(index(chance.random(), found, Algorithm::RANDOM)),
    )?;
    if slot.service == id {
        Ok(slot)
    } else {
        Err(Reason::Raced)
    }
}

/// How many slots at the front of a list are on this host.
#[inline(never)]
fn count_on_host<A: Address, T: Tables<A>>(tables: &T, range: ListRange, id: ServiceId) -> u32 {
    let mut found = 0;
    for i in 0..HOST_ADDR_TRIES {
        if i >= range.len() {
            break;
        }
        let Some(slot) = tables.slot(range.base().wrapping_add(i)) else {
            break;
        };
        let Some(backend) = tables.backend(slot.backend) else {
            break;
        };
        if !backend.serves(id, slot.generation, BackendFlags::HOST_ADDR) {
            break;
        }
        found = i + 1;
    }
    found
}
