//! SCTP's checksum, CRC32c (RFC 9260, section 6.8, appendix A), after a change of ports.
//!
//! A CRC is linear: the checksum of two packets that differ in a few bytes differs by the CRC of the
//! difference, moved to its distance from the end. So the rest of the packet is not read.

use crate::{
    flow::FlowKey,
    net::Address,
    parse::{Header, Place},
    rewrite::{Frame, port_word},
};

/// The reflected polynomial.
const POLY: u32 = 0x82f6_3b78;
/// The polynomial 1, reflected.
const ONE: u32 = 1 << 31;
/// Offset of the checksum in the common header.
const FIELD: u32 = 8;
/// Bytes of a packet are counted in 16 bits.
const LENGTH_BITS: usize = 16;

/// `x^(8 * 2^k)` modulo the polynomial, reflected: what moves a remainder by 2^k bytes.
static POWERS: [u32; LENGTH_BITS] = powers();

const fn powers() -> [u32; LENGTH_BITS] {
    let mut all = [0; LENGTH_BITS];
    // x^8, reflected: bit 31 is x^0.
    let mut power = 1 << (31 - 8);
    let mut k = 0;
    while k < LENGTH_BITS {
        all[k] = power;
        power = multiply(power, power);
        k += 1;
    }
    all
}

/// Product of two reflected polynomials modulo [`POLY`]. Without branches, for the verifier would follow both sides of
/// each.
#[inline(never)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut b, mut i) = (0, b, 0);
    while i < 32 {
        product ^= b & (a >> (31 - i) & 1).wrapping_neg();
        b = (b >> 1) ^ (POLY & (b & 1).wrapping_neg());
        i += 1;
    }
    product
}

/// By how much a CRC32c changes when four bytes change by `delta` (their exclusive or, as a little-endian
/// word), with `after` bytes behind them.
#[inline(always)]
pub fn crc_change(delta: u32, after: u32) -> u32 {
    // The four bytes themselves are shifted through, too.
    let mut distance = after + 4;
    let mut crc = delta;
    for power in &POWERS {
        let mask = (distance & 1).wrapping_neg();
        crc = multiply(crc, (*power & mask) | (ONE & !mask));
        distance >>= 1;
    }
    crc
}

/// Corrects the checksum for the change of ports from `old` to `new`, before they are written; false when
/// that cannot be done: a fragment does not say how long the packet is.
///
/// A checksum of zero is one that a device will fill in.
#[inline(always)]
pub fn change_ports<A: Address>(
    frame: &impl Frame,
    header: &Header<A>,
    old: &FlowKey<A>,
    new: &FlowKey<A>,
) -> bool {
    if header.place != Place::WHOLE {
        return false;
    }
    let Some(field) = frame.load::<4>(header.l4 + FIELD) else {
        return false;
    };
    let crc = u32::from_le_bytes(field);
    if crc == 0 {
        return true;
    }
    let length = (header.l3 + header.total).wrapping_sub(header.l4);
    if !(12..=0xffff).contains(&length) {
        return false;
    }
    let delta = u32::from_le(port_word(old.sport, old.dport) ^ port_word(new.sport, new.dport));
    let change = frame.crc_change(delta, length - 4);
    frame.store(header.l4 + FIELD, &(crc ^ change).to_le_bytes())
}
