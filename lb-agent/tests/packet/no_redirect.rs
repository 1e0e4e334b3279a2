//! `--no-redirect`: masqueraded flows to another node are forwarded by the stack, out of `lb0` and back into it, and
//! have an address of the node between uplink and backend alone.

use std::net::SocketAddr;

use lb_common::{config::Config, flow::FlowFlags, net::BePort, reason::Counter};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{Packet, Transport, error_about, packet};
use crate::rig::LB0_MAC;
use crate::world::{OPENERS, Place, SNAT_PORT, Svc, To, places};

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, opener, answer, third) in OPENERS {
            let case = Case {
                place,
                proto,
                transports: [opener, answer, third],
            };
            all.extend(case.conversation());
            all.push(case.without_a_port());
            all.push(case.by_another_device());
            all.push(case.to_a_backend_here());
            all.push(case.error_from_the_way());
            all.push(case.without_a_flow());
            if third != opener {
                all.push(case.a_new_connection_after_the_end(third));
            }
        }
        all.push(fragments(&place));
    }
    all
}

fn no_redirect(config: &mut Config) {
    config.flags |= Config::NO_REDIRECT;
}

struct Case {
    place: Place,
    proto: &'static str,
    transports: [Transport; 3],
}

/// The ends that a flow has at the client's side, in the stack, and behind the uplink.
struct Ends {
    client: SocketAddr,
    vip: SocketAddr,
    hidden: SocketAddr,
    node: SocketAddr,
    backend: SocketAddr,
}

fn ends(place: &Place) -> Ends {
    Ends {
        client: place.client_at(),
        vip: place.dial(Svc::Redirect, To::NodePort),
        hidden: SocketAddr::new(place.lb0, SNAT_PORT),
        node: place.masqueraded(),
        backend: place.target(place.remote),
    }
}

impl Ends {
    /// Two steps for a packet of the client, as the stack takes one hop off in between.
    fn there(&self, transport: Transport) -> [Step; 2] {
        let dialled = packet(transport, self.client, self.vip);
        self.there_as(&dialled)
    }

    fn there_as(&self, dialled: &Packet) -> [Step; 2] {
        let mut up = dialled.clone().from(self.hidden).to(self.backend);
        up.macs[0] = LB0_MAC;
        let forwarded = up.clone().ttl(up.ttl - 1);
        let sent = forwarded.clone().from(self.node);
        [
            Step::inbound(dialled).goes_up_as(&up),
            Step::outbound(&forwarded).becomes(&sent),
        ]
    }

    fn back(&self, transport: Transport) -> [Step; 2] {
        let answer = packet(transport, self.backend, self.node);
        let inside = answer.clone().to(self.hidden);
        let forwarded = inside.clone().ttl(inside.ttl - 1);
        let shown = packet(transport, self.vip, self.client).ttl(forwarded.ttl - 1);
        [
            Step::inbound(&answer).becomes(&inside),
            Step::at_lb0(&forwarded).leaves_as(&shown),
        ]
    }

    /// The flow of the Service, and the one between `lb0` and the uplink.
    fn flows(&self, opener: Transport) -> [Conversation; 2] {
        let dialled = packet(opener, self.client, self.vip);
        let flow = Conversation::of(&dialled, self.backend)
            .with(FlowFlags::LB0)
            .masqueraded(self.hidden, Device::Lb0, Device::Up0);
        let beside = Conversation {
            client: self.hidden,
            dialled: self.backend,
            source: self.node,
            flags: FlowFlags::HOST.with(FlowFlags::PORT),
            devices: (Device::Stack, Device::Stack),
            is_of_service: false,
            ..flow.clone()
        };
        [flow, beside]
    }
}

impl Case {
    fn fixture(&self, what: &str, steps: Vec<Step>) -> Fixture {
        let name = format!("no_redirect/{what} {} IPv{}", self.proto, self.place.family);
        Fixture::new(name, steps)
            .config(no_redirect)
            .counts(Counter::HitChosen, 1)
    }

    fn conversation(&self) -> Vec<Fixture> {
        let ends = ends(&self.place);
        let [opener, answer, third] = self.transports;
        let steps = [ends.there(opener), ends.back(answer), ends.there(third)].concat();
        let [new, replied, established]: [fn(Conversation) -> Conversation; 3] = [
            |flow| flow,
            |flow| flow.with(FlowFlags::REPLIED),
            Conversation::established,
        ];
        let states = [
            ("opener", 2, new),
            ("answer", 4, replied),
            ("established", 6, established),
        ];
        states
            .into_iter()
            .map(|(what, count, state)| {
                let [flow, beside] = ends.flows(opener).map(state);
                self.fixture(what, steps[..count].to_vec())
                    .flow(flow)
                    .flow(beside)
            })
            .collect()
    }

    /// The one port is taken towards this backend: nothing leaves with an address that nobody can answer.
    fn without_a_port(&self) -> Fixture {
        let ends = ends(&self.place);
        let [opener, ..] = self.transports;
        let [up, out] = ends.there(opener);
        let [flow, _] = ends.flows(opener);
        let out = out.under(|config| {
            no_redirect(config);
            (config.snat_lo, config.snat_hi) = (BePort::new(SNAT_PORT), BePort::new(SNAT_PORT));
        });
        let redirected = packet(opener, ends.client, ends.vip);
        let redirected = redirected
            .clone()
            .from(SocketAddr::new(self.place.stranger, 33_001));
        let sent = redirected.clone().from(ends.node).to(ends.backend);
        let sent = sent.clone().ttl(redirected.ttl - 1);
        let other = Step::inbound(&redirected).leaves_as(&sent).under(|_| {});
        let beside = Conversation::of(&redirected, ends.backend).masqueraded(
            ends.node,
            Device::Up0,
            Device::Up0,
        );
        self.fixture(
            "without a port",
            vec![up.under(no_redirect), other, out.dropped()],
        )
        .counts(Counter::HitChosen, 2)
        .counts(Counter::NoSnatPort, 1)
        .flow(flow)
        .flow(beside)
    }

