//! Translation at the socket: connect, sendmsg, recvmsg, getpeername and release.
//!
//! Both families go through the same functions; an IPv6 socket that dials a v4-mapped address is an
//! IPv4 client. The kernel runs sendmsg4 but recvmsg6 for it, so what is remembered has one form.

use lb_common::{
    datagram,
    decide::{Caller, Decision, Dial, Dnat, decide},
    event::EventKind,
    frontend::Class,
    id::ServiceId,
    net::{Addr4, Addr6, Address, BePort, Proto},
    reason::{Answer, Counter, Reason},
    session::{RevnatKey, SessionKey},
    socket::SocketVal,
    tables::Tables,
};

use crate::{
    count::{About, count, report},
    maps::{Kernel, Place, forget_session, is_host_netns, remove_bound},
    sock::Sock,
    sock_addr::{KernelChance, SockAddr, Transport, now_ns, set_errno},
};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// A socket as the client of a decision: asked lazily, for each answer costs a helper call.
struct SocketCaller<'a, 'c> {
    sock: &'a SockAddr<'c>,
}

impl<A: Family> Caller<A> for SocketCaller<'_, '_> {
    #[inline(always)]
    fn class(&self) -> Class {
        if is_host_netns(self.sock.netns()) {
            Class::Host
        } else {
            Class::Pod
        }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        self.sock.netns()
    }

    #[inline(always)]
    fn addr(&self) -> Option<A> {
        A::bound(self.sock)
    }
}

