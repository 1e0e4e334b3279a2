//! Rewritten packets, held against packets that say the new tuple from the start.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{
    frame::{Buffer, Sums},
    packet::{Extension, Link, Packet, Transport, addr, packet},
};
use lb_common::{
    csum,
    flow::FlowKey,
    net::{Addr4, Addr6, BePort, Proto},
    parse::{Header, Parse, port_pair},
    rewrite::{Rewrite, rewrite},
    sctp,
};
use proptest::prelude::*;

/// A family as these tests need it.
trait Family: Parse + Rewrite {
    fn of(ip: IpAddr) -> Self;
}

impl Family for Addr4 {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(_) => panic!("of the other family"),
        }
    }
}

impl Family for Addr6 {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V6(ip) => ip.into(),
            IpAddr::V4(_) => panic!("of the other family"),
        }
    }
}

fn key<A: Family>(proto: Proto, src: SocketAddr, dst: SocketAddr) -> FlowKey<A> {
    let port = BePort::new;
    FlowKey::new(
        proto,
        A::of(src.ip()),
        port(src.port()),
        A::of(dst.ip()),
        port(dst.port()),
    )
}

/// The bytes with their transport checksum left to a device.
fn partial(packet: &Packet) -> Vec<u8> {
    let mut bytes = packet.bytes();
    let segment = packet.segment();
    let proto = Proto(packet.proto().0);
    let at = packet.l4() + csum::field(proto).unwrap();
    let len = u32::try_from(segment.len()).unwrap();
    let sum = if packet.src.is_ipv4() {
        pseudo::<Addr4>(packet, proto, len)
    } else {
        pseudo::<Addr6>(packet, proto, len)
    };
    bytes[at..at + 2].copy_from_slice(&sum);
    bytes
}

fn pseudo<A: Family>(packet: &Packet, proto: Proto, len: u32) -> [u8; 2] {
    let (src, dst) = (A::of(packet.src.ip()), A::of(packet.dst.ip()));
    csum::pseudo_header(&src, &dst, proto, len).folded()
}

fn image(packet: &Packet, sums: Sums) -> Vec<u8> {
    match sums {
        Sums::Full => packet.bytes(),
        Sums::Partial => partial(packet),
    }
}

/// What `rewrite` makes of a packet.
fn rewritten(packet: &Packet, sums: Sums, src: SocketAddr, dst: SocketAddr) -> Option<Vec<u8>> {
    let bytes = image(packet, sums);
    if packet.src.is_ipv4() {
        run::<Addr4>(bytes, packet, sums, src, dst)
    } else {
        run::<Addr6>(bytes, packet, sums, src, dst)
    }
}

fn run<A: Family>(
    bytes: Vec<u8>,
    packet: &Packet,
    sums: Sums,
    src: SocketAddr,
    dst: SocketAddr,
) -> Option<Vec<u8>> {
    let buffer = Buffer::new(bytes, sums);
    let header = A::header(&buffer, u32::try_from(packet.l3()).unwrap()).unwrap();
    let old = key::<A>(header.proto, packet.src, packet.dst);
    let new = key::<A>(header.proto, src, dst);
    rewrite(&buffer, &header, &old, &new).then(|| buffer.into_bytes())
}

/// Every header checksum of the packet, computed anew, is the one that it has.
fn assert_sums(packet: &Packet, bytes: &[u8]) {
    let (network, segment) = bytes[packet.l3()..].split_at(packet.l4() - packet.l3());
    if packet.src.is_ipv4() {
        assert_eq!(csum::ipv4_header(network).unwrap(), network[10..12]);
    }
    let proto = Proto(packet.proto().0);
    let whole = match proto {
        Proto::SCTP => csum::sctp(segment).unwrap().to_vec(),
        _ if packet.src.is_ipv4() => segment_sum::<Addr4>(packet, proto, segment),
        _ => segment_sum::<Addr6>(packet, proto, segment),
    };
    let at = if proto == Proto::SCTP {
        8
    } else {
        csum::field(proto).unwrap()
    };
    assert_eq!(whole, segment[at..at + whole.len()]);
}

