//! Packets as tests say them, written by a library that shares nothing with what is tested.

#![allow(
    dead_code,
    reason = "every test target is its own crate and uses its part"
)]

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpAuthHeader,
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};
use lb_common::csum;

pub const FIN: u8 = 1;
pub const SYN: u8 = 1 << 1;
pub const RST: u8 = 1 << 2;
pub const ACK: u8 = 1 << 4;

pub const DATA: u8 = 0;
pub const INIT: u8 = 1;
pub const ABORT: u8 = 6;
pub const SHUTDOWN: u8 = 7;

/// The hardware addresses of all packets: to, from.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// With these flags.
    Tcp(u8),
    Udp,
    /// Its checksum left out (RFC 768).
    UdpUnsummed,
    /// With a first chunk of this type.
    Sctp(u8),
    /// Its checksum left to a device.
    SctpUnsummed(u8),
    /// Another protocol, whose payload is all there is.
    Other(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    Ethernet,
    /// In the bytes, with this tag.
    Vlan(u16),
    None,
}

/// IPv6 extension headers of any order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    HopByHop,
    /// Of so many times eight bytes more.
    Destination(u8),
    Routing,
    Authentication,
}

/// Where a fragment stands: identification, offset in units of eight bytes, more to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    pub id: u16,
    pub offset: u16,
    pub more: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub transport: Transport,
    pub ttl: u8,
    pub tos: u8,
    /// Of IPv6.
    pub flow_label: u32,
    pub link: Link,
    pub macs: [[u8; 6]; 2],
    /// Of IPv4: four bytes each.
    pub options: Vec<u8>,
    pub extensions: Vec<Extension>,
    pub fragment: Option<Fragment>,
    pub payload: Vec<u8>,
}

pub fn packet(transport: Transport, src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet {
        src,
        dst,
        transport,
        ttl: 64,
        tos: 0,
        flow_label: 0x1_2345,
        link: Link::Ethernet,
        macs: MACS,
        options: Vec::new(),
        extensions: Vec::new(),
        fragment: None,
        payload: b"a payload of odd length".to_vec(),
    }
}

pub fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

impl Packet {
    pub fn from(mut self, src: SocketAddr) -> Self {
        self.src = src;
        self
    }

