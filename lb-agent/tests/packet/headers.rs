//! Headers that are long, odd or broken: translated right, or left alone.

use lb_common::{flow::FlowFlags, reason::Counter};

use crate::fixture::{Conversation, Device, Fixture, Step};
use crate::packet::{ACK, Extension, Link, Packet, SYN, Transport, addr, packet};
use crate::world::{MARK, OPENERS, Place, Svc, To, places};

pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for place in places() {
        for (proto, opener, _, _) in OPENERS {
            all.extend(long(&place, proto, opener));
            all.extend(lying(&place, proto, opener));
            all.extend(cut(&place, proto, opener));
            all.push(tagged(&place, proto, opener));
            all.push(padded(&place, proto, opener));
        }
        all.extend(unsummed(&place));
        all.extend(marks(&place));
        all.extend(no_service(&place));
    }
    all.extend(broken4());
    all.extend(broken6());
    all.extend(other_protocols_of_the_link());
    all
}

fn opener(place: &Place, transport: Transport, svc: Svc) -> Packet {
    packet(transport, place.client_at(), place.dial(svc, To::NodePort))
}

/// Through the stack, and redirected.
fn both_ways(
    name: &str,
    place: &Place,
    change: impl Fn(Packet) -> Packet,
    transport: Transport,
) -> Vec<Fixture> {
    let there = change(opener(place, transport, Svc::Stack));
    let backend = place.target(place.local);
    let stack = Fixture::new(
        format!("{name} stack"),
        [Step::inbound(&there).becomes(&there.clone().to(backend))],
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&there, backend).with(FlowFlags::LOCAL));
    let there = change(opener(place, transport, Svc::Redirect));
    let (source, backend) = (place.masqueraded(), place.target(place.remote));
    let sent = there.clone().from(source).to(backend).ttl(there.ttl - 1);
    let redirect = Fixture::new(
        format!("{name} redirect"),
        [Step::inbound(&there).leaves_as(&sent)],
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&there, backend).masqueraded(source, Device::Up0, Device::Up0));
    vec![stack, redirect]
}

fn long(place: &Place, proto: &str, transport: Transport) -> Vec<Fixture> {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    if place.family == 4 {
        return [1, 10]
            .into_iter()
            .flat_map(|words| {
                let name = format!("headers/{words} words of options {proto}");
                both_ways(&name, place, |packet| packet.options(words), transport)
            })
            .collect();
    }
    let chains: [(&str, &[Extension]); 5] = [
        ("hop-by-hop", &[HopByHop]),
        ("authentication", &[Authentication]),
        ("routing and options", &[Routing, Destination(1)]),
        (
            "six headers",
            &[
                HopByHop,
                Destination(0),
                Routing,
                Authentication,
                Destination(1),
                Destination(0),
            ],
        ),
        ("long options", &[Destination(20)]),
    ];
    chains
        .into_iter()
        .flat_map(|(what, chain)| {
            let name = format!("headers/{what} {proto}");
            both_ways(&name, place, |packet| packet.extensions(chain), transport)
        })
        .collect()
}

/// Nothing that is cut short before its ports and state are known is touched; a Service's packet whose payload is missing
/// is dropped.
fn cut(place: &Place, proto: &str, transport: Transport) -> Vec<Fixture> {
    let whole = opener(place, transport, Svc::Stack);
    let (bytes, l4) = (whole.bytes(), whole.l4());
    let needed = match transport {
        Transport::Tcp(_) => 20,
        Transport::Sctp(_) => 16,
        Transport::Udp
        | Transport::UdpUnsummed
        | Transport::SctpUnsummed(_)
        | Transport::Other(_) => 8,
    };
    (0..=needed)
        .step_by(4)
        .chain([needed - 1])
        .map(|len| {
            let cut = bytes[..l4 + len].to_vec();
            let name = format!("headers/{proto} of {len} bytes IPv{}", place.family);
            if len < needed {
                return Fixture::new(name, [Step::inbound_bytes(cut)]);
            }
            Fixture::new(name, [Step::inbound_bytes(cut).dropped()]).counts(Counter::Malformed, 1)
        })
        .collect()
}