/// A family at the socket: where its source address is found, and where a translation goes.
trait Family: Address {
    fn bound(sock: &SockAddr<'_>) -> Option<Self>;
    fn translate(self, sock: &SockAddr<'_>, port: BePort, on_v6: bool);
    /// From the form that both families share.
    fn unmapped(addr: Addr6) -> Option<Self>;
}

impl Family for Addr4 {
    #[inline(always)]
    fn bound(sock: &SockAddr<'_>) -> Option<Self> {
        sock.bound4()
    }

    #[inline(always)]
    fn unmapped(addr: Addr6) -> Option<Self> {
        addr.as_mapped()
    }

    #[inline(always)]
    fn translate(self, sock: &SockAddr<'_>, port: BePort, on_v6: bool) {
        if on_v6 {
            sock.set_addr6(self.mapped(), port)
        } else {
            sock.set_addr4(self, port)
        }
    }
}

impl Family for Addr6 {
    #[inline(always)]
    fn bound(sock: &SockAddr<'_>) -> Option<Self> {
        sock.bound6()
    }

    #[inline(always)]
    fn unmapped(addr: Addr6) -> Option<Self> {
        Some(addr)
    }

    #[inline(always)]
    fn translate(self, sock: &SockAddr<'_>, port: BePort, _on_v6: bool) {
        sock.set_addr6(self, port);
    }
}

#[inline(always)]
pub fn connect4(sock: &SockAddr<'_>) -> i32 {
    let Some(transport) = sock.transport() else {
        return ALLOW;
    };
    let (addr, port) = sock.addr4();
    connect(sock, addr, port, transport, false)
}

#[inline(always)]
pub fn connect6(sock: &SockAddr<'_>) -> i32 {
    let Some(transport) = sock.transport() else {
        return ALLOW;
    };
    let (addr, port) = sock.addr6();
    match addr.as_mapped() {
        Some(addr4) => connect(sock, addr4, port, transport, true),
        None => connect(sock, addr, port, transport, true),
    }
}

#[inline(always)]
fn connect<A: Family>(
    sock: &SockAddr<'_>,
    addr: A,
    port: BePort,
    transport: Transport,
    on_v6: bool,
) -> i32
where
    Kernel: Tables<A>,
{
    let dial = Dial {
        addr,
        port,
        proto: proto(transport),
    };
    let caller = SocketCaller { sock };
    match decide(&Kernel, &dial, &caller, &KernelChance) {
        Decision::Pass => {
            sock.clear_state();
            ALLOW
        }
        Decision::Refuse { reason, service } => refuse(sock, &dial, reason, service),
        Decision::Dnat(dnat) => {
            if !remember(sock, &dial, &dnat, 0) {
                count(Counter::StateLost);
            }
            dnat.to.addr.translate(sock, dnat.to.port, on_v6);
            count(dnat.hit);
            ALLOW
        }
    }
}

#[inline(always)]
pub fn sendmsg4(sock: &SockAddr<'_>) -> i32 {
    let (addr, port) = sock.addr4();
    sendmsg(sock, addr, port)
}

#[inline(always)]
pub fn sendmsg6(sock: &SockAddr<'_>) -> i32 {
    let (addr, port) = sock.addr6();
    sendmsg(sock, addr, port)
}

#[inline(always)]
fn sendmsg<A: Family>(sock: &SockAddr<'_>, addr: A, port: BePort) -> i32
where
    Kernel: Tables<A>,
{
    if sock.transport() != Some(Transport::Udp) || stays_with_peer(sock, addr, port) {
        return ALLOW;
    }
    let dial = Dial {
        addr,
        port,
        proto: Proto::UDP,
    };
    let caller = SocketCaller { sock };
    match datagram::send(&Kernel, sock.cookie(), &dial, &caller, &KernelChance) {
        Decision::Pass => ALLOW,
        Decision::Refuse { reason, service } => refuse(sock, &dial, reason, service),
        Decision::Dnat(dnat) => {
            // So that release finds the session; a connected socket's own state is not overwritten.
            if dnat.hit != Counter::HitSession
                && !sock.is_connected()
                && !remember_apart(sock, &dial, &dnat)
            {
                count(Counter::StateLost);
            }
            dnat.to.addr.translate(sock, dnat.to.port, false);
            count(dnat.hit);
            ALLOW
        }
    }
}

/// A connected socket stays with the backend that connect chose: the kernel delivers from no other. A
/// v4-mapped one runs sendmsg4 at each send, with that backend, which must not be translated again should
/// it be a frontend, too; any may name the VIP that it is connected to once more. True: nothing is left
/// to decide.
#[inline(never)]
fn stays_with_peer<A: Family>(sock: &SockAddr<'_>, addr: A, port: BePort) -> bool {
    if !sock.is_connected() {
        return false;
    }
    let Some(state) = sock.state() else {
        return false;
    };
    let addr = addr.mapped();
    if state.is_peer(&addr, port) {
        return true;
    }
    if state.family == 0 || state.vip != addr || state.vip_port != port {
        return false;
    }
    let Some(backend) = A::unmapped(state.backend) else {
        return false;
    };
    backend.translate(sock, state.backend_port, false);
    count(Counter::HitSession);
    true
}

#[inline(always)]
pub fn recvmsg4(sock: &SockAddr<'_>) -> i32 {
    let (addr, port) = sock.addr4();
    if let Some((vip, port)) = shown_to(sock, addr.mapped(), port)
        && let Some(vip4) = vip.as_mapped()
    {
        sock.set_addr4(vip4, port);
    }
    ALLOW
}

#[inline(always)]
pub fn recvmsg6(sock: &SockAddr<'_>) -> i32 {
    let (addr, port) = sock.addr6();
    if let Some((vip, port)) = shown_to(sock, addr, port) {
        sock.set_addr6(vip, port);
    }
    ALLOW
}

/// What a datagram's source shows: a connected socket knows its peer, another one its sessions.
#[inline(always)]
fn shown_to(sock: &SockAddr<'_>, addr: Addr6, port: BePort) -> Option<(Addr6, BePort)> {
    if sock.transport() != Some(Transport::Udp) {
        return None;
    }
    let shown = if sock.is_connected() {
        let state = sock.state().filter(|state| state.is_peer(&addr, port))?;
        (state.vip, state.vip_port)
    } else {
        let val = datagram::receive(&Kernel, sock.cookie(), addr, port, now_ns())?;
        (val.vip, val.port)
    };
    count(Counter::ReplyTranslated);
    Some(shown)
}

#[inline(always)]
pub fn getpeername4(sock: &SockAddr<'_>) -> i32 {
    let (addr, port) = sock.addr4();
    if let Some(state) = peer(sock, addr.mapped(), port)
        && let Some(vip4) = state.vip.as_mapped()
    {
        sock.set_addr4(vip4, state.vip_port);
    }
    ALLOW
}

#[inline(always)]
pub fn getpeername6(sock: &SockAddr<'_>) -> i32 {
    let (addr, port) = sock.addr6();
    if let Some(state) = peer(sock, addr, port) {
        sock.set_addr6(state.vip, state.vip_port);
    }
    ALLOW
}

#[inline(always)]
fn peer(sock: &SockAddr<'_>, addr: Addr6, port: BePort) -> Option<SocketVal> {
    let state = sock.state().filter(|state| state.is_peer(&addr, port))?;
    count(Counter::PeerTranslated);
    Some(state)
}

/// Frees what a socket left: its place among the peers and, where it was an unconnected UDP socket, the session of
/// its last VIP; others age out. A socket that only connected is spared the two lookups in large maps.
#[inline(always)]
pub fn release(sock: &Sock<'_>) -> i32 {
    if let Some(port) = sock.bound() {
        remove_bound(port);
    }
    let Some(proto) = sock.proto() else {
        return ALLOW;
    };
    let cookie = sock.cookie();
    let Some(place) = Place::of(cookie) else {
        return ALLOW;
    };
    if proto == Proto::UDP
        && let Some(state) = sock.state(&place)
        && state.flags & SocketVal::HAS_SESSION != 0
    {
        forget_session(
            &SessionKey::new(cookie, state.vip, state.vip_port),
            &RevnatKey::new(cookie, state.backend, state.backend_port),
        );
    }
    place.leave();
    ALLOW
}

/// Counts, reports where that helps, and sets the error. Out of line, for it is the rare way out.
#[inline(never)]
fn refuse<A: Address>(
    sock: &SockAddr<'_>,
    dial: &Dial<A>,
    reason: Reason,
    service: ServiceId,
) -> i32 {
    count(reason.counter());
    let _told = match reason {
        Reason::SourceUnknown => tell(sock, dial, EventKind::NETNS_UNKNOWN, service),
        Reason::Raced => tell(sock, dial, EventKind::RACED, service),
        Reason::NoEndpoints
        | Reason::NoLocalEndpoints
        | Reason::UnknownPort
        | Reason::UnallocatedAddress
        | Reason::SourceDenied
        | Reason::LoopbackBound => false,
    };
    set_errno(match reason.answer() {
        Answer::Refused => ECONNREFUSED,
        Answer::Unreachable => EHOSTUNREACH,
    });
    REFUSE
}

/// Reports a rare thing about a socket and what it dialled.
#[inline(never)]
fn tell<A: Address>(
    sock: &SockAddr<'_>,
    dial: &Dial<A>,
    kind: EventKind,
    service: ServiceId,
) -> bool {
    report(
        kind,
        &About {
            netns: sock.netns(),
            service,
            family: A::FAMILY,
            addr: dial.addr.mapped(),
            port: dial.port,
            proto: dial.proto,
        },
    )
}

/// `remember` in a stack frame of its own: BPF has 512 bytes for the whole chain of calls.
#[inline(never)]
fn remember_apart<A: Address>(sock: &SockAddr<'_>, dial: &Dial<A>, dnat: &Dnat<A>) -> bool {
    remember(sock, dial, dnat, SocketVal::HAS_SESSION)
}

/// Notes in the socket what it dialled and got.
#[inline(always)]
fn remember<A: Address>(sock: &SockAddr<'_>, dial: &Dial<A>, dnat: &Dnat<A>, flags: u8) -> bool {
    sock.set_state(SocketVal {
        vip: dial.addr.mapped(),
        backend: dnat.to.addr.mapped(),
        vip_port: dial.port,
        backend_port: dnat.to.port,
        service: dnat.to.service,
        backend_id: dnat.to.backend,
        generation: dnat.to.generation,
        flags,
        family: A::FAMILY,
    })
}

#[inline(always)]
fn proto(transport: Transport) -> Proto {
    match transport {
        Transport::Tcp => Proto::TCP,
        Transport::Udp => Proto::UDP,
    }
}
