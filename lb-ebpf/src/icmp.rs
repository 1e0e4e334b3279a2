//! ICMP: errors about translated packets, and echo to a VIP.

use lb_common::{
    answer::ICMP_HEADER,
    config::{Config, FamilyConfig},
    flow::{FlowFlags, FlowKey},
    nat::Draft,
    net::Proto,
    parse::{Place, port_pair},
    reason::Counter,
    rewrite::{Related, rewrite_related},
    tables::Tables,
};

use crate::{
    count::count_packet,
    flows::FlowTables,
    maps::Kernel,
    packet::Skb,
    tc_lb::{Family, NEXT, SHOT, Side, at_hand, concerns, is_met, leave, to_lb0},
};

/// Is it an error, which quotes a packet?
#[inline(always)]
pub const fn is_error(family: u8, kind: u8) -> bool {
    if family == 4 {
        // Unreachable, time exceeded, parameter problem (RFC 792).
        matches!(kind, 3 | 11 | 12)
    } else {
        // The first half of all types (RFC 4443).
        kind < 128
    }
}

/// An ICMP error: it goes the way of the flow that it is about, in the direction of that flow's answers.
#[inline(always)]
pub fn related<A: Family>(skb: &Skb, side: Side) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return NEXT;
    };
    if !read_quoted(skb, draft) || !concerns(config, &draft.key, side) {
        return NEXT;
    }
    if Kernel.find(draft).is_none() || !is_met(draft.val.flags, side) {
        return NEXT;
    }
    let flags = draft.val.flags;
    if flags.has(FlowFlags::SNAT) && !to_lb0(flags) && draft.header.ttl <= 1 {
        // Nobody is told: there are no errors about errors (RFC 1122).
        count_packet(Counter::HopsExceeded);
        return SHOT;
    }
    draft.answers = draft.val.other_key(draft.key.proto);
    if !translate(skb, draft) {
        count_packet(Counter::Malformed);
        return SHOT;
    }
    count_packet(Counter::IcmpTranslated);
    if !draft.val.flags.has(FlowFlags::SNAT) {
        return NEXT;
    }
    leave(skb, config, draft)
}

/// Reads what the error quotes into `draft.quoted`, and the half of the flow that it travels with into `draft.key`.
#[inline(never)]
fn read_quoted<A: Family>(skb: &Skb, draft: &mut Draft<A>) -> bool {
    let Some(inner) = A::header(skb, draft.header.l4 + ICMP_HEADER) else {
        return false;
    };
    if inner.place == Place::LATER || !matches!(inner.proto, Proto::TCP | Proto::UDP | Proto::SCTP)
    {
        return false;
    }
    let Some((sport, dport)) = port_pair(skb, inner.l4) else {
        return false;
    };
    draft.quoted = FlowKey::new(inner.proto, inner.src, sport, inner.dst, dport);
    draft.key = draft.quoted.reversed();
    draft.inner = inner;
    true
}

#[inline(never)]
fn translate<A: Family>(skb: &Skb, draft: &Draft<A>) -> bool {
    // A router's own address stays what it is, unless answers must come back to us.
    let src = if draft.val.src == draft.key.src {
        &draft.header.src
    } else {
        &draft.val.src
    };
    rewrite_related(
        skb,
        &Related {
            outer: &draft.header,
            inner: &draft.inner,
            quoted: &draft.quoted,
            translated: &draft.answers,
            src,
            dst: &draft.val.dst,
        },
    )
}
