//! Host processes that bind a port. NodePorts that are served here are protected from it: off by default, as
//! kube-proxy does not do it (rule 55). Ports of masqueraded flows are not, but no flow gets one that is bound: a
//! lookup finds neither an unconnected socket that is bound elsewhere nor every listener.

use lb_common::{
    config::Config,
    event::EventKind,
    frontend::FrontendKey,
    id::ServiceId,
    net::{Addr4, Addr6, Address, BePort, Proto},
    reason::Counter,
    tables::Tables,
};

use crate::{
    count::{About, count, report},
    maps::{Kernel, add_bound, config, is_host_netns},
    sock::Sock,
    sock_addr::set_errno,
};

const EADDRINUSE: i32 = 98;

#[inline(always)]
pub fn post_bind4(sock: &Sock<'_>) -> i32 {
    note_bind(sock);
    let Some(proto) = guarded(sock) else { return 1 };
    if serves::<Addr4>(&sock.addr4(), sock.port(), proto) {
        return refuse(sock, sock.addr4().mapped(), proto);
    }
    1
}

#[inline(always)]
pub fn post_bind6(sock: &Sock<'_>) -> i32 {
    note_bind(sock);
    let Some(proto) = guarded(sock) else { return 1 };
    let addr = sock.addr6();
    let taken = match addr.as_mapped() {
        Some(addr4) => serves::<Addr4>(&addr4, sock.port(), proto),
        // The unspecified address of an IPv6 socket covers IPv4 as well, unless IPV6_V6ONLY, which a
        // program cannot see: the port is refused in both cases.
        None if addr.is_unspecified() => {
            serves::<Addr6>(&addr, sock.port(), proto)
                || serves::<Addr4>(&Addr4::UNSPECIFIED, sock.port(), proto)
        }
        None => serves::<Addr6>(&addr, sock.port(), proto),
    };
    if taken { refuse(sock, addr, proto) } else { 1 }
}

/// Keeps masqueraded flows off the port, as long as the socket lives. The ranges of both duties are apart, so
/// the bind is not refused after this.
#[inline(always)]
fn note_bind(sock: &Sock<'_>) {
    let Some(config) = config() else { return };
    let port = sock.port();
    if config.is_snat_port(port) && is_host_netns(sock.netns()) && sock.note_bound(port) {
        add_bound(port);
    }
}

/// The protocol of a bind that is looked at: switched on, host namespace, a port that may be one.
#[inline(always)]
fn guarded(sock: &Sock<'_>) -> Option<Proto> {
    let config = config()?;
    if config.flags & Config::PROTECT_NODE_PORTS == 0 || !config.is_node_port(sock.port()) {
        return None;
    }
    if !is_host_netns(sock.netns()) {
        return None;
    }
    sock.proto()
}

/// Is this a NodePort that we serve on that address?
#[inline(always)]
fn serves<A: Address>(addr: &A, port: BePort, proto: Proto) -> bool
where
    Kernel: Tables<A>,
{
    let is_ours = if addr.is_loopback() {
        Tables::<A>::localhost(&Kernel)
    } else {
        addr.is_unspecified() || Kernel.is_node_addr(addr)
    };
    is_ours
        && Kernel
            .frontend(&FrontendKey::<A>::node_port(port, proto))
            .is_some()
}

#[inline(always)]
fn refuse(sock: &Sock<'_>, addr: Addr6, proto: Proto) -> i32 {
    count(Counter::BindRefused);
    let about = About {
        netns: sock.netns(),
        service: ServiceId::NONE,
        family: 0,
        addr,
        port: sock.port(),
        proto,
    };
    report(EventKind::BIND_REFUSED, &about);
    set_errno(EADDRINUSE);
    0
}
