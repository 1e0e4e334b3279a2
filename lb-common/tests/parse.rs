//! Headers as they are found in packets, whole, odd and broken.

mod common;

use common::{
    frame::{Buffer, Sums},
    packet::{
        ABORT, ACK, Extension, FIN, INIT, Link, Packet, RST, SHUTDOWN, SYN, Transport, addr, packet,
    },
    v4, v6,
};
use lb_common::{
    net::{Addr4, Addr6, BePort, Proto},
    parse::{Bytes as _, Header, Parse, Place, Ports, ports},
    track::Step,
};

fn packet4(transport: Transport) -> Packet {
    packet(
        transport,
        addr("192.0.2.1", 40_000),
        addr("198.51.100.2", 80),
    )
}

fn packet6(transport: Transport) -> Packet {
    packet(
        transport,
        addr("2001:db8::1", 40_000),
        addr("2001:db8:1::2", 80),
    )
}

/// Reads the network header, then the transport's, as the programs do.
fn read<A: Parse>(bytes: &[u8], l3: usize) -> Option<(Header<A>, Option<Ports>)> {
    let buffer = Buffer::new(bytes.to_vec(), Sums::Full);
    let header = A::header(&buffer, u32::try_from(l3).expect("short"))?;
    let ports = ports(&buffer, &header);
    Some((header, ports))
}

fn read4(packet: &Packet) -> Option<(Header<Addr4>, Option<Ports>)> {
    read(&packet.bytes(), packet.l3())
}

fn read6(packet: &Packet) -> Option<(Header<Addr6>, Option<Ports>)> {
    read(&packet.bytes(), packet.l3())
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the form of what it is compared with"
)]
fn to_port_80(step: Step) -> Option<Ports> {
    Some(Ports {
        sport: BePort::new(40_000),
        dport: BePort::new(80),
        step,
        lies: false,
    })
}

#[test]
fn an_ipv4_header_is_read_whole() {
    let (header, ports) = read4(&packet4(Transport::Tcp(SYN)).ttl(9)).expect("a header");
    let wanted = Header {
        src: v4("192.0.2.1"),
        dst: v4("198.51.100.2"),
        total: 20 + 20 + 23,
        l3: 14,
        l4: 34,
        id: 0,
        proto: Proto::TCP,
        ttl: 9,
        place: Place::WHOLE,
        lies: 0,
    };
    assert_eq!(header, wanted);
    assert_eq!(ports, to_port_80(Step::Open));
}

#[test]
fn an_ipv6_header_is_read_whole() {
    let (header, ports) = read6(&packet6(Transport::Udp).ttl(9)).expect("a header");
    let wanted = Header {
        src: v6("2001:db8::1"),
        dst: v6("2001:db8:1::2"),
        total: 40 + 8 + 23,
        l3: 14,
        l4: 54,
        id: 0,
        proto: Proto::UDP,
        ttl: 9,
        place: Place::WHOLE,
        lies: 0,
    };
    assert_eq!(header, wanted);
    assert_eq!(ports, to_port_80(Step::Datagram));
}

#[test]
fn a_packet_may_begin_with_its_network_header() {
    let (header, ports) = read4(&packet4(Transport::Udp).link(Link::None)).expect("a header");
    assert_eq!((header.l3, header.l4), (0, 20));
    assert_eq!(ports, to_port_80(Step::Datagram));
}

#[test]
fn ipv4_options_are_stepped_over() {
    for words in 1..=10 {
        let packet = packet4(Transport::Tcp(ACK)).options(words);
        let (header, ports) = read4(&packet).expect("a header");
        assert_eq!(header.l4 as usize, packet.l4(), "{words} words");
        assert_eq!(ports, to_port_80(Step::Carry), "{words} words");
    }
}

