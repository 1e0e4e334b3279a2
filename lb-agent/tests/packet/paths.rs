//! Each way through the node, in every family and protocol: an opener, its answer, and what makes it a flow
//! that is established.

use lb_common::{config::Config, flow::FlowFlags, reason::Counter};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{Link, Packet, Transport, packet};
use crate::rig::LB0_MAC;
use crate::world::{ALL_TO, OPENERS, Place, SNAT_PORT, Svc, To, places};
use std::net::SocketAddr;

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, opener, answer, third) in OPENERS {
            let name = |what: &str| format!("paths/{what} {proto} IPv{}", place.family);
            let transports = [opener, answer, third];
            for to in ALL_TO {
                let what = format!("{to:?} ");
                all.extend(stack(&place, transports, to, &|s| {
                    name(&format!("{what}{s}"))
                }));
                all.extend(redirect(&place, transports, to, &|s| {
                    name(&format!("{what}{s}"))
                }));
            }
            all.extend(lb0(&place, transports, &name));
            all.extend(without_link_header(&place, transports, &name));
            all.push(hairpin(&place, opener, &name));
            all.push(pod_to_cluster_ip(&place, opener, &name));
        }
    }
    all
}

type Name<'a> = &'a dyn Fn(&str) -> String;

/// A backend on this node keeps the client's address, and the stack routes both ways.
fn stack(place: &Place, transports: [Transport; 3], to: To, name: Name<'_>) -> Vec<Fixture> {
    let (client, vip) = (place.client_at(), place.dial(Svc::Stack, to));
    let backend = place.target(place.local);
    let steps = both_ways(
        transports,
        [client, vip],
        [client, backend],
        |step| step,
        |step| step,
    );
    let flow =
        Conversation::of(&packet(transports[0], client, vip), backend).with(FlowFlags::LOCAL);
    conversation(steps, flow, name, "stack")
}

/// A backend on another node sees this node, and we send both ways.
fn redirect(place: &Place, transports: [Transport; 3], to: To, name: Name<'_>) -> Vec<Fixture> {
    let (client, vip) = (place.client_at(), place.dial(Svc::Redirect, to));
    let (source, backend) = (place.masqueraded(), place.target(place.remote));
    let sent = Step::inbound;
    let steps = passages(transports, [client, vip], [source, backend])
        .map(|(before, after)| sent(&before).leaves_as(&after.clone().ttl(before.ttl - 1)));
    let flow = Conversation::of(&packet(transports[0], client, vip), backend).masqueraded(
        source,
        Device::Up0,
        Device::Up0,
    );
    conversation(steps, flow, name, "redirect")
}

/// Through `lb0`: up the stack, and back from it.
fn lb0(place: &Place, transports: [Transport; 3], name: Name<'_>) -> Vec<Fixture> {
    let (client, vip) = (place.client_at(), place.dial(Svc::Stack, To::NodePort));
    let source = SocketAddr::new(place.lb0, SNAT_PORT);
    let backend = place.target(place.local);
    let [there, back, again] = passages(transports, [client, vip], [source, backend]);
    let up = |(before, after): (Packet, Packet)| {
        let mut after = after;
        after.macs[0] = LB0_MAC;
        Step::inbound(&before).goes_up_as(&after)
    };
    let down = |(before, after): (Packet, Packet)| {
        let ttl = before.ttl - 1;
        Step::at_lb0(&before).leaves_as(&after.ttl(ttl))
    };
    let steps = [up(there), down(back), up(again)];
    let flow = Conversation::of(&packet(transports[0], client, vip), backend)
        .with(FlowFlags::LOCAL)
        .with(FlowFlags::LB0)
        .masqueraded(source, Device::Lb0, Device::Up0);
    let config: fn(&mut Config) = |config| config.flags |= Config::MASQUERADE_LOCAL;
    conversation(steps, flow, name, "lb0")
        .into_iter()
        .map(|fixture| fixture.config(config))
        .collect()
}

