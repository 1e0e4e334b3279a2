//! No room: for flows, and for ports.

use std::{net::SocketAddr, os::fd::OwnedFd};

use anyhow::Result;
use lb_agent::maps::family::Family;
use lb_common::{
    config::Config,
    flow::{FlowFlags, FlowKey, FlowVal},
    id::{BackendId, ServiceId},
    net::{Addr4, Addr6, BePort, Proto},
    reason::Counter,
};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{Packet, packet};
use crate::rig::Rig;
use crate::world::{OPENERS, Place, SNAT_PORT, Svc, To, places, rig_capacities};

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, opener, answer, third) in OPENERS {
            let name = |what: &str| format!("full/{what} {proto} IPv{}", place.family);
            let vip = place.dial(Svc::Redirect, To::NodePort);
            let opener = packet(opener, place.client_at(), vip);
            all.extend(ports(&place, &opener, &name));
            let vip = place.dial(Svc::Stack, To::NodePort);
            let opener = opener.to(vip);
            let backend = place.target(place.local);
            let answer = packet(answer, backend, opener.src);
            let steps = [
                Step::inbound(&opener).becomes(&opener.clone().to(backend)),
                Step::outbound(&answer).becomes(&answer.clone().from(vip)),
                Step::inbound(&opener.clone().transport(third))
                    .becomes(&opener.clone().transport(third).to(backend)),
            ];
            let family = place.family;
            let fixture = Fixture::new(name("no room among the established"), steps)
                .prepared(move |rig| fill(rig, family))
                .counts(Counter::HitChosen, 1)
                .counts(Counter::FlowTableFull, 1)
                .whatever_flows();
            all.push(fixture);
        }
        all.extend(sockets(&place));
    }
    all
}

fn ports(place: &Place, opener: &Packet, name: &dyn Fn(&str) -> String) -> Vec<Fixture> {
    let (source, backend) = (place.masqueraded(), place.target(place.remote));
    let sent = opener.clone().from(source).to(backend).ttl(opener.ttl - 1);
    let first = Step::inbound(opener).leaves_as(&sent);
    let other = opener.clone().from(SocketAddr::new(place.client, 33_001));
    let flow = Conversation::of(opener, backend).masqueraded(source, Device::Up0, Device::Up0);
    let exhausted = Fixture::new(
        name("no port left"),
        [first, Step::inbound(&other).dropped()],
    )
    .counts(Counter::HitChosen, 1)
    .counts(Counter::NoSnatPort, 1)
    .flow(flow);
    let none = Fixture::new(name("no port at all"), [Step::inbound(opener).dropped()])
        .config(|config: &mut Config| config.snat_hi = BePort::new(SNAT_PORT - 1))
        .counts(Counter::NoSnatPort, 1);
    // Another backend is another tuple: the same port serves it.
    let narrow = place.dial(Svc::Narrow, To::NodePort);
    let elsewhere = opener.clone().to(narrow);
    let narrow_source = SocketAddr::new(place.nodes[1], SNAT_PORT);
    let narrow_backend = place.target(place.narrow);
    let elsewhere_sent = elsewhere
        .clone()
        .from(narrow_source)
        .to(narrow_backend)
        .ttl(opener.ttl - 1);
    let shared = Fixture::new(
        name("one port for two backends"),
        [
            Step::inbound(opener).leaves_as(&sent),
            Step::inbound(&elsewhere).leaves_as(&elsewhere_sent),
        ],
    )
    .counts(Counter::HitChosen, 2)
    .flow(Conversation::of(opener, backend).masqueraded(source, Device::Up0, Device::Up0))
    .flow(Conversation::of(&elsewhere, narrow_backend).masqueraded(
        narrow_source,
        Device::Up1,
        Device::Up0,
    ));
    vec![exhausted, none, shared]
}

/// A port of a socket of the host is not taken; SCTP sockets cannot be asked for.
fn sockets(place: &Place) -> Vec<Fixture> {
    let source = place.masqueraded();
    let opener = |nth: usize| {
        let vip = place.dial(Svc::Redirect, To::NodePort);
        packet(OPENERS[nth].1, place.client_at(), vip)
    };
    let name = |what: &str| {
        format!(
            "full/a host's socket has the port {what} IPv{}",
            place.family
        )
    };
    let listener = move |rig: &mut Rig| -> Result<()> {
        let socket = std::net::TcpListener::bind(source)?;
        rig.sockets.push(OwnedFd::from(socket));
        Ok(())
    };
    let bound = move |rig: &mut Rig| -> Result<()> {
        let socket = std::net::UdpSocket::bind(source)?;
        rig.sockets.push(OwnedFd::from(socket));
        Ok(())
    };
    vec![
        Fixture::new(name("TCP"), [Step::inbound(&opener(0)).dropped()])
            .prepared(listener)
            .counts(Counter::NoSnatPort, 1),
        Fixture::new(name("UDP"), [Step::inbound(&opener(1)).dropped()])
            .prepared(bound)
            .counts(Counter::NoSnatPort, 1),
    ]
}

fn fill(rig: &Rig, family: u8) -> Result<()> {
    if family == 4 {
        fill_family::<Addr4>(rig, "192.0.2.200".parse()?)
    } else {
        fill_family::<Addr6>(rig, "2001:db8:f::f".parse()?)
    }
}

/// Other people's flows, as many as there is room for.
fn fill_family<A: Family>(rig: &Rig, ip: std::net::IpAddr) -> Result<()>
where
    FlowKey<A>: bytemuck::Pod,
    FlowVal<A>: bytemuck::Pod,
{
    let addr = A::from_ip(ip).unwrap_or(A::UNSPECIFIED);
    let entries = (0..rig_capacities().flows).map(|nth| {
        let port = BePort::new(u16::try_from(nth).unwrap_or(u16::MAX));
        let key = FlowKey::new(Proto::TCP, addr, port, addr, BePort::new(1));
        let val = FlowVal {
            src: addr,
            dst: addr,
            via: A::UNSPECIFIED,
            sport: port,
            dport: port,
            service: ServiceId::NONE,
            backend: BackendId::NONE,
            generation: 0,
            flags: FlowFlags::default(),
            oif: 0,
            seen_s: 0,
        };
        (key, val)
    });
    let (keys, values): (Vec<_>, Vec<_>) = entries.unzip();
    rig.put_all(A::MAPS.flows, &keys, &values)
}