    pub fn to(mut self, dst: SocketAddr) -> Self {
        self.dst = dst;
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    pub fn link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    pub fn options(mut self, words: usize) -> Self {
        // No-operation, one byte each.
        self.options = vec![1; words * 4];
        self
    }

    pub fn extensions(mut self, extensions: &[Extension]) -> Self {
        self.extensions = extensions.to_vec();
        self
    }

    pub fn fragment(mut self, id: u16, offset: u16, more: bool) -> Self {
        self.fragment = Some(Fragment { id, offset, more });
        self
    }

    /// The other direction.
    pub fn reversed(mut self) -> Self {
        (self.src, self.dst) = (self.dst, self.src);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.link_header();
        bytes.extend(self.network());
        bytes
    }

    /// Length of the link header: where the network header begins.
    pub fn l3(&self) -> usize {
        match self.link {
            Link::Ethernet => 14,
            Link::Vlan(_) => 18,
            Link::None => 0,
        }
    }

    /// Where the transport header begins.
    pub fn l4(&self) -> usize {
        self.bytes().len() - self.segment().len()
    }

    fn link_header(&self) -> Vec<u8> {
        let network = if self.src.is_ipv4() {
            EtherType::IPV4
        } else {
            EtherType::IPV6
        };
        let ethernet = |ether_type| Ethernet2Header {
            destination: self.macs[0],
            source: self.macs[1],
            ether_type,
        };
        match self.link {
            Link::None => Vec::new(),
            Link::Ethernet => ethernet(network).to_bytes().to_vec(),
            Link::Vlan(id) => {
                let tag = SingleVlanHeader {
                    vlan_id: VlanId::try_new(id).expect("twelve bits"),
                    ether_type: network,
                    ..SingleVlanHeader::default()
                };
                let outer = ethernet(EtherType::VLAN_TAGGED_FRAME).to_bytes();
                [outer.as_slice(), tag.to_bytes().as_slice()].concat()
            }
        }
    }

    fn network(&self) -> Vec<u8> {
        let segment = self.segment();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let len = u16::try_from(segment.len() + self.options.len()).expect("short");
                let mut header =
                    Ipv4Header::new(len, self.ttl, self.proto(), src.octets(), dst.octets())
                        .expect("short");
                header.options = self.options.as_slice().try_into().expect("whole words");
                header.set_payload_len(segment.len()).expect("short");
                header.dscp = (self.tos >> 2).try_into().expect("six bits");
                header.ecn = (self.tos & 3).try_into().expect("two bits");
                if let Some(fragment) = self.fragment {
                    header.identification = fragment.id;
                    header.fragment_offset = offset(fragment);
                    header.more_fragments = fragment.more;
                    header.dont_fragment = false;
                }
                header.header_checksum = header.calc_header_checksum();
                [header.to_bytes().as_slice(), &segment].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (first, extensions) = self.extension_bytes();
                let len = extensions.len() + segment.len();
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::try_new(self.flow_label).expect("twenty bits"),
                    payload_length: u16::try_from(len).expect("short"),
                    next_header: first,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                [&header.to_bytes()[..], &extensions, &segment].concat()
            }
            _ => panic!("two families in one packet"),
        }
    }

    /// The first header's number, and all of them.
    fn extension_bytes(&self) -> (IpNumber, Vec<u8>) {
        let (mut next, mut bytes) = (self.proto(), Vec::new());
        if let Some(fragment) = self.fragment {
            let header =
                Ipv6FragmentHeader::new(next, offset(fragment), fragment.more, fragment.id.into());
            bytes = header.to_bytes().to_vec();
            next = IpNumber::IPV6_FRAGMENTATION_HEADER;
        }
        for extension in self.extensions.iter().rev() {
            let (number, header) = extension.header(next);
            next = number;
            bytes.splice(0..0, header);
        }
        (next, bytes)
    }

    pub fn proto(&self) -> IpNumber {
        match self.transport {
            Transport::Tcp(_) => IpNumber::TCP,
            Transport::Udp | Transport::UdpUnsummed => IpNumber::UDP,
            Transport::Sctp(_) | Transport::SctpUnsummed(_) => IpNumber::SCTP,
            Transport::Other(number) => IpNumber(number),
        }
    }

    /// Transport header and payload. A later fragment has no header.
    pub fn segment(&self) -> Vec<u8> {
        if self.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return self.payload.clone();
        }
        match self.transport {
            Transport::Tcp(flags) => self.tcp(flags),
            Transport::Udp => self.udp(true),
            Transport::UdpUnsummed => self.udp(false),
            Transport::Sctp(chunk) => self.sctp(chunk, true),
            Transport::SctpUnsummed(chunk) => self.sctp(chunk, false),
            Transport::Other(_) => self.payload.clone(),
        }
    }

    fn tcp(&self, flags: u8) -> Vec<u8> {
        let mut header = TcpHeader::new(self.src.port(), self.dst.port(), 1_000, 4_096);
        header.fin = flags & FIN != 0;
        header.syn = flags & SYN != 0;
        header.rst = flags & RST != 0;
        header.ack = flags & ACK != 0;
        header.acknowledgment_number = if header.ack { 2_000 } else { 0 };
        let sum = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &self.payload)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &self.payload)
            }
            _ => panic!("two families in one packet"),
        };
        header.checksum = sum.expect("short");
        [header.to_bytes().as_slice(), &self.payload].concat()
    }

    fn udp(&self, is_summed: bool) -> Vec<u8> {
        let len = u16::try_from(8 + self.payload.len()).expect("short");
        let mut header = UdpHeader {
            source_port: self.src.port(),
            destination_port: self.dst.port(),
            length: len,
            checksum: 0,
        };
        if is_summed {
            let sum = match (self.src.ip(), self.dst.ip()) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &self.payload)
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &self.payload)
                }
                _ => panic!("two families in one packet"),
            };
            header.checksum = sum.expect("short");
        }
        [&header.to_bytes()[..], &self.payload].concat()
    }

    /// The library does not know SCTP: the common header, and one chunk with the payload (RFC 9260, section 3).
    fn sctp(&self, chunk: u8, is_summed: bool) -> Vec<u8> {
        let len = u16::try_from(4 + self.payload.len()).expect("short");
        let mut bytes = Vec::new();
        bytes.extend(self.src.port().to_be_bytes());
        bytes.extend(self.dst.port().to_be_bytes());
        bytes.extend(0x1234_5678_u32.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([chunk, 0]);
        bytes.extend(len.to_be_bytes());
        bytes.extend(&self.payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if is_summed {
            let sum = csum::sctp(&bytes).expect("it has a common header");
            bytes[8..12].copy_from_slice(&sum);
        }
        bytes
    }
}

/// The RST that answers a SYN (RFC 9293, section 3.10.7.1), sent back to where it came from.
pub fn rst_for(syn: &Packet) -> Vec<u8> {
    let mut tcp = TcpHeader::new(syn.dst.port(), syn.src.port(), 0, 0);
    (tcp.rst, tcp.ack) = (true, true);
    tcp.acknowledgment_number = 1_001 + u32::try_from(syn.payload.len()).expect("short");
    let sum = match (syn.dst.ip(), syn.src.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            tcp.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &[])
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            tcp.calc_checksum_ipv6_raw(src.octets(), dst.octets(), &[])
        }
        _ => panic!("two families in one packet"),
    };
    tcp.checksum = sum.expect("short");
    let ends = (syn.dst.ip(), syn.src.ip());
    sent_back(syn, ends, IpNumber::TCP, &tcp.to_bytes())
}

