//! Checksums computed anew, over bytes that lie in a row.
//!
//! The oracle that tests hold every change of a packet against. Programs on TC have no use for it: there a
//! field may hold the pseudo header's sum alone, for a device to complete, which only the kernel's helpers
//! know; see [`crate::rewrite`].

use crate::{
    net::{Address, Proto},
    parse,
};

/// The reflected polynomial of CRC32c.
const POLY: u32 = 0x82f6_3b78;

/// A one's complement sum (RFC 1071), of native words: the sum of swapped words is the swapped sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// With more bytes; only the last ones may be odd in number.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        for word in bytes.chunks(2) {
            let word = match *word {
                [first, second] => [first, second],
                [last] => [last, 0],
                _ => [0; 2],
            };
            self.0 += u64::from(u16::from_ne_bytes(word));
        }
        self
    }

    /// The sum itself, as the wire has it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
    pub const fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// Its complement: what a checksum field holds.
    #[must_use]
    pub const fn checksum(self) -> [u8; 2] {
        let [first, second] = self.folded();
        [!first, !second]
    }
}

/// What the checksum field of an IPv4 header must hold; `None` for what is too short to be one.
#[must_use]
pub fn ipv4_header(header: &[u8]) -> Option<[u8; 2]> {
    without(header, 10).map(Sum::checksum)
}

/// The sum of what a transport checksum covers beside the segment of `len` bytes (RFC 9293, RFC 8200): all that a
/// field holds whose packet a device is to complete.
#[must_use]
pub fn pseudo_header<A: Address>(src: &A, dst: &A, proto: Proto, len: u32) -> Sum {
    Sum::default()
        .with(bytemuck::bytes_of(src))
        .with(bytemuck::bytes_of(dst))
        .with(&len.to_be_bytes())
        .with(&[0, proto.0])
}

/// Where the checksum of a segment is, if it is a sum.
#[must_use]
pub const fn field(proto: Proto) -> Option<usize> {
    match proto {
        Proto::TCP => Some(16),
        Proto::UDP => Some(6),
        parse::ICMP | parse::ICMP6 => Some(2),
        _ => None,
    }
}

/// What the checksum field of a segment (header and payload) must hold: TCP, UDP, ICMP and ICMPv6. `None` for
/// other protocols, and for what is too short to have the field.
#[must_use]
pub fn segment<A: Address>(src: &A, dst: &A, proto: Proto, segment: &[u8]) -> Option<[u8; 2]> {
    let own = without(segment, field(proto)?)?;
    if proto == parse::ICMP {
        return Some(own.checksum());
    }
    let len = u32::try_from(segment.len()).ok()?;
    let pseudo = pseudo_header(src, dst, proto, len);
    match Sum(own.0 + pseudo.0).checksum() {
        // In UDP zero says that there is no checksum (RFC 768).
        [0, 0] if proto == Proto::UDP => Some([0xff; 2]),
        sum => Some(sum),
    }
}

/// What the checksum field of an SCTP packet must hold (RFC 9260, appendix A); `None` for what is too short to
/// have it.
#[must_use]
pub fn sctp(packet: &[u8]) -> Option<[u8; 4]> {
    let (before, rest) = packet.split_at_checked(8)?;
    let (_field, after) = rest.split_at_checked(4)?;
    let crc = [before, &[0; 4], after].into_iter().fold(!0, crc32c);
    Some((!crc).to_le_bytes())
}

/// A CRC32c, begun with all ones and complemented in the end, after more bytes.
#[must_use]
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLY & (crc & 1).wrapping_neg())
        })
    })
}

/// The sum of everything but the two bytes at `at`.
fn without(bytes: &[u8], at: usize) -> Option<Sum> {
    let (before, rest) = bytes.split_at_checked(at)?;
    let (_field, after) = rest.split_at_checked(2)?;
    Some(Sum::default().with(before).with(after))
}
