//! Fragments follow the first of their datagram (rule 98).

use lb_common::{flow::FlowFlags, reason::Counter};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{Packet, Transport, packet};
use crate::world::{Place, Svc, To, places};

pub fn fixtures() -> Vec<Fixture> {
    places()
        .into_iter()
        .flat_map(|place| {
            [
                through_the_stack(&place),
                redirected(&place),
                answers(&place),
                lost(&place),
                of_hosts(&place),
                of_two_datagrams(&place),
                of_sctp(&place),
            ]
        })
        .collect()
}

fn name(what: &str, place: &Place) -> String {
    format!("fragments/{what} IPv{}", place.family)
}

/// First, middle and last.
fn cut(datagram: &Packet, id: u16) -> [Packet; 3] {
    let part = |offset, more| {
        let byte = u8::try_from(offset).expect("small");
        datagram
            .clone()
            .payload(vec![byte; 64])
            .fragment(id, offset, more)
    };
    [part(0, true), part(9, true), part(17, false)]
}

fn datagram(place: &Place, svc: Svc, to: To) -> Packet {
    packet(Transport::Udp, place.client_at(), place.dial(svc, to))
}

fn through_the_stack(place: &Place) -> Fixture {
    let datagram = datagram(place, Svc::Stack, To::ClusterIp);
    let backend = place.target(place.local);
    let steps =
        cut(&datagram, 77).map(|part| Step::inbound(&part).becomes(&part.clone().to(backend)));
    Fixture::new(name("through the stack", place), steps)
        .counts(Counter::HitChosen, 1)
        .flow(Conversation::of(&datagram, backend).with(FlowFlags::LOCAL))
}

fn redirected(place: &Place) -> Fixture {
    let datagram = datagram(place, Svc::Redirect, To::NodePort);
    let (source, backend) = (place.masqueraded(), place.target(place.remote));
    let steps = cut(&datagram, 77).map(|part| {
        let sent = part.clone().from(source).to(backend).ttl(part.ttl - 1);
        Step::inbound(&part).leaves_as(&sent)
    });
    Fixture::new(name("redirected", place), steps)
        .counts(Counter::HitChosen, 1)
        .flow(Conversation::of(&datagram, backend).masqueraded(source, Device::Up0, Device::Up0))
}

fn answers(place: &Place) -> Fixture {
    let datagram = datagram(place, Svc::Stack, To::NodePort);
    let backend = place.target(place.local);
    let open = Step::inbound(&datagram).becomes(&datagram.clone().to(backend));
    let answer = packet(Transport::Udp, backend, datagram.src);
    let shown = datagram.dst;
    let parts =
        cut(&answer, 78).map(|part| Step::outbound(&part).becomes(&part.clone().from(shown)));
    let flow = Conversation::of(&datagram, backend)
        .with(FlowFlags::LOCAL)
        .with(FlowFlags::REPLIED);
    Fixture::new(
        name("of answers", place),
        [vec![open], parts.to_vec()].concat(),
    )
    .counts(Counter::HitChosen, 1)
    .flow(flow)
}

/// What came before its first part cannot be told whose it is; untranslated it must not go on.
fn lost(place: &Place) -> Fixture {
    let [_, middle, last] = cut(&datagram(place, Svc::Stack, To::ClusterIp), 79);
    Fixture::new(
        name("before their first", place),
        [middle, last].map(|part| Step::inbound(&part).dropped()),
    )
    .counts(Counter::FragmentUnknown, 2)
}

/// On an address of the node they may be the host's.
fn of_hosts(place: &Place) -> Fixture {
    let [_, middle, last] = cut(&datagram(place, Svc::Stack, To::NodePort), 80);
    Fixture::new(
        name("of the host", place),
        [middle, last].map(|part| Step::inbound(&part)),
    )
}

/// Two datagrams of one pair of addresses are told apart by their identification.
fn of_two_datagrams(place: &Place) -> Fixture {
    let first = datagram(place, Svc::Stack, To::ClusterIp);
    let backend = place.target(place.local);
    let [one, two, _] = cut(&first, 81);
    let [_, stray, _] = cut(&first, 82);
    Fixture::new(
        name("of two datagrams", place),
        [
            Step::inbound(&one).becomes(&one.clone().to(backend)),
            Step::inbound(&stray).dropped(),
            Step::inbound(&two).becomes(&two.clone().to(backend)),
        ],
    )
    .counts(Counter::HitChosen, 1)
    .counts(Counter::FragmentUnknown, 1)
    .flow(Conversation::of(&first, backend).with(FlowFlags::LOCAL))
}

/// Its checksum covers what is elsewhere: with another port it cannot be right.
fn of_sctp(place: &Place) -> Fixture {
    let chunk = Transport::Sctp(crate::packet::INIT);
    let opener = datagram(place, Svc::Stack, To::ClusterIp).transport(chunk);
    let [first, ..] = cut(&opener, 83);
    let flow = Conversation::of(&opener, place.target(place.local)).with(FlowFlags::LOCAL);
    Fixture::new(name("of SCTP", place), [Step::inbound(&first).dropped()])
        .counts(Counter::HitChosen, 1)
        .counts(Counter::Malformed, 1)
        .flow(flow)
}
