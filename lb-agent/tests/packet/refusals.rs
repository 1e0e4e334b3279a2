//! What no backend takes: answered where the rules say REJECT, dropped in silence where they say DROP.

use std::net::SocketAddr;

use lb_common::{flow::FlowFlags, reason::Counter};

use crate::fixture::{Conversation, Fixture, Step};
use crate::packet::{ACK, Extension, Packet, SYN, Transport, error_for, packet, rst_for};
use crate::world::{ALL_TO, OPENERS, Place, Svc, To, places};

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, transport, _, _) in OPENERS {
            let case = Case {
                place,
                proto,
                transport,
            };
            all.extend(case.without_endpoints());
            all.extend(case.policies());
            all.extend(case.source_ranges());
            all.extend(case.no_frontend());
        }
        all.push(echo_to_a_vip(&place));
        all.push(answers_of_nobody(&place));
        all.extend(with_options(&place));
    }
    all
}

/// What stands between the headers is not sent back: an answer has its own.
fn with_options(place: &Place) -> Vec<Fixture> {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    let syn = || {
        let vip = place.dial(Svc::Empty, To::NodePort);
        packet(Transport::Tcp(SYN), place.client_at(), vip)
    };
    let dressed: Vec<Packet> = if place.family == 4 {
        [1, 3, 10].map(|words| syn().options(words)).to_vec()
    } else {
        let chains: [&[Extension]; 4] = [
            &[Destination(0)],
            &[HopByHop, Destination(3)],
            &[Routing, Authentication],
            &[Destination(55)],
        ];
        chains.map(|chain| syn().extensions(chain)).to_vec()
    };
    let fixture = |(nth, syn): (usize, &Packet)| {
        Fixture::new(
            format!("refusals/SYN with options {nth} IPv{}", place.family),
            [Step::inbound(syn).leaves_as_bytes(rst_for(syn))],
        )
        .counts(Counter::NoEndpoints, 1)
        .counts(Counter::RejectSent, 1)
    };
    dressed.iter().enumerate().map(fixture).collect()
}

struct Case {
    place: Place,
    proto: &'static str,
    transport: Transport,
}

impl Case {
    fn name(&self, what: &str) -> String {
        format!("refusals/{what} {} IPv{}", self.proto, self.place.family)
    }

    fn opener(&self, dst: SocketAddr) -> Packet {
        packet(self.transport, self.place.client_at(), dst)
    }

    fn dropped(&self, what: &str, opener: &Packet, counter: Counter) -> Fixture {
        Fixture::new(self.name(what), [Step::inbound(opener).dropped()]).counts(counter, 1)
    }

    fn rejected(&self, what: &str, opener: &Packet, counter: Counter) -> Fixture {
        Fixture::new(
            self.name(what),
            [Step::inbound(opener).leaves_as_bytes(rejection(opener))],
        )
        .counts(counter, 1)
        .counts(Counter::RejectSent, 1)
    }

    /// Rules 43 to 45.
    fn without_endpoints(&self) -> Vec<Fixture> {
        ALL_TO
            .into_iter()
            .map(|to| {
                let opener = self.opener(self.place.dial(Svc::Empty, to));
                self.rejected(
                    &format!("no endpoints {to:?}"),
                    &opener,
                    Counter::NoEndpoints,
                )
            })
            .collect()
    }

    /// Rules 36 and 40; and rule 38 for the same Service from within.
    fn policies(&self) -> Vec<Fixture> {
        ALL_TO
            .into_iter()
            .map(|to| {
                let opener = self.opener(self.place.dial(Svc::Elsewhere, to));
                let what = format!("policy Local {to:?}");
                self.dropped(&what, &opener, Counter::NoLocalEndpoints)
            })
            .collect()
    }