fn segment_sum<A: Family>(packet: &Packet, proto: Proto, segment: &[u8]) -> Vec<u8> {
    let (src, dst) = (A::of(packet.src.ip()), A::of(packet.dst.ip()));
    csum::segment(&src, &dst, proto, segment).unwrap().to_vec()
}

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![
        any::<u8>().prop_map(|flags| Transport::Tcp(flags & 0x17)),
        Just(Transport::Udp),
        any::<u8>().prop_map(Transport::Sctp),
    ]
}

fn socket(is_v4: bool) -> BoxedStrategy<SocketAddr> {
    // Addresses and ports of all ones and all zeros, too, where one's complement has two zeros.
    let byte = prop_oneof![2 => any::<u8>(), 1 => Just(0), 1 => Just(0xff)];
    let port = prop_oneof![2 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff)];
    if is_v4 {
        (prop::array::uniform4(byte), port)
            .prop_map(|(ip, port)| (IpAddr::from(ip), port).into())
            .boxed()
    } else {
        (prop::array::uniform16(byte), port)
            .prop_map(|(ip, port)| (IpAddr::from(ip), port).into())
            .boxed()
    }
}

fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    prop::sample::subsequence(
        vec![
            HopByHop,
            Destination(3),
            Routing,
            Authentication,
            Destination(0),
        ],
        0..=5,
    )
}

/// A packet, and four ends: client, VIP, our address and backend.
fn passages() -> impl Strategy<Value = (Packet, SocketAddr, SocketAddr)> {
    let ends = any::<bool>()
        .prop_flat_map(|is_v4| (socket(is_v4), socket(is_v4), socket(is_v4), socket(is_v4)));
    let shape = (transports(), 0..=10_usize, extensions(), 2..=255_u8);
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    let link = prop_oneof![Just(Link::Ethernet), Just(Link::None)];
    (ends, shape, payload, link).prop_map(|(ends, shape, payload, link)| {
        let (client, vip, ours, backend) = ends;
        let (transport, words, extensions, ttl) = shape;
        let packet = packet(transport, client, vip)
            .options(words)
            .extensions(&extensions)
            .ttl(ttl)
            .payload(payload)
            .link(link);
        (packet, ours, backend)
    })
}

proptest! {
    /// DNAT and SNAT of any packet give the packet that says the new tuple; its answer, translated back, is
    /// the answer that the client expects; and the way back of the packet itself gives the original bytes.
    #[test]
    fn any_passage_and_its_answer_keep_all_but_the_tuple(
        (packet, ours, backend) in passages()
    ) {
        let there = rewritten(&packet, Sums::Full, ours, backend).expect("a whole packet");
        let wanted = packet.clone().from(ours).to(backend);
        prop_assert_eq!(&there, &wanted.bytes());
        assert_sums(&wanted, &there);

        let answer = wanted.clone().reversed();
        let back = rewritten(&answer, Sums::Full, packet.dst, packet.src).expect("a whole packet");
        let shown = packet.clone().reversed();
        prop_assert_eq!(&back, &shown.bytes());
        assert_sums(&shown, &back);

        let undone = rewritten(&wanted, Sums::Full, packet.src, packet.dst).expect("a whole packet");
        prop_assert_eq!(undone, packet.bytes());
    }

    /// Where a device completes the checksum, the field goes on holding the pseudo header's sum.
    #[test]
    fn what_a_device_completes_holds_the_pseudo_header_of_the_new_tuple(
        (packet, ours, backend) in passages()
    ) {
        let transport = if let Transport::Sctp(chunk) = packet.transport {
            Transport::SctpUnsummed(chunk)
        } else {
            packet.transport
        };
        let packet = packet.transport(transport);
        let wanted = packet.clone().from(ours).to(backend);
        if let Transport::SctpUnsummed(_) = transport {
            let there = rewritten(&packet, Sums::Full, ours, backend).expect("a whole packet");
            prop_assert_eq!(there, wanted.bytes());
            return Ok(());
        }
        let there = rewritten(&packet, Sums::Partial, ours, backend).expect("a whole packet");
        let at = wanted.l4() + csum::field(Proto(wanted.proto().0)).unwrap();
        let mut completed = there.clone();
        let sum = fold(&there[wanted.l4()..]);
        completed[at..at + 2].copy_from_slice(&match sum {
            [0, 0] if transport == Transport::Udp => [0xff; 2],
            sum => sum,
        });
        prop_assert_eq!(completed, wanted.bytes());
    }

    #[test]
    fn a_crc_changes_as_one_computed_anew(
        mut bytes in prop::collection::vec(any::<u8>(), 12..400),
        ports in any::<[u8; 4]>(),
        at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(bytes.len() - 3);
        let before = !csum::crc32c(!0, &bytes);
        let old = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        bytes[at..at + 4].copy_from_slice(&ports);
        let delta = old ^ u32::from_le_bytes(ports);
        let after = u32::try_from(bytes.len() - at - 4).unwrap();
        prop_assert_eq!(before ^ sctp::crc_change(delta, after), !csum::crc32c(!0, &bytes));
    }

    #[test]
    fn a_hop_less_is_all_that_changes((packet, _, _) in passages()) {
        let wanted = packet.clone().ttl(packet.ttl - 1).bytes();
        let buffer = Buffer::new(packet.bytes(), Sums::Full);
        let l3 = u32::try_from(packet.l3()).unwrap();
        let is_stored = if packet.src.is_ipv4() {
            Addr4::store_ttl(&buffer, l3, packet.ttl - 1)
        } else {
            Addr6::store_ttl(&buffer, l3, packet.ttl - 1)
        };
        prop_assert!(is_stored);
        prop_assert_eq!(buffer.into_bytes(), wanted);
    }
}

