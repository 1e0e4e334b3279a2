//! Tuples that two connections would share, and packets that leave with an address that no hook translated.

use std::net::SocketAddr;

use lb_common::{
    config::Config,
    flow::FlowFlags,
    nat::{DYNAMIC_HI, DYNAMIC_LO},
    net::BePort,
    reason::Counter,
};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{ACK, FIN, Packet, RST, SYN, Transport, error_for, packet, rst_for};
use crate::world::{CLIENT_PORT, OPENERS, Place, SNAT_PORT, Svc, To, places};

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, opener, _, third) in OPENERS {
            let case = Case {
                place,
                proto,
                opener,
            };
            all.push(case.two_vips());
            all.push(case.straight_to_the_pod());
            all.push(case.of_the_host());
            all.push(case.of_the_host_without_another_port());
            all.push(case.untranslated("a ClusterIP", CLIENT_PORT));
            all.push(case.untranslated("a ClusterIP from a port of ours", SNAT_PORT));
            if third != opener {
                all.push(case.older_than_the_flow(third));
                all.push(case.beside_an_established_flow(third));
            }
        }
        all.push(after_the_end(&place));
        all.push(snat_port_of_nobody(&place));
    }
    all
}

struct Case {
    place: Place,
    proto: &'static str,
    opener: Transport,
}

fn two_ports(config: &mut Config) {
    config.snat_hi = BePort::new(SNAT_PORT + 1);
}

impl Case {
    fn name(&self, what: &str) -> String {
        format!("colliders/{what} {} IPv{}", self.proto, self.place.family)
    }

    fn packet(&self, src: SocketAddr, dst: SocketAddr) -> Packet {
        packet(self.opener, src, dst)
    }

    fn dialled(&self, svc: Svc) -> Packet {
        self.packet(self.place.client_at(), self.place.dial(svc, To::NodePort))
    }

    /// A step that opens the flow to the backend of this node.
    fn stacked(&self) -> (Step, Conversation) {
        let opener = self.dialled(Svc::Stack);
        let backend = self.place.target(self.place.local);
        let step = Step::inbound(&opener).becomes(&opener.clone().to(backend));
        (
            step,
            Conversation::of(&opener, backend).with(FlowFlags::LOCAL),
        )
    }

    fn redirected(&self) -> (Step, Conversation) {
        let opener = self.dialled(Svc::Redirect);
        let (source, backend) = (
            self.place.masqueraded(),
            self.place.target(self.place.remote),
        );
        let sent = opener.clone().from(source).to(backend).ttl(opener.ttl - 1);
        let flow = Conversation::of(&opener, backend);
        (
            Step::inbound(&opener).leaves_as(&sent),
            flow.masqueraded(source, Device::Up0, Device::Up0),
        )
    }

    /// One client and port to two VIPs with one backend.
    fn two_vips(&self) -> Fixture {
        let (open, _) = self.stacked();
        let second = self.dialled(Svc::Twin);
        let sent = second.clone().to(self.place.target(self.place.local));
        let again = Step::inbound(&second).becomes_from(&sent, DYNAMIC_LO..=DYNAMIC_HI);
        Fixture::new(self.name("two VIPs with one backend"), [open, again])
            .counts(Counter::HitChosen, 2)
            .counts(Counter::PortChanged, 1)
            .whatever_flows()
    }

    /// The same client and port to the backend's own address.
    fn straight_to_the_pod(&self) -> Fixture {
        let (open, _) = self.stacked();
        let direct = self.packet(self.place.client_at(), self.place.target(self.place.local));
        let step = Step::inbound(&direct).becomes_from(&direct, DYNAMIC_LO..=DYNAMIC_HI);
        let again = step.clone();
        Fixture::new(
            self.name("straight to a backend in use"),
            [open, step, again],
        )
        .counts(Counter::HitChosen, 1)
        .counts(Counter::PortChanged, 1)
        .whatever_flows()
    }

    /// A socket of the host, or a CNI's masquerade, chose the port of a flow of ours.
    fn of_the_host(&self) -> Fixture {
        let (open, flow) = self.redirected();
        let own = self.packet(flow.source, flow.backend);
        let moved = SocketAddr::new(flow.source.ip(), SNAT_PORT + 1);
        let step = Step::outbound(&own)
            .under(two_ports)
            .becomes(&own.clone().from(moved));
        let host = Conversation {
            proto: flow.proto,
            client: flow.source,
            dialled: flow.backend,
            source: moved,
            backend: flow.backend,
            flags: FlowFlags::HOST.with(FlowFlags::PORT),
            devices: (Device::Stack, Device::Stack),
            is_embryo: true,
            is_of_service: false,
        };
        Fixture::new(self.name("a packet of the host"), [open, step])
            .counts(Counter::HitChosen, 1)
            .counts(Counter::HostPortMoved, 1)
            .flow(flow)
            .flow(host)
    }

