//! From one tuple to another: which bytes of a packet change, and by how much its checksums.
//!
//! Transport checksums change through [`Frame::l4_csum`] alone, in the kernel a helper: it knows
//! whether the field holds a sum, or only that of the pseudo header, to be completed by a device.

use crate::{
    flow::FlowKey,
    net::{Addr4, Addr6, Address, BePort, Proto},
    parse::{Bytes, Header, Place},
    sctp,
};

/// How a transport checksum is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Csum {
    /// The difference is one of addresses or lengths, which the pseudo header repeats.
    pub is_pseudo: bool,
    /// A field of zero means no checksum, and a sum of zero is written as all ones (UDP over IPv4).
    pub zero_is_none: bool,
    /// IPv6, whose own header has no sum that would make up for changed addresses.
    pub is_ipv6: bool,
}

/// A packet that can be changed.
pub trait Frame: Bytes {
    /// Overwrites bytes; false beyond the end.
    fn store<const N: usize>(&self, at: u32, bytes: &[u8; N]) -> bool;
    /// [`sctp::crc_change`]; a method, for in the kernel it is a function that the verifier checks by itself.
    fn crc_change(&self, delta: u32, after: u32) -> u32 {
        sctp::crc_change(delta, after)
    }
    /// Adds `diff`, as [`diff4`] gives it, to the transport checksum at `at`; false beyond the end.
    fn l4_csum(&self, at: u32, diff: u32, how: Csum) -> bool;
}

/// A family's part of rewriting.
pub trait Rewrite: Address {
    /// Writes both addresses, keeps the network header's own checksum right, and returns by how much
    /// the pseudo header changed; `None` beyond the end.
    fn store_addrs(
        frame: &impl Frame,
        l3: u32,
        old: (&Self, &Self),
        new: (&Self, &Self),
    ) -> Option<u32>;
    /// Takes one hop off.
    fn store_ttl(frame: &impl Frame, l3: u32, ttl: u8) -> bool;
}

/// Makes the packet say `new` instead of `old`; false when it is cut short, and then it may be half
/// changed and must be dropped.
#[inline(always)]
pub fn rewrite<A: Rewrite>(
    frame: &impl Frame,
    header: &Header<A>,
    old: &FlowKey<A>,
    new: &FlowKey<A>,
) -> bool {
    let has_ports = header.place != Place::LATER;
    let ports_differ = old.sport != new.sport || old.dport != new.dport;
    if has_ports && ports_differ {
        if old.proto == Proto::SCTP && !sctp::change_ports(frame, header, old, new) {
            return false;
        }
        if !store_ports(frame, header.l4, new.sport, new.dport) {
            return false;
        }
    }
    let Some(addr_diff) =
        A::store_addrs(frame, header.l3, (&old.src, &old.dst), (&new.src, &new.dst))
    else {
        return false;
    };
    let Some(field) = l4_field(old.proto, header.l4) else {
        return true;
    };
    if !has_ports {
        return true;
    }
    let how = Csum {
        is_pseudo: false,
        zero_is_none: old.proto == Proto::UDP,
        is_ipv6: A::FAMILY == 6,
    };
    let ports_done = !ports_differ || {
        let diff = diff4(
            port_word(old.sport, old.dport),
            port_word(new.sport, new.dport),
        );
        frame.l4_csum(field, diff, how)
    };
    ports_done
        && frame.l4_csum(
            field,
            addr_diff,
            Csum {
                is_pseudo: true,
                ..how
            },
        )
}

/// What an ICMP error says, and what changes in it.
pub struct Related<'a, A> {
    /// Its own header.
    pub outer: &'a Header<A>,
    /// That of the packet that it quotes.
    pub inner: &'a Header<A>,
    /// What it quotes.
    pub quoted: &'a FlowKey<A>,
    /// The same, translated.
    pub translated: &'a FlowKey<A>,
    /// Sender once translated.
    pub src: &'a A,
    /// Receiver once translated.
    pub dst: &'a A,
}

/// Translates an ICMP error inside and outside; false when it is cut short, and then it must be dropped.
///
/// The quoted transport checksum is kept right where it is quoted, though hardly anyone looks at it.
#[inline(always)]
pub fn rewrite_related<A: Rewrite>(frame: &impl Frame, related: &Related<'_, A>) -> bool {
    let Related {
        outer,
        inner,
        quoted,
        translated,
        ..
    } = related;
    let Some(inner_diff) = A::store_addrs(
        frame,
        inner.l3,
        (&quoted.src, &quoted.dst),
        (&translated.src, &translated.dst),
    ) else {
        return false;
    };
    let old_ports = port_word(quoted.sport, quoted.dport);
    let new_ports = port_word(translated.sport, translated.dport);
    let ports_diff = diff4(old_ports, new_ports);
    if !store_ports(frame, inner.l4, translated.sport, translated.dport) {
        return false;
    }
    // IPv4's own checksum made up for the addresses.
    let mut change = if A::FAMILY == 6 {
        add(inner_diff, ports_diff)
    } else {
        ports_diff
    };
    if let Some(at) = l4_field(quoted.proto, inner.l4)
        && let Some(field) = frame.load::<2>(at)
        && !(quoted.proto == Proto::UDP && field == [0; 2])
    {
        let field = u16::from_ne_bytes(field);
        let new = fold_into(field, add(inner_diff, ports_diff));
        if !frame.store(at, &new.to_ne_bytes()) {
            return false;
        }
        change = add(change, diff4(field as u32, new as u32));
    }
    let Some(outer_diff) = A::store_addrs(
        frame,
        outer.l3,
        (&outer.src, &outer.dst),
        (related.src, related.dst),
    ) else {
        return false;
    };
    let field = outer.l4 + 2;
    let how = Csum {
        is_ipv6: A::FAMILY == 6,
        ..Csum::default()
    };
    let is_covered = A::FAMILY == 4
        || frame.l4_csum(
            field,
            outer_diff,
            Csum {
                is_pseudo: true,
                ..how
            },
        );
    is_covered && frame.l4_csum(field, change, how)
}