/// Lengths that contradict each other: of an opener, of a packet with a flow, and of what is no Service's.
fn lying(place: &Place, proto: &str, transport: Transport) -> Vec<Fixture> {
    let (l3, v4) = (14, place.family == 4);
    let l4 = l3 + if v4 { 20 } else { 40 };
    // Where the network header says how long the packet is, and what a header without payload would be.
    let (said, bare) = if v4 { (l3 + 2, 20) } else { (l3 + 4, 0) };
    let of_transport: &[(&str, usize, [u8; 2])] = match transport {
        Transport::Tcp(_) => &[("longer TCP header", 12, [0xf0, 2])],
        Transport::Udp => &[
            ("UDP length of 7", 4, [0, 7]),
            ("UDP length of 99", 4, [0, 99]),
        ],
        Transport::UdpUnsummed
        | Transport::Sctp(_)
        | Transport::SctpUnsummed(_)
        | Transport::Other(_) => &[],
    };
    let mut changes: Vec<(&str, usize, [u8; 2])> = (of_transport.iter())
        .map(|(what, at, value)| (*what, l4 + at, *value))
        .collect();
    changes.push((
        "packet that ends in its transport header",
        said,
        [0, bare + 7],
    ));
    changes.push(("packet that ends before its end", said, [4, 0]));
    let fixtures = |(what, at, value): (&str, usize, [u8; 2])| {
        let changed = |packet: &Packet| {
            let mut bytes = packet.bytes();
            bytes[at..at + 2].copy_from_slice(&value);
            bytes
        };
        let name = |of: &str| format!("headers/{what} of {of} {proto} IPv{}", place.family);
        let opener = opener(place, transport, Svc::Redirect);
        let (source, backend) = (place.masqueraded(), place.target(place.remote));
        let sent = opener.clone().from(source).to(backend).ttl(opener.ttl - 1);
        let answer = changed(&opener.clone().from(backend).to(source));
        let flow = Conversation::of(&opener, backend).masqueraded(source, Device::Up0, Device::Up0);
        let other = changed(&opener.clone().to(place.client_at()));
        [
            Fixture::new(
                name("an opener"),
                [Step::inbound_bytes(changed(&opener)).dropped()],
            )
            .counts(Counter::Malformed, 1),
            Fixture::new(
                name("an answer"),
                [
                    Step::inbound(&opener).leaves_as(&sent),
                    Step::inbound_bytes(answer).dropped(),
                ],
            )
            .counts(Counter::HitChosen, 1)
            .counts(Counter::Malformed, 1)
            .flow(flow),
            Fixture::new(
                name("nobody"),
                [
                    Step::inbound_bytes(other.clone()),
                    Step::outbound_bytes(other),
                ],
            ),
        ]
    };
    changes.into_iter().flat_map(fixtures).collect()
}

/// A tag among the bytes: the VLAN's own device sees the packet without it.
fn tagged(place: &Place, proto: &str, transport: Transport) -> Fixture {
    let tagged = opener(place, transport, Svc::Stack).link(Link::Vlan(7));
    Fixture::new(
        format!("headers/VLAN tag {proto} IPv{}", place.family),
        [Step::inbound(&tagged), Step::outbound(&tagged)],
    )
}

fn padded(place: &Place, proto: &str, transport: Transport) -> Fixture {
    let there = opener(place, transport, Svc::Redirect).payload(Vec::new());
    let (source, backend) = (place.masqueraded(), place.target(place.remote));
    let sent = there.clone().from(source).to(backend).ttl(there.ttl - 1);
    let pad = |packet: &Packet| [packet.bytes().as_slice(), &[0xaa; 17]].concat();
    Fixture::new(
        format!("headers/padding behind {proto} IPv{}", place.family),
        [Step::inbound_bytes(pad(&there)).leaves_as_bytes(pad(&sent))],
    )
    .counts(Counter::HitChosen, 1)
    .flow(Conversation::of(&there, backend).masqueraded(source, Device::Up0, Device::Up0))
}