    /// Rules 62 to 65.
    fn source_ranges(&self) -> Vec<Fixture> {
        let stranger = SocketAddr::new(self.place.stranger, 33_000);
        let (place, backend) = (&self.place, self.place.target(self.place.local));
        let lb = place.dial(Svc::Ranged, To::LoadBalancer);
        let node_port = place.dial(Svc::Ranged, To::NodePort);
        let let_in = |what: &str, opener: Packet| {
            let sent = opener.clone().to(backend);
            Fixture::new(self.name(what), [Step::inbound(&opener).becomes(&sent)])
                .counts(Counter::HitChosen, 1)
                .flow(Conversation::of(&opener, backend).with(FlowFlags::LOCAL))
        };
        vec![
            self.dropped(
                "source outside",
                &self.opener(lb).from(stranger),
                Counter::SourceDenied,
            ),
            let_in("source inside", self.opener(lb)),
            let_in(
                "source ranges do not bind NodePorts",
                self.opener(node_port).from(stranger),
            ),
        ]
    }

    /// Rules 83 and 84, and 87: not for other VIPs.
    fn no_frontend(&self) -> Vec<Fixture> {
        let place = &self.place;
        let at = |ip, port| SocketAddr::new(ip, port);
        let known = at(place.vip(Svc::Stack), 81);
        // A port that some Service has, and one that none has.
        let nobodys = |port| {
            let mut dst = at(place.vip(Svc::Stack), port);
            dst.set_ip(match dst.ip() {
                std::net::IpAddr::V4(_) => crate::common::ip("10.96.0.99"),
                std::net::IpAddr::V6(_) => crate::common::ip("fd00:96::99"),
            });
            dst
        };
        let lb = self.opener(at(place.lb(Svc::Stack), 81));
        vec![
            self.rejected("unknown port", &self.opener(known), Counter::UnknownPort),
            self.dropped(
                "unallocated address",
                &self.opener(nobodys(80)),
                Counter::UnallocatedAddress,
            ),
            self.dropped(
                "unallocated address and port",
                &self.opener(nobodys(81)),
                Counter::UnallocatedAddress,
            ),
            Fixture::new(
                self.name("unknown port of a load balancer"),
                [Step::inbound(&lb)],
            ),
        ]
    }
}

/// What a client is told by REJECT (rule 43).
pub fn rejection(opener: &Packet) -> Vec<u8> {
    if matches!(opener.transport, Transport::Tcp(_)) {
        return rst_for(opener);
    }
    let quoted = opener.l4() - opener.l3() + 8;
    error_for(opener, opener.dst.ip(), unreachable(opener), quoted)
}

pub fn unreachable(packet: &Packet) -> (u8, u8, u32) {
    if packet.src.is_ipv4() {
        (3, 3, 0)
    } else {
        (1, 4, 0)
    }
}

/// Rule 83: a ping to a ClusterIP is rejected, too.
fn echo_to_a_vip(place: &Place) -> Fixture {
    let (proto, kind) = if place.family == 4 { (1, 8) } else { (58, 128) };
    let vip = SocketAddr::new(place.vip(Svc::Stack), 0);
    let mut message = vec![kind, 0, 0, 0, 0, 7, 0, 1];
    message.extend(b"ping");
    let echo = packet(Transport::Other(proto), place.client_at(), vip).payload(message);
    let quoted = echo.l4() - echo.l3() + 8;
    let answer = error_for(&echo, vip.ip(), unreachable(&echo), quoted);
    Fixture::new(
        format!("refusals/echo to a ClusterIP IPv{}", place.family),
        [Step::inbound(&echo).leaves_as_bytes(answer)],
    )
    .counts(Counter::UnknownPort, 1)
    .counts(Counter::RejectSent, 1)
}

/// What opens nothing is not answered: rule 44.
fn answers_of_nobody(place: &Place) -> Fixture {
    let vip = place.dial(Svc::Empty, To::NodePort);
    let midway = packet(Transport::Tcp(ACK), place.client_at(), vip);
    Fixture::new(
        format!("refusals/only openers are refused IPv{}", place.family),
        [Step::inbound(&midway)],
    )
}