#[test]
fn ipv6_extension_headers_are_stepped_over() {
    use Extension::{Authentication, Destination, HopByHop, Routing};
    let chains: [&[Extension]; 7] = [
        &[HopByHop],
        &[Destination(0)],
        &[Destination(9)],
        &[Routing],
        &[Authentication],
        &[HopByHop, Destination(0), Routing, Authentication],
        &[
            HopByHop,
            Destination(1),
            Routing,
            Authentication,
            Destination(0),
            Destination(2),
        ],
    ];
    for chain in chains {
        let packet = packet6(Transport::Sctp(INIT)).extensions(chain);
        let (header, ports) = read6(&packet).expect("a header");
        assert_eq!(header.l4 as usize, packet.l4(), "{chain:?}");
        assert_eq!(header.proto, Proto::SCTP, "{chain:?}");
        assert_eq!(ports, to_port_80(Step::Open), "{chain:?}");
    }
}

#[test]
fn more_extension_headers_than_anyone_sends_are_left_alone() {
    let packet = packet6(Transport::Udp).extensions(&[Extension::Destination(0); 7]);
    assert_eq!(read6(&packet), None);
}

#[test]
fn extension_headers_of_more_than_500_bytes_are_left_alone() {
    let long = |words| packet6(Transport::Udp).extensions(&[Extension::Destination(words)]);
    assert!(read6(&long(58)).is_some());
    assert_eq!(read6(&long(59)), None);
    assert_eq!(read6(&long(255)), None);
}

#[test]
fn what_follows_no_next_header_is_no_port() {
    const NONE: u8 = 59;
    let (header, ports) = read6(&packet6(Transport::Other(NONE))).expect("a header");
    assert_eq!((header.proto, ports), (Proto(NONE), None));
}

#[test]
fn protocols_without_ports_have_none() {
    for proto in [1, 2, 47, 50, 58, 103, 136] {
        let (header, ports) = read4(&packet4(Transport::Other(proto))).expect("a header");
        assert_eq!((header.proto, ports), (Proto(proto), None));
    }
}

#[test]
fn fragments_know_their_place() {
    let cases = [
        (0, true, Place::FIRST),
        (0, false, Place::WHOLE),
        (185, true, Place::LATER),
        (185, false, Place::LATER),
        (0x1fff, false, Place::LATER),
    ];
    for (offset, more, place) in cases {
        let (header, _) =
            read4(&packet4(Transport::Udp).fragment(77, offset, more)).expect("a header");
        assert_eq!(
            (header.place, header.id),
            (place, 77),
            "IPv4 {offset} {more}"
        );
        let packet = packet6(Transport::Udp)
            .extensions(&[Extension::HopByHop])
            .fragment(77, offset, more);
        let (header, _) = read6(&packet).expect("a header");
        assert_eq!(
            (header.place, header.id),
            (place, 77),
            "IPv6 {offset} {more}"
        );
        assert_eq!(header.proto, Proto::UDP, "IPv6 {offset} {more}");
        assert_eq!(header.l4 as usize, packet.l4(), "IPv6 {offset} {more}");
    }
}

/// As an IPv6 fragment: only the first is sure to have what the fragment header names.
#[test]
fn a_later_fragment_behind_options_keeps_the_protocol_that_its_header_names() {
    let packet = packet6(Transport::Tcp(ACK))
        .extensions(&[Extension::Destination(0)])
        .fragment(1, 10, true);
    let (header, _) = read6(&packet).expect("a header");
    assert_eq!((header.proto, header.place), (Proto::TCP, Place::LATER));
}

#[test]
fn the_dont_fragment_bit_is_no_fragment() {
    let bytes = packet4(Transport::Udp).bytes();
    assert_eq!(bytes[20] & 0x40, 0x40);
    let (header, _) = read::<Addr4>(&bytes, 14).expect("a header");
    assert_eq!(header.place, Place::WHOLE);
}