fn unsummed(place: &Place) -> Vec<Fixture> {
    let mut all = both_ways(
        &format!("headers/SCTP without checksum IPv{}", place.family),
        place,
        |packet| packet,
        Transport::SctpUnsummed(crate::packet::INIT),
    );
    if place.family == 4 {
        all.extend(both_ways(
            "headers/UDP without checksum",
            place,
            |packet| packet,
            Transport::UdpUnsummed,
        ));
    }
    all
}

/// Our own egress program runs on what we have sent: its mark is taken off, and that is all.
fn marks(place: &Place) -> Vec<Fixture> {
    let name = |what: &str| format!("headers/{what} IPv{}", place.family);
    let (client, vip) = (place.client_at(), place.dial(Svc::Stack, To::NodePort));
    let backend = place.target(place.local);
    let there = packet(Transport::Tcp(SYN), client, vip);
    let back = packet(Transport::Tcp(SYN | ACK), backend, client);
    let flow = Conversation::of(&there, backend).with(FlowFlags::LOCAL);
    let open = || Step::inbound(&there).becomes(&there.clone().to(backend));
    let ours = Fixture::new(
        name("a mark of ours is taken off, and nothing else done"),
        [
            open(),
            Step::outbound(&back)
                .marked(MARK | 0x4000)
                .unmarked_to(0x4000),
        ],
    )
    .counts(Counter::HitChosen, 1)
    .flow(flow.clone());
    let others = Fixture::new(
        name("marks of others are kept"),
        [
            Step::inbound(&there)
                .marked(0x4000)
                .becomes(&there.clone().to(backend)),
            Step::outbound(&back)
                .marked(0x8000)
                .becomes(&back.clone().from(vip)),
        ],
    )
    .counts(Counter::HitChosen, 1)
    .flow(flow.clone().with(FlowFlags::REPLIED));
    let arriving = Fixture::new(
        name("a mark of ours means nothing to what arrives"),
        [Step::inbound(&there)
            .marked(MARK)
            .becomes(&there.clone().to(backend))],
    )
    .counts(Counter::HitChosen, 1)
    .flow(flow);
    vec![ours, others, arriving]
}

/// What is no Service's passes, in both directions, whatever it is.
fn no_service(place: &Place) -> Vec<Fixture> {
    let mut all = Vec::new();
    let node = |port| std::net::SocketAddr::new(place.nodes[0], port);
    for (proto, opener, answer, third) in OPENERS {
        for (nth, transport) in [opener, answer, third].into_iter().enumerate() {
            let name = |what: &str| format!("headers/{what} {proto} {nth} IPv{}", place.family);
            let to_host = packet(transport, place.client_at(), node(22));
            let to_pod = packet(transport, place.client_at(), place.target(place.pod));
            let unused = packet(transport, place.client_at(), node(30_999));
            let elsewhere = packet(transport, place.client_at(), place.target(place.stranger));
            let passing = [to_host, to_pod, unused, elsewhere];
            all.push(Fixture::new(
                name("no service's inbound"),
                passing.iter().map(Step::inbound),
            ));
            all.push(Fixture::new(
                name("no service's outbound"),
                passing
                    .iter()
                    .map(|packet| Step::outbound(&packet.clone().reversed())),
            ));
            all.push(Fixture::new(
                name("no service's at lb0"),
                passing
                    .iter()
                    .map(|packet| Step::at_lb0(&packet.clone().reversed())),
            ));
        }
    }
    // A connection that began before us has no flow, and gets none by a guess.
    let midway = packet(
        Transport::Tcp(ACK),
        place.client_at(),
        place.dial(Svc::Stack, To::NodePort),
    );
    all.push(Fixture::new(
        format!("headers/TCP without SYN and flow IPv{}", place.family),
        [
            Step::inbound(&midway),
            Step::outbound(&midway.clone().reversed()),
        ],
    ));
    for number in [41, 47, 50, 103, 136] {
        let other = packet(Transport::Other(number), place.client_at(), node(0));
        all.push(Fixture::new(
            format!("headers/protocol {number} IPv{}", place.family),
            [Step::inbound(&other), Step::outbound(&other)],
        ));
    }
    all
}

