//! Datagrams of unconnected UDP sockets: `decide` with a memory per socket and VIP.

use crate::{
    decide::{
        Caller, Chance, Decision, Dial, Dnat, Lookup, NOWHERE, class_for, lookup, try_choose,
    },
    frontend::FrontendVal,
    id::{BackendId, ServiceId},
    net::{Addr6, Address, BePort},
    reason::{Counter, Reason},
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
    let id = kept(tables, &key, &frontend, now_ns);
    if id != BackendId::NONE
        && let Some(backend) = tables.backend(id)
    {
        let to = backend.slot(id);
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
) -> BackendId {
    let live = |session: &SessionVal| {
        let is_live = session.service == frontend.service && session.is_fresh(now_ns);
        is_live.then_some((session.backend, session.generation, session.contested))
    };
    let Some(Some((id, generation, contested))) = tables.session(key, live) else {
        return BackendId::NONE;
    };
    let Some(backend) = tables.backend(id) else {
        return BackendId::NONE;
    };
    if !backend.serves(frontend.service, generation, BackendFlags::SERVING) {
        return BackendId::NONE;
    }
    if contested != 0 {
        reclaim(tables, key, &backend.slot(id));
    }
    id
}

/// The VIP written last is shown: takes the replies of a shared backend back. True when another VIP
/// had them.
#[inline(never)]
fn reclaim<A: Address, T: Sessions>(tables: &T, key: &SessionKey, to: &Slot<A>) -> bool {
    let revnat = RevnatKey::new(key.socket, to.addr.mapped(), to.port);
    let is_mine = |shown: &RevnatVal| shown.vip == key.vip && shown.port == key.port;
    if tables.revnat(&revnat, is_mine).unwrap_or(false) {
        return false;
    }
    tables.note(Counter::RevnatConflict);
    if !tables.put_revnat(&revnat, &RevnatVal::of(key)) {
        tables.note(Counter::StateLost);
    }
    true
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
    let mut dnat = Dnat {
        to: Slot::EMPTY,
        kind: frontend.kind,
        hit: Counter::HitChosen,
    };
    if let Err(reason) = choose_apart(tables, frontend, caller, chance, &mut dnat) {
        return Decision::Refuse {
            reason,
            service: frontend.service,
        };
    }
    let now_ns = chance.now_ns();
    let mut contested = 0;
    if is_taken(tables, key, &dnat.to, now_ns) {
        match tables.slot(untaken(tables, key, frontend, caller, chance)) {
            Some(slot) if dnat.hit == Counter::HitChosen && slot.service == frontend.service => {
                dnat.to = slot;
            }
            _ => {
                contested = 1;
                contest_other(tables, key, &dnat.to);
            }
        }
    }
    if !remember(tables, key, &dnat.to, now_ns, contested) {
        tables.note(Counter::StateLost);
    }
    Decision::Dnat(dnat)
}

/// Tells the session that has a backend's replies that it must take them back when it sends.
#[inline(never)]
fn contest_other<A: Address, T: Sessions>(tables: &T, key: &SessionKey, to: &Slot<A>) -> bool {
    tables.note(Counter::RevnatConflict);
    let other = tables.revnat(
        &RevnatKey::new(key.socket, to.addr.mapped(), to.port),
        |shown| SessionKey::new(key.socket, shown.vip, shown.port),
    );
    let Some(other) = other else { return false };
    tables.contest(&other);
    true
}

/// `try_choose` in a stack frame of its own: BPF has 512 bytes for the whole chain of calls.
#[inline(never)]
fn choose_apart<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &FrontendVal,
    caller: &impl Caller<A>,
    chance: &impl Chance,
    dnat: &mut Dnat<A>,
) -> Result<(), Reason> {
    (dnat.to, dnat.hit) = try_choose(tables, frontend, caller, chance)?;
    Ok(())
}

/// Index of a slot, from a random one on, whose backend no other VIP of the socket uses.
#[inline(never)]
fn untaken<A: Address, T: Tables<A> + Sessions>(
    tables: &T,
    key: &SessionKey,
    frontend: &FrontendVal,
    caller: &impl Caller<A>,
    chance: &impl Chance,
) -> u32 {
    let Some(service) = tables.service(frontend.service) else {
        return NOWHERE;
    };
    let range = service.list(frontend.list(class_for(frontend, caller)));
    // Affinity has chosen, or only endpoints on this host are in reach: there is no other.
    let is_bound =
        service.affinity_timeout_s != 0 || caller.addr().is_some_and(|addr| addr.is_loopback());
    if range.is_empty() || is_bound {
        return NOWHERE;
    }
    let (start, now_ns) = (chance.random() % range.len(), chance.now_ns());
    for i in 0..CONFLICT_TRIES {
        if i >= range.len() {
            break;
        }
        let at = range
            .base()
            .wrapping_add(start.wrapping_add(i) % range.len());
        let Some(slot) = tables.slot(at) else {
            return NOWHERE;
        };
        if slot.service == frontend.service && !is_taken(tables, key, &slot, now_ns) {
            return at;
        }
    }
    NOWHERE
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
    let other = tables.revnat(&RevnatKey::new(key.socket, addr, to.port), |shown| {
        SessionKey::new(key.socket, shown.vip, shown.port)
    });
    let Some(other) = other else { return false };
    if other.vip == key.vip && other.port == key.port {
        return false;
    }
    let holds = |s: &SessionVal| s.is_fresh(now_ns) && s.addr == addr && s.port == to.port;
    tables.session(&other, holds).unwrap_or(false)
}

/// Writes the reply half first, then the session: no session without a reply half.
#[inline(never)]
fn remember<A: Address, T: Sessions>(
    tables: &T,
    key: &SessionKey,
    to: &Slot<A>,
    now_ns: u64,
    contested: u16,
) -> bool {
    let addr = to.addr.mapped();
    let session = SessionVal {
        addr,
        port: to.port,
        generation: to.generation,
        backend: to.backend,
        service: to.service,
        replied: 0,
        contested,
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
    let shown = tables.revnat(&RevnatKey::new(cookie, addr, port), |shown| *shown)?;
    tables.touch(
        &SessionKey::new(cookie, shown.vip, shown.port),
        now_ns,
        true,
    );
    Some(shown)
}
