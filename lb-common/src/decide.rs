//! What happens to a new flow: the one decision of the project.
//!
//! Pure: tables, time, randomness and what is known of the client are arguments. In the kernel the
//! tables are BPF maps; the agent's `explain` and the tests run the same source.

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

/// What is known of a client.
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

/// The clock and the dice of one decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chance {
    /// Nanoseconds since boot (CLOCK_BOOTTIME).
    pub now_ns: u64,
    /// Uniform.
    pub random: u32,
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
pub fn lookup<A: Address, T: Tables<A>>(tables: &T, dial: &Dial<A>, class: Class) -> Lookup {
    if let Some(frontend) = tables.frontend(&FrontendKey::new(dial.addr, dial.port, dial.proto)) {
        return Lookup::Found(frontend);
    }
    if tables.is_node_port(dial.port)
        && is_node(tables, &dial.addr, class)
        && let Some(frontend) = tables.frontend(&FrontendKey::node_port(dial.port, dial.proto))
    {
        return Lookup::Found(frontend);
    }
    match tables.service_range(&dial.addr) {
        None => Lookup::Pass,
        Some(flags) => unknown_port(tables, dial, flags),
    }
}

/// Do NodePorts answer on `addr` for clients of `class`? On loopback only for the host's own
/// sockets: another namespace's loopback is its own. The unspecified address means loopback, too.
#[inline(always)]
fn is_node<A: Address, T: Tables<A>>(tables: &T, addr: &A, class: Class) -> bool {
    if addr.is_loopback() || addr.is_unspecified() {
        return matches!(class, Class::Host) && tables.localhost();
    }
    tables.is_node_addr(addr)
}

/// An address in a service range without a frontend on this port (rules 83, 84).
#[inline(always)]
fn unknown_port<A: Address, T: Tables<A>>(tables: &T, dial: &Dial<A>, range_flags: u32) -> Lookup {
    if tables.frontend(&FrontendKey::any_port(dial.addr)).is_some() {
        return Lookup::Refuse(Reason::UnknownPort);
    }
    if range_flags & OWNED != 0 {
        return Lookup::Refuse(Reason::UnallocatedAddress);
    }
    Lookup::Pass
}

/// Decides a new flow.
#[inline(always)]
pub fn decide<A: Address, T: Tables<A>>(
    tables: &T,
    dial: &Dial<A>,
    client: &Client<A>,
    chance: &Chance,
) -> Decision<A> {
    match lookup(tables, dial, client.class) {
        Lookup::Pass => Decision::Pass,
        Lookup::Refuse(reason) => Decision::Refuse {
            reason,
            service: ServiceId::NONE,
        },
        Lookup::Found(frontend) => choose(tables, &frontend, client, chance),
    }
}

/// Chooses a backend behind a frontend.
#[inline(always)]
pub fn choose<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendVal,
    client: &Client<A>,
    chance: &Chance,
) -> Decision<A> {
    let refuse = |reason| Decision::Refuse {
        reason,
        service: frontend.service,
    };
    if let Err(reason) = admit(tables, frontend, client) {
        return refuse(reason);
    }
    let Some(service) = tables.service(frontend.service) else {
        return refuse(Reason::NoEndpoints);
    };
    let list = frontend.list(client.class);
    let range = service.list(list);
    if range.is_empty() {
        return refuse(match range.verdict() {
            Empty::Reject => Reason::NoEndpoints,
            Empty::Drop => Reason::NoLocalEndpoints,
        });
    }
    let hit = |to, hit| {
        Decision::Dnat(Dnat {
            to,
            kind: frontend.kind,
            hit,
        })
    };
    if client.addr.is_some_and(|addr| addr.is_loopback()) {
        return match on_host(tables, range, frontend.service, chance.random) {
            Some(slot) => hit(slot, Counter::HitChosen),
            None => refuse(Reason::LoopbackBound),
        };
    }
    if service.affinity_timeout_s == 0 {
        return match pick(tables, &service, list, frontend.service, chance.random) {
            Some(slot) => hit(slot, Counter::HitChosen),
            None => refuse(Reason::Raced),
        };
    }
    let key = affinity_key(client, frontend.service);
    let pinned = pinned(tables, &key, &service, list, chance.now_ns);
    let (found, how) = match pinned {
        Some(slot) => (Some(slot), Counter::HitPinned),
        None => (
            pick(tables, &service, list, frontend.service, chance.random),
            Counter::HitChosen,
        ),
    };
    let Some(slot) = found else {
        return refuse(Reason::Raced);
    };
    let val = AffinityVal {
        last_ns: chance.now_ns,
        backend: slot.backend,
        generation: slot.generation,
        pad: 0,
    };
    tables.pin(&key, &val);
    hit(slot, how)
}

/// Source ranges, looked at before anything else (rule 63).
#[inline(always)]
fn admit<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendVal,
    client: &Client<A>,
) -> Result<(), Reason> {
    match frontend.sources(client.class) {
        SourceRule::Allow => Ok(()),
        SourceRule::Deny => Err(Reason::SourceDenied),
        SourceRule::Check => {
            let known = match client.addr {
                Some(addr) => Some(addr),
                None => tables.netns_addr(client.netns),
            };
            let Some(addr) = known else {
                return Err(Reason::SourceUnknown);
            };
            if tables.source_allowed(frontend.service, &addr) {
                Ok(())
            } else {
                Err(Reason::SourceDenied)
            }
        }
    }
}

/// Who a client is to affinity: its address where there is one (packets), else its namespace.
#[inline(always)]
fn affinity_key<A: Address>(client: &Client<A>, service: ServiceId) -> AffinityKey {
    match (client.class, client.addr) {
        (Class::Outside, Some(addr)) => AffinityKey {
            client: addr.mapped(),
            service,
            family: A::FAMILY as u32,
        },
        _ => AffinityKey::of_netns(client.netns, service, A::FAMILY),
    }
}

/// The backend that the client is pinned to, while it is in the list of the policy in use (rule 72).
#[inline(always)]
fn pinned<A: Address, T: Tables<A>>(
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
    if !backend.serves(key.service, pin.generation, BackendFlags::of(list)) {
        return None;
    }
    Some(backend.slot(pin.backend))
}

/// Chooses a slot of a list. A slot of another service means that the range was given away between
/// two reads: the service is read again.
#[inline(always)]
fn pick<A: Address, T: Tables<A>>(
    tables: &T,
    service: &Service,
    list: List,
    id: ServiceId,
    random: u32,
) -> Option<Slot<A>> {
    let number = if service.algorithm == Algorithm::ROUND_ROBIN {
        tables.turn(id)
    } else {
        random
    };
    let mut range = service.list(list);
    for _ in 0..RACE_TRIES {
        if range.is_empty() {
            return None;
        }
        let slot = tables.slot(range.base().wrapping_add(index(
            number,
            range.len(),
            service.algorithm,
        )))?;
        if slot.service == id {
            return Some(slot);
        }
        range = tables.service(id)?.list(list);
    }
    None
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
    random: u32,
) -> Option<Slot<A>> {
    let mut found = 0;
    for i in 0..HOST_ADDR_TRIES {
        if i >= range.len() {
            break;
        }
        let slot = tables.slot(range.base().wrapping_add(i))?;
        let backend = tables.backend(slot.backend)?;
        if !backend.serves(id, slot.generation, BackendFlags::HOST_ADDR) {
            break;
        }
        found = i + 1;
    }
    if found == 0 {
        return None;
    }
    tables
        .slot(
            range
                .base()
                .wrapping_add(index(random, found, Algorithm::RANDOM)),
        )
        .filter(|slot| slot.service == id)
}
