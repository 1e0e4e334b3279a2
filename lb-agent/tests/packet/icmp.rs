//! ICMP errors about translated packets: they reach the right end, and say what that end knows.

use std::net::{IpAddr, SocketAddr};

use lb_common::{flow::FlowFlags, reason::Counter};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{Packet, Transport, error_about, packet};
use crate::world::{OPENERS, Place, Svc, To, places};

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, opener, answer, _) in OPENERS {
            let case = Case {
                place,
                proto,
                opener,
                answer,
            };
            for kind in kinds(&place) {
                all.push(case.to_the_client_of_a_redirected_flow(kind));
                all.push(case.to_the_backend_of_a_redirected_flow(kind));
                all.push(case.to_the_client_through_the_stack(kind));
                all.push(case.to_the_backend_through_the_stack(kind));
            }
            all.push(case.of_unknown_flows());
            all.push(case.cut_short());
            all.push(case.that_used_up_its_hops());
        }
        all.push(echo(&place));
    }
    all
}

type Kind = (&'static str, (u8, u8, u32));

fn kinds(place: &Place) -> [Kind; 3] {
    if place.family == 4 {
        [
            ("unreachable", (3, 1, 0)),
            ("frag-needed", (3, 4, 1_400)),
            ("time exceeded", (11, 0, 0)),
        ]
    } else {
        [
            ("unreachable", (1, 3, 0)),
            ("packet-too-big", (2, 0, 1_400)),
            ("time exceeded", (3, 0, 0)),
        ]
    }
}

struct Case {
    place: Place,
    proto: &'static str,
    opener: Transport,
    answer: Transport,
}

/// So much of a quoted packet: its header and eight bytes (RFC 792), or all.
fn quote(packet: &Packet, is_whole: bool) -> Vec<u8> {
    let mut bytes = packet.bytes().split_off(packet.l3());
    if !is_whole {
        bytes.truncate(packet.l4() - packet.l3() + 8);
    }
    bytes
}

/// The same of the translated packet. The checksum of a quoted SCTP packet stays what it was: nobody can check one
/// that covers what is not quoted.
fn quote_of(packet: &Packet, was: &Packet, is_whole: bool) -> Vec<u8> {
    let mut bytes = quote(packet, is_whole);
    if is_whole && matches!(packet.transport, Transport::Sctp(_)) {
        let field = packet.l4() - packet.l3() + 8;
        bytes[field..field + 4].copy_from_slice(&quote(was, true)[field..field + 4]);
    }
    bytes
}

impl Case {
    fn name(&self, what: &str, kind: &str) -> String {
        format!("icmp/{kind} {what} {} IPv{}", self.proto, self.place.family)
    }

    fn router(&self) -> IpAddr {
        self.place.stranger
    }

    /// Opener and flow of each way.
    fn redirected(&self) -> (Packet, Conversation, Step) {
        let place = &self.place;
        let vip = place.dial(Svc::Redirect, To::NodePort);
        let opener = packet(self.opener, place.client_at(), vip);
        let (source, backend) = (place.masqueraded(), place.target(place.remote));
        let sent = opener.clone().from(source).to(backend).ttl(opener.ttl - 1);
        let flow = Conversation::of(&opener, backend).masqueraded(source, Device::Up0, Device::Up0);
        let step = Step::inbound(&opener).leaves_as(&sent);
        (opener, flow, step)
    }

    fn stacked(&self) -> (Packet, Conversation, Step) {
        let place = &self.place;
        let vip = place.dial(Svc::Stack, To::NodePort);
        let opener = packet(self.opener, place.client_at(), vip);
        let backend = place.target(place.local);
        let flow = Conversation::of(&opener, backend).with(FlowFlags::LOCAL);
        let step = Step::inbound(&opener).becomes(&opener.clone().to(backend));
        (opener, flow, step)
    }

    fn fixture(&self, what: &str, kind: Kind, steps: Vec<Step>, flow: Conversation) -> Fixture {
        let errors = steps.len() as u64 - 1;
        Fixture::new(self.name(what, kind.0), steps)
            .counts(Counter::HitChosen, 1)
            .counts(Counter::IcmpTranslated, errors)
            .flow(flow)
    }

    /// A router on the way to the backend cannot go on.
    fn to_the_client_of_a_redirected_flow(&self, kind: Kind) -> Fixture {
        let (opener, flow, open) = self.redirected();
        let seen = opener.clone().from(flow.source).to(flow.backend);
        let mut steps = vec![open];
        for is_whole in [false, true] {
            let ends = (self.router(), flow.source.ip());
            let arriving = error_about(ends, 60, kind.1, &quote(&seen, is_whole));
            let ends = (flow.dialled.ip(), flow.client.ip());
            let sent = error_about(ends, 59, kind.1, &quote_of(&opener, &seen, is_whole));
            steps.push(Step::inbound_bytes(arriving).leaves_as_bytes(sent));
        }
        self.fixture("to the client, redirected", kind, steps, flow)
    }

    /// A router on the way to the client cannot go on.
    fn to_the_backend_of_a_redirected_flow(&self, kind: Kind) -> Fixture {
        let (_, flow, open) = self.redirected();
        let shown = packet(self.answer, flow.dialled, flow.client);
        let answer = packet(self.answer, flow.backend, flow.source);
        let mut steps = vec![open];
        for is_whole in [false, true] {
            let ends = (self.router(), flow.dialled.ip());
            let arriving = error_about(ends, 60, kind.1, &quote(&shown, is_whole));
            let ends = (flow.source.ip(), flow.backend.ip());
            let sent = error_about(ends, 59, kind.1, &quote_of(&answer, &shown, is_whole));
            steps.push(Step::inbound_bytes(arriving).leaves_as_bytes(sent));
        }
        self.fixture("to the backend, redirected", kind, steps, flow)
    }

    /// The backend itself, or its node, refuses.
    fn to_the_client_through_the_stack(&self, kind: Kind) -> Fixture {
        let (opener, flow, open) = self.stacked();
        let seen = opener.clone().to(flow.backend);
        let mut steps = vec![open];
        for is_whole in [false, true] {
            let ends = (flow.backend.ip(), flow.client.ip());
            let leaving = error_about(ends, 60, kind.1, &quote(&seen, is_whole));
            let ends = (flow.dialled.ip(), flow.client.ip());
            let sent = error_about(ends, 60, kind.1, &quote_of(&opener, &seen, is_whole));
            steps.push(Step::outbound_bytes(leaving).becomes_bytes(sent));
        }
        self.fixture("to the client, stack", kind, steps, flow)
    }

    fn to_the_backend_through_the_stack(&self, kind: Kind) -> Fixture {
        let (_, flow, open) = self.stacked();
        let shown = packet(self.answer, flow.dialled, flow.client);
        let answer = packet(self.answer, flow.backend, flow.client);
        let mut steps = vec![open];
        for is_whole in [false, true] {
            let ends = (self.router(), flow.dialled.ip());
            let arriving = error_about(ends, 60, kind.1, &quote(&shown, is_whole));
            let ends = (self.router(), flow.backend.ip());
            let sent = error_about(ends, 60, kind.1, &quote_of(&answer, &shown, is_whole));
            steps.push(Step::inbound_bytes(arriving).becomes_bytes(sent));
        }
        self.fixture("to the backend, stack", kind, steps, flow)
    }

    fn of_unknown_flows(&self) -> Fixture {
        let place = &self.place;
        let kind = kinds(place)[0];
        let quoted = packet(
            self.answer,
            place.dial(Svc::Stack, To::NodePort),
            place.client_at(),
        );
        let ends = (self.router(), quoted.src.ip());
        let inbound = error_about(ends, 60, kind.1, &quote(&quoted, true));
        let quoted = packet(self.opener, place.client_at(), place.target(place.local));
        let outbound = error_about(
            (place.local, place.client),
            60,
            kind.1,
            &quote(&quoted, true),
        );
        Fixture::new(
            self.name("of unknown flows", kind.0),
            [Step::inbound_bytes(inbound), Step::outbound_bytes(outbound)],
        )
    }

    /// Without the ports nobody knows whose it is.
    fn cut_short(&self) -> Fixture {
        let (opener, flow, open) = self.redirected();
        let kind = kinds(&self.place)[0];
        let seen = opener.from(flow.source).to(flow.backend);
        let header = seen.l4() - seen.l3();
        let mut steps = vec![open];
        for len in [0, 4, header - 4, header, header + 3] {
            let quote = &quote(&seen, true)[..len];
            let ends = (self.router(), flow.source.ip());
            steps.push(Step::inbound_bytes(error_about(ends, 60, kind.1, quote)));
        }
        Fixture::new(self.name("cut short", kind.0), steps)
            .counts(Counter::HitChosen, 1)
            .flow(flow)
    }

    /// It goes no further, and nobody is told: there are no errors about errors (RFC 1122).
    fn that_used_up_its_hops(&self) -> Fixture {
        let (opener, flow, open) = self.redirected();
        let kind = kinds(&self.place)[0];
        let seen = opener.from(flow.source).to(flow.backend);
        let ends = (self.router(), flow.source.ip());
        let errors = [0, 1].map(|ttl| {
            Step::inbound_bytes(error_about(ends, ttl, kind.1, &quote(&seen, true))).dropped()
        });
        Fixture::new(
            self.name("that used up its hops", kind.0),
            [vec![open], errors.to_vec()].concat(),
        )
        .counts(Counter::HitChosen, 1)
        .counts(Counter::HopsExceeded, 2)
        .flow(flow)
    }
}

/// Echo to a node, and what a node answers, is the host's.
fn echo(place: &Place) -> Fixture {
    let (proto, request, reply) = if place.family == 4 {
        (1, 8, 0)
    } else {
        (58, 128, 129)
    };
    let node = SocketAddr::new(place.nodes[0], 0);
    let message = |kind: u8| vec![kind, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4];
    let ping = packet(Transport::Other(proto), place.client_at(), node);
    Fixture::new(
        format!("icmp/echo of the node IPv{}", place.family),
        [
            Step::inbound(&ping.clone().payload(message(request))),
            Step::outbound(&ping.reversed().payload(message(reply))),
        ],
    )
}
