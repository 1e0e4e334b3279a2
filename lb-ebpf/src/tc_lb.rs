//! Translation of packets on the node's devices.
//!
//! What has a flow is rewritten; an opener without one is decided, which makes the flow, and then goes
//! the same way. All else passes: most of it after one bit of `LB_PORTS`.

use lb_common::{
    config::{Config, FamilyConfig},
    decide::Chance,
    device::{DeviceVal, MasqAddr},
    flow::{FlowFlags, FlowKey},
    nat::{Draft, Flows as _, Network, Opening, Route, stands},
    net::{Addr4, Addr6, Address as _, Proto},
    parse::{Parse, ports},
    ports::{backend_bit, frontend_bit},
    reason::Counter,
    rewrite::{Rewrite, rewrite},
    tables::Tables,
    track::after,
};

use crate::{
    count::{count_packet, count_packet_at},
    flows::FlowTables,
    maps::{Kernel, config, device, has_port},
    packet::{Routed, Skb},
    sock_addr::{now_ns, now_s, random},
};

/// Go on with the next program, or the stack.
pub const NEXT: i32 = -1;
/// Drop.
pub const SHOT: i32 = 2;
/// Not a verdict: the flow is in the tables now.
const MADE: i32 = 100;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// A family as packets have it.
pub trait Family: Parse + Rewrite + Routed + MasqAddr {}
impl Family for Addr4 {}
impl Family for Addr6 {}

/// Where the packet is met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inbound,
    Outbound,
    Lb0,
}

/// The kernel's clock and dice.
struct KernelChance;

impl Chance for KernelChance {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        random()
    }
}

/// The node's network, as seen by a packet.
struct Node<'a, 'c> {
    skb: &'a Skb<'c>,
}

impl<A: Family> Network<A> for Node<'_, '_> {
    #[inline(always)]
    fn route(&self, to: &A) -> Route<A> {
        let nowhere = Route {
            oif: 0,
            source: A::UNSPECIFIED,
            is_uplink: false,
        };
        let Some((oif, source)) = self.skb.route(to) else {
            return nowhere;
        };
        let Some(device) = device(oif).filter(|device| device.is(DeviceVal::UPLINK)) else {
            return Route { oif, ..nowhere };
        };
        let source = if source.is_unspecified() {
            A::masq(device)
        } else {
            source
        };
        Route {
            oif,
            source,
            is_uplink: true,
        }
    }

    #[inline(always)]
    fn is_port_taken(&self, answers: &FlowKey<A>) -> bool {
        self.skb.has_socket(answers)
    }

    #[inline(always)]
    fn is_pod_device(&self) -> bool {
        device(self.skb.ifindex()).is_some_and(|device| device.is(DeviceVal::POD_SIDE))
    }
}

#[inline(always)]
pub fn ingress(skb: &Skb<'_>) -> i32 {
    if skb.has_vlan_tag() {
        return NEXT;
    }
    match skb.protocol() {
        IPV4 => packet::<Addr4>(skb, Side::Inbound),
        IPV6 => packet::<Addr6>(skb, Side::Inbound),
        _ => NEXT,
    }
}

#[inline(always)]
pub fn egress(skb: &Skb<'_>) -> i32 {
    let mark = skb.mark();
    if mark != 0
        && let Some(config) = config()
        && mark & config.mark != 0
    {
        skb.set_mark(mark & !config.mark);
        return NEXT;
    }
    match skb.protocol() {
        IPV4 => packet::<Addr4>(skb, Side::Outbound),
        IPV6 => packet::<Addr6>(skb, Side::Outbound),
        _ => NEXT,
    }
}

#[inline(always)]
pub fn lb0_egress(skb: &Skb<'_>) -> i32 {
    match skb.protocol() {
        IPV4 => packet::<Addr4>(skb, Side::Lb0),
        IPV6 => packet::<Addr6>(skb, Side::Lb0),
        _ => NEXT,
    }
}

/// One function of the object for each family and side: they share what is left of 512 bytes of stack.
#[inline(never)]
fn packet<A: Family>(skb: &Skb<'_>, side: Side) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let (Some(config), Some(draft)) = (config(), FlowTables::<A>::draft(&Kernel)) else {
        return NEXT;
    };
    if !read(skb, draft) {
        return NEXT;
    }
    if !concerns(config, &draft.key, side) {
        return NEXT;
    }
    let now_s = now_s();
    let may_open = side == Side::Inbound && draft.step().may_open();
    let mut found = Kernel.find(draft);
    if found.is_some() && may_open && !still_stands(config, draft, now_s) {
        give_up(draft);
        found = None;
    }
    let is_embryo = match found {
        Some(is_embryo) => is_embryo,
        None if may_open => {
            let verdict = opener(skb, config, draft, now_s);
            if verdict != MADE {
                return verdict;
            }
            true
        }
        None => return NEXT,
    };
    let flags = draft.val.flags;
    let is_met = match side {
        Side::Inbound => flags.is_met_inbound(),
        Side::Outbound => flags.is_met_outbound(),
        Side::Lb0 => flags.is_met_at_lb0(),
    };
    if !is_met {
        return NEXT;
    }
    let next = after(flags, draft.step());
    if next != flags || now_s != draft.val.seen_s {
        draft.val.flags = next;
        draft.val.seen_s = now_s;
        touch(skb, draft, is_embryo);
    }
    send(skb, config, draft)
}