/// Where the transport checksum is. SCTP's is no sum, and does not cover addresses.
#[inline(always)]
pub const fn l4_field(proto: Proto, l4: u32) -> Option<u32> {
    match proto {
        Proto::TCP => Some(l4 + 16),
        Proto::UDP => Some(l4 + 6),
        _ => None,
    }
}

/// Writes both ports.
#[inline(always)]
pub fn store_ports(frame: &impl Frame, l4: u32, sport: BePort, dport: BePort) -> bool {
    frame.store(l4, &[sport.be[0], sport.be[1], dport.be[0], dport.be[1]])
}

/// Both ports as the four bytes of the wire, in a native word.
#[inline(always)]
pub const fn port_word(sport: BePort, dport: BePort) -> u32 {
    u32::from_ne_bytes([sport.be[0], sport.be[1], dport.be[0], dport.be[1]])
}

/// What to add to a sum so that it covers `new` instead of `old` (RFC 1624): words of four bytes as they lie
/// in memory; the result is a native, unfolded one's complement sum, as bpf_csum_diff returns it.
#[inline(always)]
pub const fn diff4(old: u32, new: u32) -> u32 {
    carry(!old as u64 + new as u64)
}

/// Two differences as one.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    carry(a as u64 + b as u64)
}

/// End-around carry.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "folded to 32 bits by the addition"
)]
const fn carry(sum: u64) -> u32 {
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    ((once & 0xffff_ffff) + (once >> 32)) as u32
}

/// A checksum field after a difference: `field` and the result are native words of the wire's bytes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
pub const fn fold_into(field: u16, diff: u32) -> u16 {
    let sum = !field as u32 + (diff & 0xffff) + (diff >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

impl Rewrite for Addr4 {
    #[inline(always)]
    fn store_addrs(
        frame: &impl Frame,
        l3: u32,
        old: (&Self, &Self),
        new: (&Self, &Self),
    ) -> Option<u32> {
        let diff = add(
            diff4(old.0.to_ctx(), new.0.to_ctx()),
            diff4(old.1.to_ctx(), new.1.to_ctx()),
        );
        let (s, d) = (new.0.ip4, new.1.ip4);
        let field = u16::from_ne_bytes(frame.load(l3 + 10)?);
        let is_stored = frame.store(l3 + 10, &fold_into(field, diff).to_ne_bytes())
            && frame.store(l3 + 12, &[s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]]);
        is_stored.then_some(diff)
    }

    #[inline(always)]
    fn store_ttl(frame: &impl Frame, l3: u32, ttl: u8) -> bool {
        let Some([was, proto, c0, c1]) = frame.load::<4>(l3 + 8) else {
            return false;
        };
        let diff = diff4(
            u32::from_ne_bytes([was, proto, 0, 0]),
            u32::from_ne_bytes([ttl, proto, 0, 0]),
        );
        let [c0, c1] = fold_into(u16::from_ne_bytes([c0, c1]), diff).to_ne_bytes();
        frame.store(l3 + 8, &[ttl, proto, c0, c1])
    }
}

impl Rewrite for Addr6 {
    #[inline(always)]
    fn store_addrs(
        frame: &impl Frame,
        l3: u32,
        old: (&Self, &Self),
        new: (&Self, &Self),
    ) -> Option<u32> {
        let diff = add(diff16(old.0, new.0), diff16(old.1, new.1));
        let is_stored = frame.store(l3 + 8, &new.0.ip6) && frame.store(l3 + 24, &new.1.ip6);
        is_stored.then_some(diff)
    }

    #[inline(always)]
    fn store_ttl(frame: &impl Frame, l3: u32, ttl: u8) -> bool {
        // Two bytes, for the verifier does not see a bound for a single one.
        let Some([next, _]) = frame.load::<2>(l3 + 6) else {
            return false;
        };
        frame.store(l3 + 6, &[next, ttl])
    }
}

#[inline(always)]
const fn diff16(old: &Addr6, new: &Addr6) -> u32 {
    let (o, n) = (old.ne_words(), new.ne_words());
    add(
        add(diff4(o[0], n[0]), diff4(o[1], n[1])),
        add(diff4(o[2], n[2]), diff4(o[3], n[3])),
    )
}