    /// A backend that is not known to be here, behind a device that does not lead out.
    fn by_another_device(&self) -> Fixture {
        let ends = ends(&self.place);
        let [opener, ..] = self.transports;
        let [up, _] = ends.there(opener);
        let [flow, _] = ends.flows(opener);
        let forwarded = packet(opener, ends.hidden, ends.backend);
        let passing = Step::outbound(&forwarded).at(Device::Pod0);
        self.fixture("by a device that is no uplink", vec![up, passing])
            .flow(flow)
    }

    /// A backend of this node behind a device that leads out as well: a bridge with an address.
    fn to_a_backend_here(&self) -> Fixture {
        let ends = Ends {
            vip: self.place.dial(Svc::Stack, To::NodePort),
            backend: self.place.target(self.place.local),
            ..ends(&self.place)
        };
        let [opener, ..] = self.transports;
        let masqueraded = |config: &mut Config| config.flags |= Config::MASQUERADE_LOCAL;
        let [up, _] = ends.there(opener);
        let [flow, _] = ends.flows(opener);
        let forwarded = packet(opener, ends.hidden, ends.backend);
        self.fixture("to a backend here", vec![up, Step::outbound(&forwarded)])
            .config(masqueraded)
            .flow(flow.with(FlowFlags::LOCAL))
    }

    /// A router behind the uplink cannot go on: the stack hears of it as from the flow that it forwards.
    fn error_from_the_way(&self) -> Fixture {
        let ends = ends(&self.place);
        let [opener, ..] = self.transports;
        let kind = if self.place.family == 4 {
            (3, 1, 0)
        } else {
            (1, 3, 0)
        };
        let dialled = packet(opener, ends.client, ends.vip);
        let quote = |from: SocketAddr, to: SocketAddr| {
            let quoted = dialled.clone().from(from).to(to);
            let mut bytes = quoted.bytes().split_off(quoted.l3());
            bytes.truncate(quoted.l4() - quoted.l3() + 8);
            bytes
        };
        let router = self.place.stranger;
        let arriving = error_about(
            (router, ends.node.ip()),
            60,
            kind,
            &quote(ends.node, ends.backend),
        );
        let inside = quote(ends.hidden, ends.backend);
        let inside = |hops| error_about((router, ends.hidden.ip()), hops, kind, &inside);
        let shown = error_about(
            (ends.vip.ip(), ends.client.ip()),
            58,
            kind,
            &quote(ends.client, ends.vip),
        );
        let mut steps = ends.there(opener).to_vec();
        steps.push(Step::inbound_bytes(arriving).becomes_bytes(inside(60)));
        steps.push(Step::at_lb0_bytes(inside(59)).leaves_as_bytes(shown));
        let [flow, beside] = ends.flows(opener);
        self.fixture("an error from the way", steps)
            .counts(Counter::IcmpTranslated, 2)
            .flow(flow)
            .flow(beside)
    }

    /// What belongs to no flow makes none, whatever it is.
    fn without_a_flow(&self) -> Fixture {
        let ends = ends(&self.place);
        let [opener, _, third] = self.transports;
        let strays = [opener, third].map(|what| packet(what, ends.hidden, ends.backend));
        let name = format!(
            "no_redirect/without a flow {} IPv{}",
            self.proto, self.place.family
        );
        Fixture::new(name, strays.map(|stray| Step::outbound(&stray).dropped()))
            .config(no_redirect)
            .counts(Counter::FlowUnknown, 2)
    }

    /// The flow behind the uplink ends with its connection: the next one does not take over its state.
    fn a_new_connection_after_the_end(&self, third: Transport) -> Fixture {
        let ends = ends(&self.place);
        let [opener, answer, _] = self.transports;
        let reset = if matches!(third, Transport::Tcp(_)) {
            Transport::Tcp(crate::packet::RST)
        } else {
            Transport::Sctp(6)
        };
        let steps = [
            ends.there(opener),
            ends.back(answer),
            ends.there(third),
            ends.back(reset),
            ends.there(opener),
        ];
        let [flow, beside] = ends.flows(opener);
        self.fixture("a new connection after the end", steps.concat())
            .counts(Counter::HitChosen, 2)
            .flow(flow)
            .flow(beside)
    }
}

/// Parts follow the first on both sides of the stack.
fn fragments(place: &Place) -> Fixture {
    let ends = ends(place);
    let datagram = packet(Transport::Udp, ends.client, ends.vip);
    let part = |offset, more| {
        let part = datagram.clone().payload(vec![1; 64]);
        ends.there_as(&part.fragment(77, offset, more))
    };
    let steps = [part(0, true), part(9, true), part(17, false)].concat();
    let [flow, beside] = ends.flows(Transport::Udp);
    Fixture::new(format!("no_redirect/fragments IPv{}", place.family), steps)
        .config(no_redirect)
        .counts(Counter::HitChosen, 1)
        .flow(flow)
        .flow(beside)
}
