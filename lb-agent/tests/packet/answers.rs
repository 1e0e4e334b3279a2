//! What forwarding would have done and redirecting does not by itself: hops, sizes, and the rate of answers.

use lb_common::{flow::FlowFlags, limit::Bucket, reason::Counter};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{Packet, Transport, error_for, packet};
use crate::world::{NARROW_MTU, OPENERS, Place, SNAT_PORT, Svc, To, places};
use std::net::SocketAddr;

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, transport, _, _) in OPENERS {
            let name = |what: &str| format!("answers/{what} {proto} IPv{}", place.family);
            for ttl in [0, 1] {
                all.push(hops(&place, transport, ttl).named(name(&format!("{ttl} hops left"))));
            }
            all.push(
                last_hop_through_the_stack(&place, transport).named(name("one hop left, stack")),
            );
            all.push(size(&place, transport, 4).named(name("too big")));
            // A route lookup says of such a packet that it needs to be cut up; the flow is the same.
            all.push(size(&place, transport, 100).named(name("too big for the route")));
            all.push(just_fits(&place, transport).named(name("just fits")));
            all.push(limited(&place, transport).named(name("limited")));
        }
    }
    all
}

impl Fixture {
    fn named(mut self, name: String) -> Self {
        self.name = name;
        self
    }
}

/// As much of a packet as an error quotes.
fn quoted(packet: &Packet) -> usize {
    let transport = match packet.transport {
        Transport::Tcp(_) => 20,
        Transport::Sctp(_)
        | Transport::Udp
        | Transport::UdpUnsummed
        | Transport::SctpUnsummed(_)
        | Transport::Other(_) => 8,
    };
    packet.l4() - packet.l3() + transport
}

fn redirected(place: &Place, transport: Transport, svc: Svc) -> Packet {
    packet(transport, place.client_at(), place.dial(svc, To::NodePort))
}

fn embryo(place: &Place, opener: &Packet) -> Conversation {
    let backend = place.target(place.remote);
    Conversation::of(opener, backend).masqueraded(place.masqueraded(), Device::Up0, Device::Up0)
}

fn hops(place: &Place, transport: Transport, ttl: u8) -> Fixture {
    let opener = redirected(place, transport, Svc::Redirect).ttl(ttl);
    let kind = if place.family == 4 {
        (11, 0, 0)
    } else {
        (3, 0, 0)
    };
    let error = error_for(&opener, place.nodes[0], kind, quoted(&opener));
    Fixture::new("", [Step::inbound(&opener).leaves_as_bytes(error)])
        .counts(Counter::HitChosen, 1)
        .counts(Counter::HopsExceeded, 1)
        .flow(embryo(place, &opener))
}

/// The stack counts hops by itself.
fn last_hop_through_the_stack(place: &Place, transport: Transport) -> Fixture {
    let opener = redirected(place, transport, Svc::Stack).ttl(1);
    let backend = place.target(place.local);
    Fixture::new(
        "",
        [Step::inbound(&opener).becomes(&opener.clone().to(backend))],
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&opener, backend).with(FlowFlags::LOCAL))
}

fn narrow(place: &Place, opener: &Packet) -> Conversation {
    let source = SocketAddr::new(place.nodes[1], SNAT_PORT);
    let backend = place.target(place.narrow);
    Conversation::of(opener, backend).masqueraded(source, Device::Up1, Device::Up0)
}

/// A packet whose network header and all behind it has so many bytes.
fn sized(packet: Packet, bytes: u32) -> Packet {
    let bare = packet.payload(Vec::new());
    let room = usize::try_from(bytes).expect("short") - (bare.bytes().len() - bare.l3());
    bare.payload(vec![0x5a; room])
}

fn size(place: &Place, transport: Transport, over: u32) -> Fixture {
    let opener = sized(redirected(place, transport, Svc::Narrow), NARROW_MTU + over);
    let kind = if place.family == 4 {
        (3, 4, NARROW_MTU)
    } else {
        (2, 0, NARROW_MTU)
    };
    let error = error_for(&opener, place.nodes[0], kind, quoted(&opener));
    Fixture::new("", [Step::inbound(&opener).leaves_as_bytes(error)])
        .counts(Counter::HitChosen, 1)
        .counts(Counter::TooBig, 1)
        .flow(narrow(place, &opener))
}

fn just_fits(place: &Place, transport: Transport) -> Fixture {
    let opener = sized(redirected(place, transport, Svc::Narrow), NARROW_MTU);
    let flow = narrow(place, &opener);
    let sent = opener
        .clone()
        .from(flow.source)
        .to(flow.backend)
        .ttl(opener.ttl - 1);
    Fixture::new("", [Step::inbound(&opener).leaves_as(&sent)])
        .counts(Counter::HitChosen, 1)
        .flow(flow)
}

/// A refusal that is not answered is still a refusal.
fn limited(place: &Place, transport: Transport) -> Fixture {
    let refused = redirected(place, transport, Svc::Empty);
    // A bucket that was filled in a time to come stays as empty as it is.
    let empty = Bucket {
        filled_ns: u64::MAX / 2,
        tokens: 0,
        pad: 0,
    };
    Fixture::new("", [Step::inbound(&refused).dropped()])
        .prepared(move |rig| rig.put_bucket(empty))
        .counts(Counter::NoEndpoints, 1)
        .counts(Counter::RejectLimited, 1)
}
