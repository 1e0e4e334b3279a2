//! What is sent back for a packet that goes no further: RST, or an ICMP error that quotes it.

use crate::{
    net::{Addr4, Addr6, BePort, Proto},
    parse::{Bytes, ICMP6, Parse},
    rewrite::{Frame, add},
};

/// Hops of what this node sends.
pub const HOPS: u8 = 64;
/// Bytes of a TCP header without options.
pub const TCP_HEADER: u32 = 20;
/// Bytes of an ICMP header.
pub const ICMP_HEADER: u32 = 8;
const RST_ACK: u8 = 0x14;
/// The longest network header with what is quoted of its payload, in words of four bytes.
const MAX_QUOTED_WORDS: u32 = 40;

/// An ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Nobody listens (RFC 792 type 3 code 3; RFC 4443 type 1 code 4).
    PortUnreachable,
    /// Hops used up (type 11 code 0; type 3 code 0).
    HopsExceeded,
    /// Larger than the way on takes (type 3 code 4, RFC 1191; type 2, RFC 8201).
    TooBig {
        /// What it takes.
        mtu: u32,
    },
}

impl Error {
    /// As one number, for functions out of line take no more than five.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Self::PortUnreachable => 0,
            Self::HopsExceeded => 1,
            Self::TooBig { mtu } => mtu,
        }
    }

    /// From its number.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::PortUnreachable,
            1 => Self::HopsExceeded,
            mtu => Self::TooBig { mtu },
        }
    }
}

/// How a quoted transport checksum is covered by the error's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// Where the quoted packet begins.
    pub l3: u32,
    /// Its bytes, a multiple of 4.
    pub len: u32,
    /// Where its transport header begins.
    pub l4: u32,
    /// Where its transport checksum is, if a device is still to complete it: the sum of what is behind
    /// `l4` will then be the complement of what the field holds now.
    pub partial: Option<u32>,
}

/// The sum of a quoted packet as it will be on the wire: native words, folded to 32 bits. `None` beyond the end.
#[inline(always)]
pub fn quoted_sum(bytes: &impl Bytes, quote: &Quote) -> Option<u32> {
    let (end, rest) = match quote.partial {
        None => (quote.l3 + quote.len, 0),
        Some(field) => {
            let pseudo = u16::from_ne_bytes(bytes.load(field)?);
            (quote.l4, !pseudo as u32 & 0xffff)
        }
    };
    let (mut sum, mut at) = (rest, quote.l3);
    for _ in 0..MAX_QUOTED_WORDS {
        if at >= end {
            return Some(sum);
        }
        sum = add(sum, u32::from_ne_bytes(bytes.load(at)?));
        at += 4;
    }
    None
}

/// A checksum over words that were added up.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
pub const fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// Adds up whole words.
#[inline(always)]
fn sum_of<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0;
    for word in bytes.as_chunks::<4>().0 {
        sum = add(sum, u32::from_ne_bytes(*word));
    }
    sum
}

/// A family's headers of answers.
pub trait Answer: Parse {
    /// Bytes of the network header.
    const HEADER: u32;

    /// Sum of the pseudo header.
    fn pseudo_sum(src: &Self, dst: &Self, proto: Proto, len: u32) -> u32;
    /// The family's ICMP header, without its checksum.
    fn icmp(error: Error) -> [u8; ICMP_HEADER as usize];
    /// What ICMP's checksum covers beside the message of `len` bytes.
    fn icmp_pseudo_sum(src: &Self, dst: &Self, len: u32) -> u32;
    /// Writes a network header without options, with `payload` bytes behind it; false beyond the end.
    fn put_header(
        frame: &impl Frame,
        l3: u32,
        from_to: (&Self, &Self),
        proto: Proto,
        payload: u32,
    ) -> bool;
}

/// Writes the network header and that of ICMP in front of `len` quoted bytes whose sum is `quoted`; false beyond the
/// end.
#[inline(always)]
pub fn put_icmp<A: Answer>(
    frame: &impl Frame,
    l3: u32,
    (src, dst): (&A, &A),
    error: Error,
    len: u32,
    quoted: u32,
) -> bool {
    let payload = ICMP_HEADER + len;
    let mut icmp = A::icmp(error);
    let covered = add(A::icmp_pseudo_sum(src, dst, payload), quoted);
    let [c0, c1] = finish(add(sum_of(&icmp), covered)).to_ne_bytes();
    (icmp[2], icmp[3]) = (c0, c1);
    A::put_header(frame, l3, (src, dst), A::ICMP, payload) && frame.store(l3 + A::HEADER, &icmp)
}

impl Answer for Addr4 {
    const HEADER: u32 = 20;

    #[inline(always)]
    fn pseudo_sum(src: &Self, dst: &Self, proto: Proto, len: u32) -> u32 {
        let [_, _, l0, l1] = len.to_be_bytes();
        let rest = u32::from_ne_bytes([0, proto.0, l0, l1]);
        add(add(src.to_ctx(), dst.to_ctx()), rest)
    }