#[test]
fn tcp_flags_and_sctp_chunks_say_what_a_packet_does() {
    let cases = [
        (Transport::Tcp(SYN), Step::Open),
        (Transport::Tcp(SYN | ACK), Step::Carry),
        (Transport::Tcp(ACK), Step::Carry),
        (Transport::Tcp(0), Step::Carry),
        (Transport::Tcp(FIN | ACK), Step::Done),
        (Transport::Tcp(RST), Step::Reset),
        (Transport::Tcp(RST | ACK), Step::Reset),
        (Transport::Tcp(RST | SYN), Step::Reset),
        (Transport::Sctp(INIT), Step::Open),
        (Transport::Sctp(0), Step::Carry),
        (Transport::Sctp(2), Step::Carry),
        (Transport::Sctp(10), Step::Carry),
        (Transport::Sctp(ABORT), Step::Reset),
        (Transport::Sctp(14), Step::Reset),
        (Transport::Sctp(SHUTDOWN), Step::Done),
        (Transport::Sctp(8), Step::Done),
        (Transport::Udp, Step::Datagram),
    ];
    for (transport, step) in cases {
        let (_, ports) = read4(&packet4(transport)).expect("a header");
        assert_eq!(ports, to_port_80(step), "{transport:?}");
    }
}

/// The same, of a packet that ends too early.
fn lying<A>(whole: Option<(Header<A>, Option<Ports>)>) -> Option<(Header<A>, Option<Ports>)> {
    whole.map(|(header, ports)| {
        (
            header,
            ports.map(|ports| Ports {
                lies: true,
                ..ports
            }),
        )
    })
}

#[test]
fn a_packet_cut_anywhere_is_read_whole_and_lies_or_not_at_all() {
    let transports = [
        (Transport::Tcp(SYN), 20),
        (Transport::Udp, 8),
        (Transport::Sctp(INIT), 16),
    ];
    for (transport, transport_len) in transports {
        let packet = packet4(transport).options(2);
        let bytes = packet.bytes();
        let whole = read::<Addr4>(&bytes, 14);
        for len in 0..bytes.len() {
            let cut = read::<Addr4>(&bytes[..len], 14);
            if len < 34 {
                assert_eq!(cut, None, "{transport:?} cut to {len}");
            } else if len < packet.l4() + transport_len {
                assert_eq!(
                    cut.map(|(_, ports)| ports),
                    Some(None),
                    "{transport:?} cut to {len}"
                );
            } else {
                assert_eq!(cut, lying(whole), "{transport:?} cut to {len}");
            }
        }
        let packet = packet6(transport).extensions(&[Extension::HopByHop, Extension::Routing]);
        let bytes = packet.bytes();
        let whole = read::<Addr6>(&bytes, 14);
        for len in 0..bytes.len() {
            let cut = read::<Addr6>(&bytes[..len], 14);
            if len < packet.l4() + transport_len {
                assert_eq!(
                    cut.and_then(|(_, ports)| ports),
                    None,
                    "{transport:?} cut to {len}"
                );
            } else {
                assert_eq!(cut, lying(whole), "{transport:?} cut to {len}");
            }
        }
    }
}

#[test]
fn headers_that_contradict_themselves_are_none() {
    let good = packet4(Transport::Tcp(SYN)).bytes();
    let cases = [
        ("version 6", 14, 0x65),
        ("version 0", 14, 0x05),
        ("header of four words", 14, 0x44),
        ("header of no words", 14, 0x40),
        ("total shorter than the header", 17, 19),
    ];
    for (name, at, value) in cases {
        let mut bytes = good.clone();
        bytes[16] = 0;
        bytes[at] = value;
        assert_eq!(read::<Addr4>(&bytes, 14), None, "{name}");
    }
    let mut bytes = packet6(Transport::Udp).bytes();
    bytes[14] = 0x45;
    assert_eq!(read::<Addr6>(&bytes, 14), None);
}