/// What a device does with a segment whose field holds the pseudo header's sum.
fn fold(segment: &[u8]) -> [u8; 2] {
    csum::Sum::default().with(segment).checksum()
}

fn ends4() -> [SocketAddr; 4] {
    [
        addr("203.0.113.9", 40_000),
        addr("192.0.2.1", 30_080),
        addr("192.0.2.1", 61_001),
        addr("10.244.2.1", 8_080),
    ]
}

fn ends6() -> [SocketAddr; 4] {
    [
        addr("2001:db8:9::9", 40_000),
        addr("2001:db8::1", 30_080),
        addr("2001:db8::1", 61_001),
        addr("fd00:244:2::1", 8_080),
    ]
}

#[test]
fn a_udp_checksum_of_zero_stays_none() {
    let [client, vip, ours, backend] = ends4();
    let packet = packet(Transport::UdpUnsummed, client, vip);
    let there = rewritten(&packet, Sums::Full, ours, backend).unwrap();
    assert_eq!(there, packet.from(ours).to(backend).bytes());
}

/// Every port once, so that the sum passes through zero.
#[test]
fn a_udp_sum_that_becomes_zero_is_written_as_ones() {
    for [client, vip, ours, backend] in [ends4(), ends6()] {
        let packet = packet(Transport::Udp, client, vip).payload(Vec::new());
        let mut ones = 0;
        for port in (0..=u16::MAX).step_by(if cfg!(miri) { 9_999 } else { 1 }) {
            let ours = SocketAddr::new(ours.ip(), port);
            let there = rewritten(&packet, Sums::Full, ours, backend).unwrap();
            let at = packet.l4() + 6;
            assert_ne!(there[at..at + 2], [0, 0], "port {port}");
            ones += u32::from(there[at..at + 2] == [0xff, 0xff]);
        }
        assert!(cfg!(miri) || ones == 1, "{ones}");
    }
}

#[test]
fn the_same_tuple_changes_nothing() {
    for [client, vip, ..] in [ends4(), ends6()] {
        for transport in [Transport::Tcp(0), Transport::Udp, Transport::Sctp(0)] {
            let packet = packet(transport, client, vip);
            let same = rewritten(&packet, Sums::Full, client, vip).unwrap();
            assert_eq!(same, packet.bytes(), "{transport:?}");
        }
    }
}

#[test]
fn a_later_fragment_gets_new_addresses_alone() {
    for [client, vip, ours, backend] in [ends4(), ends6()] {
        for transport in [Transport::Udp, Transport::Tcp(0), Transport::Sctp(0)] {
            let packet = packet(transport, client, vip).fragment(7, 100, true);
            let there = rewritten(&packet, Sums::Full, ours, backend).unwrap();
            assert_eq!(there, packet.from(ours).to(backend).bytes());
        }
    }
}

