//! Datagrams of unconnected UDP sockets: `decide` with a memory per socket and VIP.

use crate::{
    decide::{Caller, Chance, Decision, Dial, Dnat, Lookup, choose, class_for, lookup},
    frontend::FrontendVal,
    id::{BackendId, ServiceId},
    net::{Addr6, Address, BePort},
    reason::Counter,
    service::{BackendFlags, Slot},
    session::{RevnatKey, RevnatVal, SessionKey, SessionVal},
    tables::{Sessions, Tables},
};

/// How many backends are tried until one is found that no other VIP of the socket uses.
const CONFLICT_TRIES: u32 = 8;

/// The answer for one datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<A> {
    /// What to do with it.
    pub decision: Decision<A>,
    /// [`Counter::RevnatConflict`] or [`Counter::StateLost`], when it happened.
    pub trouble: Option<Counter>,
}

/// Decides a datagram of socket `cookie`.
#[inline(always)]
pub fn send<A: Address, T: Tables<A> + Sessions>(
    tables: &T,
    cookie: u64,
    dial: &Dial<A>,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> Datagram<A> {
    let quiet = |decision| Datagram {
        decision,
        trouble: None,
    };
    let frontend = match lookup(tables, dial, caller) {
        Lookup::Pass => return quiet(Decision::Pass),
        Lookup::Refuse(reason) => {
            return quiet(Decision::Refuse {
                reason,
                service: ServiceId::NONE,
            });
        }
        Lookup::Found(frontend) => frontend,
    };
    let key = SessionKey::new(cookie, dial.addr.mapped(), dial.port);
    let now_ns = chance.now_ns();
    if let Some(slot) = kept(tables, &key, &frontend, now_ns) {
        tables.touch(&key, now_ns, false);
        return quiet(Decision::Dnat(Dnat {
            to: slot,
            kind: frontend.kind,
            hit: Counter::HitSession,
        }));
    }
    open(tables, &key, &frontend, caller, chance)
}

/// The backend of the socket's session with this VIP, while it serves (rule 90) and is not idle.
#[inline(always)]
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
) -> Datagram<A> {
    let first = choose(tables, frontend, caller, chance);
    let Decision::Dnat(mut dnat) = first else {
        return Datagram {
            decision: first,
            trouble: None,
        };
    };
    let mut trouble = None;
    if is_taken(
        tables,
        key,
        dnat.to.addr.mapped(),
        dnat.to.port,
        chance.now_ns,
    ) {
        match untaken(tables, key, frontend, caller, chance) {
            Some(slot) if dnat.hit == Counter::HitChosen => dnat.to = slot,
            _ => trouble = Some(Counter::RevnatConflict),
        }
    }
    if !remember(tables, key, &dnat.to, frontend.service, chance.now_ns()) {
        trouble = Some(Counter::StateLost);
    }
    Datagram {
        decision: Decision::Dnat(dnat),
        trouble,
    }
}

/// A backend of the list, from a random one on, that no other VIP of the socket uses.
#[inline(always)]
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
    let (start, now_ns) = (chance.random(), chance.now_ns());
    for i in 0..CONFLICT_TRIES {
        if i >= range.len() {
            return None;
        }
        let slot = tables.slot(
            range
                .base()
                .wrapping_add(start.wrapping_add(i) % range.len()),
        )?;
        if slot.service == frontend.service
            && !is_taken(tables, key, slot.addr.mapped(), slot.port, now_ns)
        {
            return Some(slot);
        }
    }
    None
}

/// Do replies from this peer show another VIP that the socket still talks to?
#[inline(always)]
fn is_taken<T: Sessions>(
    tables: &T,
    key: &SessionKey,
    addr: Addr6,
    port: BePort,
    now_ns: u64,
) -> bool {
    let Some(shown) = tables.revnat(&RevnatKey::new(key.socket, addr, port)) else {
        return false;
    };
    if shown.is_for(key) {
        return false;
    }
    let other = SessionKey::new(key.socket, shown.vip, shown.port);
    tables
        .session(&other)
        .is_some_and(|s| s.is_fresh(now_ns) && s.addr == addr && s.port == port)
}

/// Writes the reply half first, then the session: no session without a reply half.
#[inline(always)]
fn remember<A: Address, T: Sessions>(
    tables: &T,
    key: &SessionKey,
    to: &Slot<A>,
    service: ServiceId,
    now_ns: u64,
) -> bool {
    let addr = to.addr.mapped();
    let backend: BackendId = to.backend;
    let session = SessionVal {
        addr,
        port: to.port,
        generation: to.generation,
        backend,
        service,
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