#[test]
fn a_tcp_header_shorter_than_itself_has_no_ports() {
    let mut bytes = packet4(Transport::Tcp(SYN)).bytes();
    bytes[34 + 12] = 0x40;
    let (_, ports) = read::<Addr4>(&bytes, 14).expect("a header");
    assert_eq!(ports, None);
}

#[test]
fn offsets_near_the_end_of_numbers_are_beyond_the_packet() {
    let buffer = Buffer::new(vec![0; 64], Sums::Full);
    assert_eq!(buffer.load::<4>(u32::MAX - 8), None);
}

/// Of a packet with 23 bytes of payload, changed at `at` behind its network header's start.
fn lies_with(packet: &Packet, at: usize, value: &[u8]) -> bool {
    let (mut bytes, l3) = (packet.bytes(), packet.l3());
    bytes[l3 + at..l3 + at + value.len()].copy_from_slice(value);
    let ports = if packet.src.is_ipv4() {
        read::<Addr4>(&bytes, l3).and_then(|(_, ports)| ports)
    } else {
        read::<Addr6>(&bytes, l3).and_then(|(_, ports)| ports)
    };
    ports.expect("ports").lies
}

#[test]
fn lengths_that_contradict_each_other_are_lies() {
    let tcp = Transport::Tcp(SYN);
    for (what, packet, at, good, bad) in [
        ("TCP header", packet4(tcp), 32, vec![0xa0], vec![0xb0]),
        ("TCP header", packet6(tcp), 52, vec![0xa0], vec![0xb0]),
        ("TCP in IPv4", packet4(tcp), 2, vec![0, 40], vec![0, 39]),
        ("TCP in IPv6", packet6(tcp), 4, vec![0, 20], vec![0, 19]),
        ("IPv4", packet4(tcp), 2, vec![0, 63], vec![0, 64]),
        ("IPv6", packet6(tcp), 4, vec![0, 43], vec![0, 44]),
        ("UDP", packet4(Transport::Udp), 24, vec![0, 8], vec![0, 7]),
        ("UDP", packet6(Transport::Udp), 44, vec![0, 31], vec![0, 32]),
        ("UDP", packet4(Transport::Udp), 24, vec![0, 31], vec![0, 0]),
        (
            "SCTP",
            packet4(Transport::Sctp(1)),
            2,
            vec![0, 36],
            vec![0, 35],
        ),
    ] {
        let name = format!("{what} {good:?} {bad:?}");
        assert!(!lies_with(&packet, at, &good), "{name}");
        assert!(lies_with(&packet, at, &bad), "{name}");
    }
}

/// It says how long the whole datagram is, not how long it is itself.
#[test]
fn a_first_fragment_does_not_lie() {
    let first = packet4(Transport::Udp).fragment(7, 0, true);
    assert!(!lies_with(&first, 24, &[0x20, 0]));
    assert!(lies_with(&first, 24, &[0, 7]));
}

#[test]
fn segments_larger_than_can_be_said_are_as_long_as_they_are() {
    let tcp = Transport::Tcp(ACK);
    let grown = |packet: &Packet, at: usize| {
        let mut bytes = packet.bytes();
        bytes[packet.l3() + at..packet.l3() + at + 2].fill(0);
        bytes.resize(150_000, 0);
        bytes
    };
    let bytes = grown(&packet4(tcp), 2);
    let (header, ports) = read::<Addr4>(&bytes, 14).expect("a header");
    assert_eq!(
        (header.total, ports),
        (150_000 - 14, to_port_80(Step::Carry))
    );
    let bytes = grown(&packet6(tcp), 4);
    let (header, ports) = read::<Addr6>(&bytes, 14).expect("a header");
    assert_eq!(
        (header.total, ports),
        (150_000 - 14, to_port_80(Step::Carry))
    );
    assert_eq!(read::<Addr4>(&grown(&packet4(tcp), 2)[..65_549], 14), None);
}
