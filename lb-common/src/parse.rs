//! Packets: where their headers are, and what they say.
//!
//! What is cut short, malformed or unknown is `None`: left to the stack, as it is.

use crate::{
    net::{Addr4, Addr6, Address, BePort, Proto},
    track::Step,
};

/// The bytes of a packet; offsets count from its first byte, the link header's if there is one.
pub trait Bytes {
    /// `N` bytes, if the packet has them.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
    /// How many there are.
    fn size(&self) -> u32;
}

/// Where a packet stands among the fragments of its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Place(pub u8);

impl Place {
    /// Not cut up.
    pub const WHOLE: Self = Self(0);
    /// Has the transport header; others follow.
    pub const FIRST: Self = Self(1);
    /// Has none.
    pub const LATER: Self = Self(2);
}

/// What the network header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Header<A> {
    /// Sender.
    pub src: A,
    /// Receiver.
    pub dst: A,
    /// Bytes of network header and payload, as the header says.
    pub total: u32,
    /// Offset of the network header.
    pub l3: u32,
    /// Offset of the transport header.
    pub l4: u32,
    /// What all fragments of a datagram share.
    pub id: u32,
    /// Protocol of the payload.
    pub proto: Proto,
    /// Hops left.
    pub ttl: u8,
    /// Among fragments.
    pub place: Place,
    /// Not zero: lengths that the headers name contradict each other, or the packet. See [`ports`].
    pub lies: u8,
}

/// What the transport header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// The sender's.
    pub sport: BePort,
    /// The receiver's.
    pub dport: BePort,
    /// What it does to its connection.
    pub step: Step,
    /// Do the lengths that the headers name contradict each other, or the packet?
    pub lies: bool,
}

/// ICMP's protocol number.
pub const ICMP: Proto = Proto(1);
/// ICMPv6's protocol number.
pub const ICMP6: Proto = Proto(58);

/// A family's network header.
pub trait Parse: Address {
    /// The protocol number of the family's ICMP.
    const ICMP: Proto;
    /// Reads the network header at `l3`.
    fn header(bytes: &impl Bytes, l3: u32) -> Option<Header<Self>>;
}

impl Parse for Addr4 {
    const ICMP: Proto = ICMP;

    #[inline(always)]
    fn header(bytes: &impl Bytes, l3: u32) -> Option<Header<Self>> {
        let raw: [u8; 20] = bytes.load(l3)?;
        let words = (raw[0] & 0xf) as u32;
        let total = total(bytes, l3, u16::from_be_bytes([raw[2], raw[3]]), 0);
        if raw[0] >> 4 != 4 || words < 5 || total < words * 4 {
            return None;
        }
        let offset = u16::from_be_bytes([raw[6] & 0x1f, raw[7]]);
        let more = raw[6] & 0x20 != 0;
        let id = u16::from_be_bytes([raw[4], raw[5]]) as u32;
        let place = match (offset, more) {
            (0, false) => Place::WHOLE,
            (0, true) => Place::FIRST,
            _ => Place::LATER,
        };
        Some(Header {
            src: Addr4 {
                ip4: [raw[12], raw[13], raw[14], raw[15]],
            },
            dst: Addr4 {
                ip4: [raw[16], raw[17], raw[18], raw[19]],
            },
            proto: Proto(raw[9]),
            ttl: raw[8],
            total,
            l3,
            l4: l3 + words * 4,
            id,
            place,
            lies: 0,
        })
    }
}

