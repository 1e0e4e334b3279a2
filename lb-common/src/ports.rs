//! `LB_PORTS`: which ports any frontend or backend uses, one bit each.
//!
//! What has no bit is no Service's, whatever its addresses: most packets of a node are left alone
//! after this one array read. Bits are never taken back, for flows outlive their Service (rule 88).

use crate::net::{BePort, Proto};

/// Words of 64 bits for all ports.
pub const WORDS_PER_SET: u32 = 65_536 / 64;
/// Entries of `LB_PORTS`: TCP, UDP and SCTP frontends, then backends of all protocols.
pub const PORT_WORDS: u32 = 4 * WORDS_PER_SET;

/// Index of the word and mask of the bit.
pub type PortBit = (u32, u64);

/// The bit of frontends on this port; `None` for a protocol that Services do not know.
#[inline(always)]
pub const fn frontend_bit(proto: Proto, port: BePort) -> Option<PortBit> {
    let set = match proto {
        Proto::TCP => 0,
        Proto::UDP => 1,
        Proto::SCTP => 2,
        _ => return None,
    };
    Some(bit(set, port))
}

/// The bit of backends on this port.
#[inline(always)]
pub const fn backend_bit(port: BePort) -> PortBit {
    bit(3, port)
}

#[inline(always)]
const fn bit(set: u32, port: BePort) -> PortBit {
    let port = port.host();
    (set * WORDS_PER_SET + (port >> 6) as u32, 1 << (port & 63))
}
