//! Datagrams of unconnected UDP sockets: `decide` with a memory per socket and VIP.

use crate::{
    decide::{Caller, Chance, Decision, Dial, Dnat, Lookup, choose, class_for, lookup},
    frontend::FrontendVal,
    id::ServiceId,
    net::{Addr6, Address, BePort},
    reason::Counter,
    service::{BackendFlags, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    tables::{Sessions, Tables},
};

/// How many backends are tried until one is found that no other VIP of the socket uses.
const CONFLICT_TRIES: u32 = 16;

/// Decides a datagram of socket `cookie`.
#[inline(always)]
pub fn send<A: Address, T: Tables<A> + Sessions>(
    tables: &T,
    cookie: u64,
    dial: &Dial<A>,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Decision<A> {
    let frontend = match lookup(tables, dial, caller) {
        Lookup::Pass => return Decision::Pass,
        Lookup::Refuse(reason) => {
            return Decision::Refuse {
                reason,
                service: ServiceId::NONE,
            };
        }
        Lookup::Found(frontend) => frontend,
    };
    let key = SessionKey::new(cookie, dial.addr.mapped(), dial.port);
    let now_ns = chance.now_ns();
    if let Some(to) = kept(tables, &key, &frontend, now_ns) {
        tables.touch(&key, now_ns, false);
        return Decision::Dnat(Dnat {
            to,
            kind: frontend.kind,
            hit: Counter::HitSession,
        });
    }
    open(tables, &key, &frontend, caller, chance)
}

/// The backend of the socket's session with this VIP, while it serves (rule 90) and is not idle.
#[inline(never)]
fn kept<A: Address, T: Tables<A> + Sessions>(
    tables: &T,
    key: &SessionKey,
    frontend: &FrontendVal,
    now_ns: u64,
) -> Option<Slot<A>> {
    let session = tables.session(key)?;
    if session.service != frontend.service || !session.is_fresh(now_ns) {
        return None;
    }
    let backend = tables.backend(session.backend)?;
    if !backend.serves(frontend.service, session.generation, BackendFlags::SERVING) {
        return None;
    }
    Some(backend.slot(session.backend))
}

/// Opens a session: prefers a backend that no other VIP of the socket uses, so that every reply
/// shows the right one.
#[inline(always)]
fn open<A: Address, T: Tables<A> + Sessions>(
    tables: &T,
    key: &SessionKey,
    frontend: &FrontendVal,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Decision<A> {
    let mut decision = choose_apart(tables, frontend, caller, chance);
    let Decision::Dnat(dnat) = &mut decision else {
        return decision;
    };
    let now_ns = chance.now_ns();
    if is_taken(tables, key, &dnat.to, now_ns) {
        match untaken(tables, key, frontend, caller, chance) {
            Some(slot) if dnat.hit == Counter::HitChosen => dnat.to = slot,
            _ => tables.note(Counter::RevnatConflict),
        }
    }
    if !remember(tables, key, &dnat.to, now_ns) {
        tables.note(Counter::StateLost);
    }
    decision
}

/// `choose` in a stack frame of its own: BPF has 512 bytes for the whole chain of calls.
#[inline(never)]
fn choose_apart<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendVal,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Decision<A> {
    choose(tables, frontend, caller, chance)
}

/// A backend of the list, from a random one on, that no other VIP of the socket uses.
#[inline(never)]
fn untaken<A: Address, T: Tables<A> + Sessions>(
    tables: &T,
    key: &SessionKey,
    frontend: &FrontendVal,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Option<Slot<A>> {
    let range = tables
        .service(frontend.service)?
        .list(frontend.list(class_for(frontend, caller)));
    if range.is_empty() {
        return None;
    }
    let (start, now_ns) = (chance.random() % range.len(), chance.now_ns());
    for i in 0..CONFLICT_TRIES {
        if i >= range.len() {
            break;
        }
        let slot = tables.slot(
            range
                .base()
                .wrapping_add(start.wrapping_add(i) % range.len()),
        )?;
        if slot.service == frontend.service && !is_taken(tables, key, &slot, now_ns) {
            return Some(slot);
        }
    }
    None
}

/// Do replies from this peer show another VIP that the socket still talks to?
#[inline(never)]
fn is_taken<A: Address, T: Sessions>(
    tables: &T,
    key: &SessionKey,
    to: &Slot<A>,
    now_ns: u64,
) -> bool {
    let addr = to.addr.mapped();
    let Some(shown) = tables.revnat(&RevnatKey::new(key.socket, addr, to.port)) else {
        return false;
    };
    if shown.is_for(key) {
        return false;
    }
    let other = SessionKey::new(key.socket, shown.vip, shown.port);
    tables
        .session(&other)
        .is_some_and(|s| s.is_fresh(now_ns) && s.addr == addr && s.port == to.port)
}

/// Writes the reply half first, then the session: no session without a reply half.
#[inline(never)]
fn remember<A: Address, T: Sessions>(
    tables: &T,
    key: &SessionKey,
    to: &Slot<A>,
    now_ns: u64,
) -> bool {
    let addr = to.addr.mapped();
    let session = SessionVal {
        addr,
        port: to.port,
        generation: to.generation,
        backend: to.backend,
        service: to.service,
        replied: 0,
        last_ns: now_ns,
    };
    tables.put_revnat(
        &RevnatKey::new(key.socket, addr, to.port),
        &RevnatVal::of(key),
    ) && tables.put_session(key, &session)
}

/// What a reply from `addr`:`port` shows to socket `cookie`; `None`: its own address.
#[inline(always)]
pub fn receive<T: Sessions>(
    tables: &T,
    cookie: u64,
    addr: Addr6,
    port: BePort,
    now_ns: u64,
) -> Option<RevnatVal> {
    let shown = tables.revnat(&RevnatKey::new(cookie, addr, port))?;
    tables.touch(
        &SessionKey::new(cookie, shown.vip, shown.port),
        now_ns,
        true,
    );
    Some(shown)
}
