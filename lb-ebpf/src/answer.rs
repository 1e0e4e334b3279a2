//! Answers to packets that go no further: made out of the packet itself, and sent back.

use lb_common::{
    answer::{Error, ICMP_HEADER, Quote, TCP_HEADER, put_icmp, quoted_sum, refused_syn, rst},
    config::Config,
    nat::{Draft, Network, Route},
    net::Proto,
    parse::Bytes as _,
    reason::Counter,
    rewrite::{Csum, Frame as _, l4_field},
};

use crate::{
    count::count_packet,
    flows::FlowTables,
    maps::{Kernel, may_answer},
    packet::Skb,
    sock_addr::now_ns,
    stages::Stages,
    tc_lb::{Family, Node, SHOT, Side, at_hand},
};

/// Bytes of a transport header that every error quotes (RFC 792).
const QUOTED: u32 = 8;

/// Answers as the draft says, with RST where port unreachable would tell a TCP client the same (rule 43).
#[inline(always)]
pub fn answer<A: Stages>(skb: &Skb, side: Side) -> i32
where
    Kernel: FlowTables<A>,
{
    let Some((_, draft)) = at_hand::<A>() else {
        return SHOT;
    };
    if draft.header.proto == Proto::TCP && draft.answer == Error::PortUnreachable.code() {
        A::refuse_syn(skb, side)
    } else {
        A::put_error(skb, side)
    }
}

#[inline(always)]
fn is_limited() -> bool {
    let is_limited = !may_answer(now_ns());
    if is_limited {
        count_packet(Counter::RejectLimited);
    }
    is_limited
}

/// Answers a SYN with RST.
#[inline(always)]
pub fn refuse_syn<A: Family>(skb: &Skb, side: Side) -> i32
where
    Kernel: FlowTables<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return SHOT;
    };
    let header = &draft.header;
    if is_limited() {
        return SHOT;
    }
    let Some(syn) = refused_syn(skb, header.l3, header.l4, header.total) else {
        return SHOT;
    };
    let is_partial = is_partial(skb, header.l4 + 16);
    // Options and extension headers are not sent back. What goes is the packet's beginning, for a device that completes
    // the checksum knows where the transport header is.
    let extra = header.l4 - header.l3 - A::HEADER;
    let l4 = header.l3 + A::HEADER;
    if (extra > 0 && !skb.take_room(extra)) || !skb.resize(l4 + TCP_HEADER) {
        return SHOT;
    }
    let pseudo = A::pseudo_sum(&header.dst, &header.src, Proto::TCP, TCP_HEADER);
    let tcp = rst(draft.key.dport, draft.key.sport, syn, pseudo, is_partial);
    let is_written = skb.store(l4, &tcp)
        && A::put_header(
            skb,
            header.l3,
            (&header.dst, &header.src),
            Proto::TCP,
            TCP_HEADER,
        );
    if !is_written {
        return SHOT;
    }
    count_packet(Counter::RejectSent);
    send_back(skb, config, draft, side)
}

/// Answers with an ICMP error that quotes the packet, as its sender sent it.
#[inline(always)]
pub fn put_error<A: Family>(skb: &Skb, side: Side) -> i32
where
    Kernel: FlowTables<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return SHOT;
    };
    let error = Error::from_code(draft.answer);
    let header = &draft.header;
    let is_tcp = header.proto == Proto::TCP;
    let quoted = header.l4 - header.l3 + if is_tcp { TCP_HEADER } else { QUOTED };
    if skb.size() < header.l3 + quoted || is_limited() {
        return SHOT;
    }
    let field = l4_field(header.proto, header.l4);
    let quote = Quote {
        l3: header.l3,
        len: quoted,
        l4: header.l4,
        partial: field.filter(|field| is_partial(skb, *field)),
    };
    if !skb.resize(header.l3 + quoted) {
        return SHOT;
    }
    let Some(sum) = quoted_sum(skb, &quote) else {
        return SHOT;
    };
    let from = match error {
        Error::PortUnreachable => header.dst,
        // Whoever forwards says so by an address of its own.
        Error::HopsExceeded | Error::TooBig { .. } => own_address(skb, draft),
    };
    let is_written = skb.make_room(A::HEADER + ICMP_HEADER)
        && put_icmp(skb, header.l3, (&from, &header.src), error, quoted, sum);
    if !is_written {
        return SHOT;
    }
    if matches!(error, Error::PortUnreachable) {
        count_packet(Counter::RejectSent);
    }
    send_back(skb, config, draft, side)
}

/// The address of the device that the packet came by; what it is for where that has none.
#[inline(always)]
fn own_address<A: Family>(skb: &Skb, draft: &Draft<A>) -> A {
    crate::maps::device(skb.ifindex())
        .map(A::masq)
        .filter(|addr| !addr.is_unspecified())
        .unwrap_or(draft.header.dst)
}

/// Is the transport checksum still to be completed by a device (CHECKSUM_PARTIAL)? A program is not told; but
/// then, and only then, the kernel leaves the field alone when something else than the pseudo header changes.
#[inline(always)]
fn is_partial(skb: &Skb, field: u32) -> bool {
    let Some(before) = skb.load::<2>(field) else {
        return false;
    };
    if !skb.l4_csum(field, 1, Csum::default()) {
        return false;
    }
    let is_partial = skb.load::<2>(field) == Some(before);
    if !is_partial {
        // It was there a moment ago.
        let _written = skb.store(field, &before);
    }
    is_partial
}

/// To where the packet came from.
#[inline(always)]
fn send_back<A: Family>(skb: &Skb, config: &Config, draft: &Draft<A>, side: Side) -> i32 {
    skb.set_mark(skb.mark() | config.mark);
    if side == Side::Inbound {
        if !skb.swap_macs() {
            return SHOT;
        }
        return skb.redirect_out(skb.ifindex());
    }
    // From this node, by way of another device: a pod's.
    let Route { oif, .. } = Node { skb }.route(&draft.header.src);
    if oif == 0 {
        return SHOT;
    }
    skb.redirect_neigh(oif, &A::UNSPECIFIED)
}