fn opener4() -> Vec<u8> {
    opener(&places()[0], Transport::Tcp(SYN), Svc::Stack).bytes()
}

/// Bytes of a good packet overwritten: all of them pass untouched, to be dropped by the stack.
fn broken4() -> Vec<Fixture> {
    let cases: [(&str, usize, &[u8]); 9] = [
        ("version 6 in IPv4", 14, &[0x65]),
        ("header of 16 bytes", 14, &[0x44]),
        ("header of no bytes", 14, &[0x40]),
        ("header of 60 bytes that are not there", 14, &[0x4f]),
        ("total length 0", 16, &[0, 0]),
        ("total length 19", 16, &[0, 19]),
        ("TCP header of 16 bytes", 46, &[0x40]),
        ("TCP header of no bytes", 46, &[0]),
        ("to a protocol without ports", 23, &[255]),
    ];
    cases
        .into_iter()
        .map(|(name, at, value)| {
            let mut bytes = opener4();
            if name.contains("not there") {
                bytes.truncate(14 + 60);
            }
            bytes[at..at + value.len()].copy_from_slice(value);
            Fixture::new(
                format!("headers/{name}"),
                [
                    Step::inbound_bytes(bytes.clone()),
                    Step::outbound_bytes(bytes),
                ],
            )
        })
        .collect()
}

fn broken6() -> Vec<Fixture> {
    let place = places()[1];
    let good = opener(&place, Transport::Tcp(SYN), Svc::Stack);
    let mut version = good.bytes();
    version[14] = 0x45;
    let mut endless = good
        .clone()
        .extensions(&[Extension::Destination(0)])
        .bytes();
    endless[14 + 40 + 1] = 255;
    let mut chained = good
        .clone()
        .extensions(&[Extension::Destination(0)])
        .bytes();
    chained[14 + 40] = 60;
    let seven = good.clone().extensions(&[Extension::Destination(0); 7]);
    // Offsets in a program stay below 2,048: seen through that, the ports of a Service stand in the options.
    let udp = packet(
        Transport::Udp,
        place.client_at(),
        place.dial(Svc::Stack, To::ClusterIp),
    );
    let mut long = udp.to(std::net::SocketAddr::new(place.vip(Svc::Stack), 9));
    long.extensions = vec![Extension::Destination(255)];
    let mut long = long.bytes();
    long[14 + 40 + 2..][..2].copy_from_slice(&crate::world::PORT.to_be_bytes());
    [
        ("version 4 in IPv6", version),
        ("options longer than the packet", endless),
        ("options that follow themselves", chained),
        ("more extension headers than we look at", seven.bytes()),
        ("options of 2,048 bytes", long),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        Fixture::new(
            format!("headers/{name}"),
            [
                Step::inbound_bytes(bytes.clone()),
                Step::outbound_bytes(bytes),
            ],
        )
    })
    .collect()
}

fn other_protocols_of_the_link() -> Vec<Fixture> {
    [("ARP", 0x0806_u16), ("MPLS", 0x8847), ("LLDP", 0x88cc)]
        .into_iter()
        .map(|(name, number)| {
            let mut bytes = packet(
                Transport::Udp,
                addr("192.0.2.9", 1),
                addr("192.0.2.1", 30_010),
            )
            .bytes();
            bytes[12..14].copy_from_slice(&number.to_be_bytes());
            Fixture::new(
                format!("headers/{name}"),
                [
                    Step::inbound_bytes(bytes.clone()),
                    Step::outbound_bytes(bytes),
                ],
            )
        })
        .collect()
}