/// On devices without a link header packets begin with the network header.
fn without_link_header(place: &Place, transports: [Transport; 3], name: Name<'_>) -> Vec<Fixture> {
    let client = SocketAddr::new(place.l3_client, 33_000);
    let vip = place.dial(Svc::Stack, To::LoadBalancer);
    let backend = place.target(place.local);
    let opener = packet(transports[0], client, vip).link(Link::None);
    let stack = Fixture::new(
        name("stack without link header"),
        [Step::inbound_l3(&opener).becomes(&opener.clone().to(backend))],
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&opener, backend).with(FlowFlags::LOCAL));
    let vip = place.dial(Svc::Redirect, To::LoadBalancer);
    let (source, backend) = (place.masqueraded(), place.target(place.remote));
    let opener = opener.to(vip);
    let sent = opener.clone().from(source).to(backend).ttl(opener.ttl - 1);
    // The kernel takes a link header off before it writes another.
    let sent = [vec![0; 14], sent.bytes()].concat();
    let redirect = Fixture::new(
        name("redirect without link header"),
        [Step::inbound_l3(&opener).leaves_as_bytes(sent)],
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&opener, backend).masqueraded(source, Device::Up0, Device::Up0));
    // `lb0` has a link header, so the packet gets one.
    let source = SocketAddr::new(place.lb0, SNAT_PORT);
    let opener = packet(
        transports[0],
        client,
        place.dial(Svc::Stack, To::LoadBalancer),
    );
    let backend = place.target(place.local);
    let mut up = opener.clone().from(source).to(backend);
    up.macs = [LB0_MAC, [0; 6]];
    let flow = Conversation::of(&opener, backend)
        .with(FlowFlags::LOCAL)
        .with(FlowFlags::LB0)
        .masqueraded(source, Device::Lb0, Device::Up0);
    let lb0 = Fixture::new(
        name("lb0 without link header"),
        [Step::inbound_l3(&opener.link(Link::None)).goes_up_as(&up)],
    )
    .config(|config| config.flags |= Config::MASQUERADE_LOCAL)
    .counts(Counter::HitChosen, 1)
    .flow(flow);
    // Whom BPF_PROG_TEST_RUN takes for a link header: see [`Place::l3_client`].
    let answering = SocketAddr::new(place.l3_client, 33_001);
    let stranger = packet(transports[1], answering, client).link(Link::None);
    let passing = Fixture::new(
        name("no service without link header"),
        [Step::inbound_l3(&stranger), Step::outbound_l3(&stranger)],
    );
    vec![stack, redirect, lb0, passing]
}

/// A pod that dials itself sees an address that nobody has.
fn hairpin(place: &Place, opener: Transport, name: Name<'_>) -> Fixture {
    let client = SocketAddr::new(place.local, 33_000);
    let vip = place.dial(Svc::Stack, To::ClusterIp);
    let source = SocketAddr::new(place.lb0, SNAT_PORT);
    let backend = place.target(place.local);
    let opener = packet(opener, client, vip);
    let mut sent = opener.clone().from(source).to(backend);
    sent.macs[0] = LB0_MAC;
    let flow = Conversation::of(&opener, backend)
        .with(FlowFlags::LOCAL)
        .with(FlowFlags::LB0)
        .masqueraded(source, Device::Lb0, Device::Pod0);
    Fixture::new(
        name("hairpin"),
        [Step::inbound(&opener).at(Device::Pod0).goes_up_as(&sent)],
    )
    .counts(Counter::HitChosen, 1)
    .flow(flow)
}

/// A pod keeps its address towards a backend on another node.
fn pod_to_cluster_ip(place: &Place, opener: Transport, name: Name<'_>) -> Fixture {
    let client = SocketAddr::new(place.pod, 33_000);
    let vip = place.dial(Svc::Redirect, To::ClusterIp);
    let backend = place.target(place.remote);
    let opener = packet(opener, client, vip);
    Fixture::new(
        name("pod to ClusterIP"),
        [Step::inbound(&opener)
            .at(Device::Pod0)
            .becomes(&opener.clone().to(backend))],
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&opener, backend))
}

/// Opener, answer and one more packet, each before and after translation.
fn passages(
    [opener, answer, third]: [Transport; 3],
    [client, vip]: [SocketAddr; 2],
    [source, backend]: [SocketAddr; 2],
) -> [(Packet, Packet); 3] {
    [
        (packet(opener, client, vip), packet(opener, source, backend)),
        (packet(answer, backend, source), packet(answer, vip, client)),
        (packet(third, client, vip), packet(third, source, backend)),
    ]
}

/// The steps of a conversation whose answers leave by an uplink's egress.
fn both_ways(
    transports: [Transport; 3],
    outside: [SocketAddr; 2],
    inside: [SocketAddr; 2],
    inbound: impl Fn(Step) -> Step,
    outbound: impl Fn(Step) -> Step,
) -> [Step; 3] {
    let [there, back, again] = passages(transports, outside, inside);
    [
        inbound(Step::inbound(&there.0).becomes(&there.1)),
        outbound(Step::outbound(&back.0).becomes(&back.1)),
        inbound(Step::inbound(&again.0).becomes(&again.1)),
    ]
}

/// One fixture for each packet of a conversation, with those before it.
fn conversation(steps: [Step; 3], flow: Conversation, name: Name<'_>, way: &str) -> Vec<Fixture> {
    let states = [
        ("opener", flow.clone()),
        ("answer", flow.clone().with(FlowFlags::REPLIED)),
        ("established", flow.established()),
    ];
    states
        .into_iter()
        .enumerate()
        .map(|(nth, (what, flow))| {
            Fixture::new(name(&format!("{way} {what}")), steps[..=nth].to_vec())
                .counts(Counter::HitChosen, 1)
                .flow(flow)
        })
        .collect()
}