    fn of_the_host_without_another_port(&self) -> Fixture {
        let (open, flow) = self.redirected();
        let own = self.packet(flow.source, flow.backend);
        Fixture::new(
            self.name("a packet of the host, no other port"),
            [open, Step::outbound(&own).dropped()],
        )
        .counts(Counter::HitChosen, 1)
        .counts(Counter::NoSnatPort, 1)
        .flow(flow)
    }

    /// A connection of the host was there before: ours gives way while nobody has answered it.
    fn older_than_the_flow(&self, third: Transport) -> Fixture {
        let (open, flow) = self.redirected();
        let own = packet(third, flow.source, flow.backend);
        Fixture::new(
            self.name("a connection of the host that is older"),
            [open, Step::outbound(&own)],
        )
        .counts(Counter::HitChosen, 1)
    }

    fn beside_an_established_flow(&self, third: Transport) -> Fixture {
        let (open, flow) = self.redirected();
        let answer = packet(third, flow.backend, flow.source);
        let shown = packet(third, flow.dialled, flow.client).ttl(answer.ttl - 1);
        let taken_up = packet(third, flow.client, flow.dialled);
        let sent = packet(third, flow.source, flow.backend).ttl(taken_up.ttl - 1);
        let own = packet(third, flow.source, flow.backend);
        Fixture::new(
            self.name("a connection of the host beside an established flow"),
            [
                open,
                Step::inbound(&answer).leaves_as(&shown),
                Step::inbound(&taken_up).leaves_as(&sent),
                Step::outbound(&own).dropped(),
            ],
        )
        .counts(Counter::HitChosen, 1)
        .counts(Counter::NoSnatPort, 1)
        .flow(flow.established())
    }

    /// A pod whose sockets are not this kernel's, or whose protocol has no hook.
    fn untranslated(&self, what: &str, port: u16) -> Fixture {
        let pod = SocketAddr::new(self.place.pod, port);
        let opener = self.packet(pod, self.place.dial(Svc::Redirect, To::ClusterIp));
        // It goes another way back than it came, under hardware addresses that are looked up.
        let mut turned = opener.clone();
        turned.macs.reverse();
        let answer = if matches!(self.opener, Transport::Tcp(_)) {
            rst_for(&turned)
        } else {
            let quoted = opener.l4() - opener.l3() + 8;
            let kind = crate::refusals::unreachable(&opener);
            error_for(&turned, opener.dst.ip(), kind, quoted)
        };
        Fixture::new(
            self.name(&format!("{what} about to leave the node")),
            [Step::outbound(&opener).leaves_as_bytes(answer)],
        )
        .counts(Counter::Untranslated, 1)
        .counts(Counter::RejectSent, 1)
    }
}

/// A new connection straight to the pod ends one that is over.
fn after_the_end(place: &Place) -> Fixture {
    let tcp = |flags, src, dst| packet(Transport::Tcp(flags), src, dst);
    let (client, vip) = (place.client_at(), place.dial(Svc::Stack, To::NodePort));
    let backend = place.target(place.local);
    let inbound =
        |flags| Step::inbound(&tcp(flags, client, vip)).becomes(&tcp(flags, client, backend));
    let outbound =
        |flags| Step::outbound(&tcp(flags, backend, client)).becomes(&tcp(flags, vip, client));
    let direct = tcp(SYN, client, backend);
    Fixture::new(
        format!(
            "colliders/straight to a backend after the end IPv{}",
            place.family
        ),
        [
            inbound(SYN),
            outbound(SYN | ACK),
            inbound(FIN | ACK),
            outbound(RST),
            Step::inbound(&direct),
            Step::outbound(&tcp(SYN | ACK, backend, client)),
        ],
    )
    .counts(Counter::HitChosen, 1)
}

/// A port of ours without a flow of ours is left alone, in both directions.
fn snat_port_of_nobody(place: &Place) -> Fixture {
    let own = packet(
        Transport::Tcp(SYN),
        place.masqueraded(),
        place.target(place.remote),
    );
    Fixture::new(
        format!(
            "colliders/a port of ours that nobody uses IPv{}",
            place.family
        ),
        [
            Step::outbound(&own),
            Step::inbound(&own.clone().reversed().transport(Transport::Tcp(SYN | ACK))),
        ],
    )
}