    #[inline(always)]
    fn icmp(error: Error) -> [u8; ICMP_HEADER as usize] {
        let (kind, code, mtu) = match error {
            Error::PortUnreachable => (3, 3, 0),
            Error::HopsExceeded => (11, 0, 0),
            Error::TooBig { mtu } => (3, 4, mtu),
        };
        let [_, _, m0, m1] = mtu.to_be_bytes();
        [kind, code, 0, 0, 0, 0, m0, m1]
    }

    #[inline(always)]
    fn icmp_pseudo_sum(_src: &Self, _dst: &Self, _len: u32) -> u32 {
        0
    }

    #[inline(always)]
    fn put_header(
        frame: &impl Frame,
        l3: u32,
        (src, dst): (&Self, &Self),
        proto: Proto,
        payload: u32,
    ) -> bool {
        let [_, _, t0, t1] = (Self::HEADER + payload).to_be_bytes();
        let (s, d) = (src.ip4, dst.ip4);
        let mut header = [
            0x45, 0, t0, t1, 0, 0, 0x40, 0, HOPS, proto.0, 0, 0, s[0], s[1], s[2], s[3], d[0],
            d[1], d[2], d[3],
        ];
        let [c0, c1] = finish(sum_of(&header)).to_ne_bytes();
        (header[10], header[11]) = (c0, c1);
        frame.store(l3, &header)
    }
}

impl Answer for Addr6 {
    const HEADER: u32 = 40;

    #[inline(always)]
    fn pseudo_sum(src: &Self, dst: &Self, proto: Proto, len: u32) -> u32 {
        let (s, d) = (src.ne_words(), dst.ne_words());
        let addrs = add(
            add(add(s[0], s[1]), add(s[2], s[3])),
            add(add(d[0], d[1]), add(d[2], d[3])),
        );
        let rest = add(len.to_be(), u32::from_ne_bytes([0, 0, 0, proto.0]));
        add(addrs, rest)
    }

    #[inline(always)]
    fn icmp(error: Error) -> [u8; ICMP_HEADER as usize] {
        let (kind, code, mtu) = match error {
            Error::PortUnreachable => (1, 4, 0),
            Error::HopsExceeded => (3, 0, 0),
            Error::TooBig { mtu } => (2, 0, mtu),
        };
        let [m0, m1, m2, m3] = mtu.to_be_bytes();
        [kind, code, 0, 0, m0, m1, m2, m3]
    }

    #[inline(always)]
    fn icmp_pseudo_sum(src: &Self, dst: &Self, len: u32) -> u32 {
        Self::pseudo_sum(src, dst, ICMP6, len)
    }

    #[inline(always)]
    fn put_header(
        frame: &impl Frame,
        l3: u32,
        (src, dst): (&Self, &Self),
        proto: Proto,
        payload: u32,
    ) -> bool {
        let [_, _, p0, p1] = payload.to_be_bytes();
        frame.store(l3, &[0x60, 0, 0, 0, p0, p1, proto.0, HOPS])
            && frame.store(l3 + 8, &src.ip6)
            && frame.store(l3 + 24, &dst.ip6)
    }
}

/// What a RST for a SYN depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The sequence number of the SYN.
    pub seq: u32,
    /// Bytes of data that it carries (RFC 7413).
    pub data: u32,
}

/// Reads what a RST must acknowledge: `None` where the packet is cut short.
#[inline(always)]
pub fn refused_syn(bytes: &impl Bytes, l3: u32, l4: u32, total: u32) -> Option<Refused> {
    let raw: [u8; 20] = bytes.load(l4)?;
    let header = (raw[12] >> 4) as u32 * 4;
    Some(Refused {
        seq: u32::from_be_bytes([raw[4], raw[5], raw[6], raw[7]]),
        data: (l3 + total).saturating_sub(l4 + header),
    })
}

/// The RST that answers a SYN to `to` (RFC 9293, section 3.10.7.1), with `pseudo` as the sum of its pseudo header.
/// `is_partial`: a device will complete the checksum.
#[inline(always)]
pub fn rst(sport: BePort, dport: BePort, syn: Refused, pseudo: u32, is_partial: bool) -> [u8; 20] {
    let ack = syn.seq.wrapping_add(1).wrapping_add(syn.data).to_be_bytes();
    let mut tcp = [
        sport.be[0],
        sport.be[1],
        dport.be[0],
        dport.be[1],
        0,
        0,
        0,
        0,
        ack[0],
        ack[1],
        ack[2],
        ack[3],
        0x50,
        RST_ACK,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let field = if is_partial {
        !finish(pseudo)
    } else {
        finish(add(sum_of(&tcp), pseudo))
    };
    let [c0, c1] = field.to_ne_bytes();
    (tcp[16], tcp[17]) = (c0, c1);
    tcp
}
