//! The oracle of checksums, against published values and a library.

mod common;

use common::packet::{Transport, addr, packet};
use lb_common::{
    csum,
    net::Proto,
    parse::{ICMP, ICMP6},
};

use common::{v4, v6};

#[test]
fn crc32c_of_the_catalogue() {
    // The check value of CRC-32/ISCSI.
    assert_eq!(!csum::crc32c(!0, b"123456789"), 0xe306_9283);
    // RFC 3720, section B.4.
    assert_eq!(!csum::crc32c(!0, &[0; 32]), 0x8a91_36aa);
    assert_eq!(!csum::crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
}

#[test]
fn the_sum_of_rfc_1071() {
    let sum = csum::Sum::default().with(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
    assert_eq!(sum.folded(), [0xdd, 0xf2]);
    assert_eq!(sum.checksum(), [0x22, 0x0d]);
}

#[test]
fn an_odd_last_byte_counts_as_the_high_one() {
    let sum = csum::Sum::default().with(&[1, 2, 3]);
    assert_eq!(sum.folded(), [4, 2]);
}

#[test]
fn the_library_agrees_about_ip_tcp_and_udp() {
    for transport in [Transport::Tcp(0), Transport::Udp] {
        let bytes = packet(transport, addr("192.0.2.1", 1), addr("198.51.100.2", 2)).bytes();
        let (header, segment) = bytes[14..].split_at(20);
        assert_eq!(
            csum::ipv4_header(header).as_ref(),
            header[10..12].try_into().ok()
        );
        let proto = Proto(header[9]);
        let at = csum::field(proto).expect("TCP or UDP");
        let sum = csum::segment(&v4("192.0.2.1"), &v4("198.51.100.2"), proto, segment);
        assert_eq!(sum.as_ref(), segment[at..at + 2].try_into().ok());

        let bytes = packet(transport, addr("2001:db8::1", 1), addr("2001:db8::2", 2)).bytes();
        let segment = &bytes[54..];
        let sum = csum::segment(&v6("2001:db8::1"), &v6("2001:db8::2"), proto, segment);
        assert_eq!(sum.as_ref(), segment[at..at + 2].try_into().ok());
    }
}

#[test]
fn the_library_agrees_about_icmp() {
    let echo = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
    let payload = b"ping!";
    let header =
        etherparse::Icmpv4Header::with_checksum(etherparse::Icmpv4Type::EchoRequest(echo), payload);
    let bytes = [header.to_bytes().as_slice(), payload].concat();
    let sum = csum::segment(&v4("192.0.2.1"), &v4("192.0.2.2"), ICMP, &bytes);
    assert_eq!(sum, Some(header.checksum.to_be_bytes()));

    let (src, dst) = (v6("2001:db8::1"), v6("2001:db8::2"));
    let header = etherparse::Icmpv6Header::with_checksum(
        etherparse::Icmpv6Type::EchoRequest(echo),
        src.ip6,
        dst.ip6,
        payload,
    )
    .expect("short");
    let bytes = [header.to_bytes().as_slice(), payload].concat();
    let sum = csum::segment(&src, &dst, ICMP6, &bytes);
    assert_eq!(sum, Some(header.checksum.to_be_bytes()));
}

#[test]
fn what_is_too_short_has_no_checksum() {
    assert_eq!(csum::ipv4_header(&[0; 11]), None);
    assert_eq!(csum::sctp(&[0; 11]), None);
    let any = v4("192.0.2.1");
    assert_eq!(csum::segment(&any, &any, Proto::TCP, &[0; 17]), None);
    assert_eq!(csum::segment(&any, &any, Proto::UDP, &[0; 7]), None);
    assert_eq!(csum::segment(&any, &any, Proto::SCTP, &[0; 20]), None);
}