/// Its checksum covers bytes that are elsewhere, and how many is not known.
#[test]
fn a_first_fragment_of_sctp_is_not_given_another_port() {
    for [client, vip, ours, backend] in [ends4(), ends6()] {
        let packet = packet(Transport::Sctp(0), client, vip).fragment(7, 0, true);
        assert_eq!(rewritten(&packet, Sums::Full, ours, backend), None);
        let same_ports = (
            SocketAddr::new(ours.ip(), client.port()),
            SocketAddr::new(backend.ip(), vip.port()),
        );
        let there = rewritten(&packet, Sums::Full, same_ports.0, same_ports.1).unwrap();
        assert_eq!(there, packet.from(same_ports.0).to(same_ports.1).bytes());
    }
}

/// An Ethernet frame is filled up to 60 bytes; what is behind the packet is not its own.
#[test]
fn padding_behind_the_packet_is_neither_summed_nor_touched() {
    let [client, vip, ours, backend] = ends4();
    for transport in [Transport::Udp, Transport::Sctp(0)] {
        let packet = packet(transport, client, vip).payload(Vec::new());
        let pad = [0xaa; 13];
        let bytes = [packet.bytes().as_slice(), &pad].concat();
        let there = run::<Addr4>(bytes, &packet, Sums::Full, ours, backend).unwrap();
        let wanted = packet.from(ours).to(backend).bytes();
        assert_eq!(there, [wanted.as_slice(), &pad].concat(), "{transport:?}");
    }
}

#[test]
fn a_packet_cut_short_is_refused_and_nothing_beyond_its_end_is_touched() {
    for ends in [ends4(), ends6()] {
        for transport in [Transport::Tcp(0), Transport::Udp, Transport::Sctp(0)] {
            if ends[0].is_ipv4() {
                cut::<Addr4>(transport, ends);
            } else {
                cut::<Addr6>(transport, ends);
            }
        }
    }
}

fn cut<A: Family>(transport: Transport, [client, vip, ours, backend]: [SocketAddr; 4]) {
    let packet = packet(transport, client, vip);
    let bytes = packet.bytes();
    let header: Header<A> = A::header(&Buffer::new(bytes.clone(), Sums::Full), 14).unwrap();
    let (old, new) = (
        key::<A>(header.proto, client, vip),
        key::<A>(header.proto, ours, backend),
    );
    let field_end = match header.proto {
        Proto::TCP => 18,
        Proto::UDP => 8,
        _ => 12,
    };
    for len in 0..bytes.len() {
        let buffer = Buffer::new(bytes[..len].to_vec(), Sums::Full);
        let done = rewrite(&buffer, &header, &old, &new);
        assert_eq!(
            done,
            len >= packet.l4() + field_end,
            "{transport:?} cut to {len}"
        );
        assert_eq!(buffer.into_bytes().len(), len);
    }
}

#[test]
fn an_sctp_packet_that_lies_about_its_length_is_refused() {
    let [client, vip, ours, backend] = ends4();
    let packet = packet(Transport::Sctp(0), client, vip);
    let buffer = Buffer::new(packet.bytes(), Sums::Full);
    let mut header = Addr4::header(&buffer, 14).unwrap();
    let (old, new) = (
        key::<Addr4>(header.proto, client, vip),
        key::<Addr4>(header.proto, ours, backend),
    );
    for total in [0, 20, 31, 0x2_0000] {
        header.total = total;
        assert!(!rewrite(&buffer, &header, &old, &new), "{total}");
    }
    assert_eq!(buffer.into_bytes(), packet.bytes());
}

#[test]
fn the_ports_of_a_quoted_header_are_its_first_four_bytes() {
    let buffer = Buffer::new(vec![0x9c, 0x40, 0, 80], Sums::Full);
    let ports = Some((BePort::new(40_000), BePort::new(80)));
    assert_eq!(port_pair(&buffer, 0), ports);
    assert_eq!(port_pair(&buffer, 1), None);
}