/// Bytes of network header and payload: `said` and those that it does not count. Segments that a device is still to cut
/// may be larger than can be said, which then is nothing (BIG TCP, Linux 5.19 and 6.3).
#[inline(always)]
fn total(bytes: &impl Bytes, l3: u32, said: u16, uncounted: u32) -> u32 {
    let there = bytes.size().saturating_sub(l3);
    if said == 0 && there > u16::MAX as u32 {
        there
    } else {
        said as u32 + uncounted
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// How many extension headers are walked through; more is not seen in the wild.
const MAX_EXTENSIONS: u32 = 6;
/// How many bytes they may have together with the fixed header: programs hold offsets below 2,048, and two network
/// headers (an ICMP error's and the one it quotes) must lie below that.
const MAX_HEADERS: u32 = 512;

impl Parse for Addr6 {
    const ICMP: Proto = ICMP6;

    #[inline(always)]
    fn header(bytes: &impl Bytes, l3: u32) -> Option<Header<Self>> {
        let first: [u8; 8] = bytes.load(l3)?;
        if first[0] >> 4 != 6 {
            return None;
        }
        let mut header = Header {
            src: Addr6 {
                ip6: bytes.load(l3 + 8)?,
            },
            dst: Addr6 {
                ip6: bytes.load(l3 + 24)?,
            },
            proto: Proto(first[6]),
            ttl: first[7],
            total: total(bytes, l3, u16::from_be_bytes([first[4], first[5]]), 40),
            l3,
            l4: l3 + 40,
            id: 0,
            place: Place::WHOLE,
            lies: 0,
        };
        if is_extension(first[6]) {
            walk(bytes, first[6], &mut header)?;
        }
        Some(header)
    }
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    )
}

/// Walks through the extension headers (RFC 8200, section 4) to the payload.
#[inline(always)]
fn walk(bytes: &impl Bytes, first: u8, header: &mut Header<Addr6>) -> Option<()> {
    let mut next = first;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        let raw: [u8; 8] = bytes.load(header.l4)?;
        if next == FRAGMENT {
            let offset = u16::from_be_bytes([raw[2], raw[3]]);
            header.id = u32::from_be_bytes([raw[4], raw[5], raw[6], raw[7]]);
            header.l4 += 8;
            if offset >> 3 != 0 {
                header.place = Place::LATER;
                header.proto = Proto(raw[0]);
                return Some(());
            }
            // More to come; else an atomic fragment (RFC 6946), which is whole.
            if offset & 1 != 0 {
                header.place = Place::FIRST;
            }
        } else if next == AUTHENTICATION {
            header.l4 += (raw[1] as u32 + 2) * 4;
        } else {
            header.l4 += (raw[1] as u32 + 1) * 8;
        }
        if header.l4 - header.l3 > MAX_HEADERS {
            return None;
        }
        next = raw[0];
    }
    header.proto = Proto(next);
    (!is_extension(next)).then_some(())
}

/// Reads the transport header of a packet that has one.
#[inline(always)]
pub fn ports<A: Address>(bytes: &impl Bytes, header: &Header<A>) -> Option<Ports> {
    let l4 = header.l4;
    let (step, least, most) = match header.proto {
        Proto::TCP => {
            let raw: [u8; 20] = bytes.load(l4)?;
            let words = (raw[12] >> 4) as u32;
            if words < 5 {
                return None;
            }
            (Step::of_tcp(raw[13]), words * 4, 0)
        }
        Proto::UDP => {
            let raw: [u8; 8] = bytes.load(l4)?;
            let said = u16::from_be_bytes([raw[4], raw[5]]) as u32;
            // Shorter than its own header, as long as nothing.
            let least = if said < 8 { u32::MAX } else { 8 };
            (Step::Datagram, least, said)
        }
        Proto::SCTP => {
            let raw: [u8; 16] = bytes.load(l4)?;
            (Step::of_sctp(raw[12]), 16, 0)
        }
        _ => return None,
    };
    let (sport, dport) = port_pair(bytes, l4)?;
    Some(Ports {
        sport,
        dport,
        step,
        lies: lies(bytes, header, least, most),
    })
}

/// Does the network header name fewer bytes than the transport header has (`least`) or says to follow (`most`), or
/// more than there are?
#[inline(always)]
fn lies<A: Address>(bytes: &impl Bytes, header: &Header<A>, least: u32, most: u32) -> bool {
    let named = header.total.saturating_sub(header.l4 - header.l3);
    // The first fragment says how long the whole datagram is.
    let is_cut_up = header.place != Place::WHOLE;
    header.l3 + header.total > bytes.size() || named < least || (named < most && !is_cut_up)
}

/// The ports alone: all that an ICMP error is sure to quote.
#[inline(always)]
pub fn port_pair(bytes: &impl Bytes, l4: u32) -> Option<(BePort, BePort)> {
    let raw: [u8; 4] = bytes.load(l4)?;
    Some((
        BePort {
            be: [raw[0], raw[1]],
        },
        BePort {
            be: [raw[2], raw[3]],
        },
    ))
}