/// Reads the headers; false where they are none that a flow could have.
#[inline(never)]
fn read<A: Family>(skb: &Skb<'_>, draft: &mut Draft<A>) -> bool {
    skb.pull_headers();
    let Some(header) = A::header(skb, skb.l3) else {
        return false;
    };
    let Some(ports) = ports(skb, header.proto, header.l4) else {
        return false;
    };
    draft.key = FlowKey::new(
        header.proto,
        header.src,
        ports.sport,
        header.dst,
        ports.dport,
    );
    draft.header = header;
    draft.step = ports.step as u32;
    true
}

/// May the packet be a Service's? Reads one bit.
#[inline(always)]
fn concerns<A>(config: &Config, key: &FlowKey<A>, side: Side) -> bool {
    match side {
        Side::Inbound => {
            config.is_snat_port(key.dport)
                || frontend_bit(key.proto, key.dport).is_some_and(has_port)
        }
        Side::Outbound => has_port(backend_bit(key.sport)),
        Side::Lb0 => true,
    }
}

/// [`stands`] for the flow at hand.
#[inline(never)]
fn still_stands<A: Family>(config: &Config, draft: &Draft<A>, now_s: u32) -> bool
where
    Kernel: Tables<A>,
{
    stands(&Kernel, config, &draft.key, &draft.val, draft.step(), now_s)
}

/// Forgets a flow that no longer stands.
#[inline(never)]
fn give_up<A: Family>(draft: &mut Draft<A>) -> i32
where
    Kernel: FlowTables<A>,
{
    draft.answers = draft.val.other_key(draft.key.proto);
    Kernel.forget(&draft.answers);
    Kernel.forget(&draft.key);
    if draft.key.proto == Proto::UDP {
        count_packet(Counter::FlowMoved);
    }
    0
}

/// Notes state and time in both halves, makes the other half anew if it is lost, and takes an embryo that
/// has grown up among the established.
#[inline(never)]
fn touch<A: Family>(skb: &Skb<'_>, draft: &mut Draft<A>, is_embryo: bool) -> i32
where
    Kernel: FlowTables<A>,
{
    let (flags, seen_s) = (draft.val.flags, draft.val.seen_s);
    draft.answers = draft.val.other_key(draft.key.proto);
    let is_noted = Kernel.note(&draft.key, flags, seen_s);
    let is_whole = Kernel.note(&draft.answers, flags, seen_s) & is_noted;
    let grows_up = is_embryo && flags.has(FlowFlags::ESTABLISHED);
    if is_whole && !grows_up {
        return 0;
    }
    let oif = if draft.val.oif == 0 {
        0
    } else {
        Network::<A>::route(&Node { skb }, &draft.key.src).oif
    };
    draft.counterpart = draft.val.other_val(&draft.key, oif);
    if !is_embryo {
        Kernel.establish(&draft.answers, &draft.counterpart);
        return 0;
    }
    if !grows_up {
        Kernel.reserve(&draft.answers, &draft.counterpart);
        return 0;
    }
    let both = Kernel.establish(&draft.answers, &draft.counterpart)
        && Kernel.establish(&draft.key, &draft.val);
    if both {
        Kernel.leave_embryos(&draft.key);
        Kernel.leave_embryos(&draft.answers);
    } else {
        // It lives on among the embryos.
        Kernel.leave_established(&draft.answers);
        count_packet(Counter::FlowTableFull);
    }
    0
}

/// Rewrites a packet and sends it on its way.
#[inline(never)]
fn send<A: Family>(skb: &Skb<'_>, config: &Config, draft: &mut Draft<A>) -> i32 {
    let flags = draft.val.flags;
    let is_redirected = flags.has(FlowFlags::SNAT);
    let to_lb0 = flags.has(FlowFlags::LB0) && !flags.has(FlowFlags::REPLY);
    if is_redirected && !to_lb0 && draft.header.ttl <= 1 {
        count_packet(Counter::HopsExceeded);
        return SHOT;
    }
    draft.answers = draft.val.translated(draft.key.proto);
    if !rewrite(skb, &draft.header, &draft.key, &draft.answers) {
        count_packet(Counter::Malformed);
        return SHOT;
    }
    if !is_redirected {
        return NEXT;
    }
    if to_lb0 {
        if !skb.set_destination_mac(&config.lb0_mac) {
            return SHOT;
        }
        return skb.redirect_into(config.lb0);
    }
    if !A::store_ttl(skb, draft.header.l3, draft.header.ttl - 1) {
        return SHOT;
    }
    skb.set_mark(skb.mark() | config.mark);
    skb.redirect_neigh(draft.val.oif)
}

/// Decides an opener without a flow: a verdict, or [`MADE`].
#[inline(never)]
fn opener<A: Family>(skb: &Skb<'_>, config: &Config, draft: &mut Draft<A>, now_s: u32) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let opening = Opening {
        tables: Kernel,
        network: Node { skb },
        config,
        chance: KernelChance,
        now_s,
    };
    let outcome = opening.open(draft);
    if let Some(hit) = outcome.made() {
        count_packet_at(hit);
        return if Kernel.find(draft).is_some() {
            MADE
        } else {
            SHOT
        };
    }
    if let Some(counter) = outcome.failed() {
        count_packet_at(counter);
        return SHOT;
    }
    match outcome.refused() {
        None => NEXT,
        Some(reason) => {
            count_packet(reason.counter());
            SHOT
        }
    }
}