/// An ICMP error of this node about a packet: type, code, the second word, and as many bytes of its network
/// packet as are quoted.
pub fn error_for(packet: &Packet, from: IpAddr, kind: (u8, u8, u32), quoted: usize) -> Vec<u8> {
    let bytes = packet.bytes();
    let quote = &bytes[packet.l3()..packet.l3() + quoted];
    let ends = (from, packet.src.ip());
    let (proto, message) = icmp(ends, kind, quote);
    sent_back(packet, ends, proto, &message)
}

/// An ICMP error of anyone, on its way.
pub fn error_about(ends: (IpAddr, IpAddr), ttl: u8, kind: (u8, u8, u32), quote: &[u8]) -> Vec<u8> {
    let (proto, message) = icmp(ends, kind, quote);
    let at = |ip| SocketAddr::new(ip, 0);
    packet(Transport::Other(proto.0), at(ends.0), at(ends.1))
        .ttl(ttl)
        .payload(message)
        .bytes()
}

fn icmp(
    ends: (IpAddr, IpAddr),
    (type_u8, code_u8, word): (u8, u8, u32),
    quote: &[u8],
) -> (IpNumber, Vec<u8>) {
    let bytes5to8 = word.to_be_bytes();
    match ends {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let kind = Icmpv4Type::Unknown {
                type_u8,
                code_u8,
                bytes5to8,
            };
            let header = Icmpv4Header::with_checksum(kind, quote);
            (
                IpNumber::ICMP,
                [header.to_bytes().as_slice(), quote].concat(),
            )
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let kind = Icmpv6Type::Unknown {
                type_u8,
                code_u8,
                bytes5to8,
            };
            let header = Icmpv6Header::with_checksum(kind, src.octets(), dst.octets(), quote);
            let header = header.expect("short");
            (
                IpNumber::IPV6_ICMP,
                [header.to_bytes().as_slice(), quote].concat(),
            )
        }
        _ => panic!("two families in one packet"),
    }
}

/// A packet of this node in answer to one, under plain headers.
fn sent_back(
    to: &Packet,
    (src, dst): (IpAddr, IpAddr),
    proto: IpNumber,
    segment: &[u8],
) -> Vec<u8> {
    let mut answer = packet(
        Transport::Other(proto.0),
        SocketAddr::new(src, 0),
        SocketAddr::new(dst, 0),
    )
    .link(to.link)
    .payload(segment.to_vec());
    answer.macs = [to.macs[1], to.macs[0]];
    answer.flow_label = 0;
    answer.bytes()
}

fn offset(fragment: Fragment) -> IpFragOffset {
    IpFragOffset::try_new(fragment.offset).expect("thirteen bits")
}

impl Extension {
    fn header(self, next: IpNumber) -> (IpNumber, Vec<u8>) {
        let raw = |words: u8| {
            // Padding options of one byte each.
            let payload = vec![0; 6 + 8 * usize::from(words)];
            let header = Ipv6RawExtHeader::new_raw(next, &payload).expect("whole words");
            header.to_bytes().to_vec()
        };
        match self {
            Self::HopByHop => (IpNumber::IPV6_HEADER_HOP_BY_HOP, raw(0)),
            Self::Destination(words) => (IpNumber::IPV6_DESTINATION_OPTIONS, raw(words)),
            Self::Routing => (IpNumber::IPV6_ROUTE_HEADER, raw(1)),
            Self::Authentication => {
                let header = IpAuthHeader::new(next, 1, 2, &[7; 12]).expect("whole words");
                (IpNumber::AUTHENTICATION_HEADER, header.to_bytes().to_vec())
            }
        }
    }
}
