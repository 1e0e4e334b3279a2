//! Translation of packets on the node's devices.
//!
//! What has a flow is rewritten; an opener without one is decided, which makes the flow, and then goes
//! the same way. All else passes: most of it after one bit of `LB_PORTS`.

use lb_common::{
    answer::{Answer as Answers, Error},
    config::{Config, FamilyConfig},
    decide::{Dial, Lookup, lookup},
    device::{DeviceVal, MasqAddr},
    flow::{FlowFlags, FlowKey},
    fragment::{FragmentKey, FragmentVal},
    frontend::Class,
    nat::{DYNAMIC_HI, DYNAMIC_LO, Draft, Flows as _, Network, Opening, Route, Sender, stands},
    net::{Addr4, Addr6, BePort, Proto},
    parse::{Bytes as _, Parse, Place, ports},
    ports::{backend_bit, frontend_bit},
    reason::{Answer, Counter, Reason},
    rewrite::{Rewrite, rewrite},
    tables::Tables,
    track::{Step, after},
};

use crate::{
    answer::answer,
    count::{count_packet, count_packet_at},
    flows::FlowTables,
    icmp::is_error,
    maps::{Kernel, config, device, has_port, is_bound},
    packet::{Routed, Skb},
    sock_addr::{KernelChance, now_s},
    stages::Stages,
};

/// Go on with the next program, or the stack.
pub const NEXT: i32 = -1;
/// Drop.
pub const SHOT: i32 = 2;
/// Not a verdict: the flow is in the tables now.
const MADE: i32 = 100;
/// Not a verdict: the packet is rewritten by the flow at hand and sent on its way. Not done where that is found out: a
/// stack of 512 bytes has to do for all who call each other.
const SEND: i32 = 102;
/// Not a verdict: the packet is dropped and answered.
const ANSWER: i32 = 101;

/// The smallest packet that a device might not take: IPv4 devices take at least 576 bytes by custom, IPv6 devices 1280.
const ALWAYS_FITS: u32 = 576;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// A family as packets have it.
pub trait Family: Parse + Rewrite + Routed + MasqAddr + Answers {}
impl Family for Addr4 {}
impl Family for Addr6 {}

/// Where the packet is met.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Inbound,
    Outbound,
    Lb0,
}

impl Side {
    /// The side of a number that it was turned into.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        match index {
            0 => Self::Inbound,
            1 => Self::Outbound,
            _ => Self::Lb0,
        }
    }
}

/// The node's network, as seen by a packet.
pub struct Node<'a> {
    pub skb: &'a Skb,
}

impl Node<'_> {
    /// The address to masquerade with where the packet leaves: the route's, if it is one by this device.
    #[inline(always)]
    fn source<A: Family>(&self, to: &A) -> A {
        let route = Network::<A>::route(self, to);
        if route.oif == self.skb.ifindex() {
            return route.source;
        }
        device(self.skb.ifindex()).map_or(A::UNSPECIFIED, A::masq)
    }
}

impl<A: Family> Network<A> for Node<'_> {
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
        is_bound(answers.dport) || self.skb.has_socket(answers)
    }

    #[inline(always)]
    fn is_pod_device(&self) -> bool {
        device(self.skb.ifindex()).is_some_and(|device| device.is(DeviceVal::POD_SIDE))
    }
}

#[inline(always)]
pub fn ingress(skb: &Skb) -> i32 {
    if skb.has_vlan_tag() {
        return NEXT;
    }
    by_family(skb, Side::Inbound)
}

#[inline(always)]
pub fn egress(skb: &Skb) -> i32 {
    let mark = skb.mark();
    if mark != 0
        && let Some(config) = config()
        && mark & config.mark != 0
    {
        skb.set_mark(mark & !config.mark);
        return NEXT;
    }
    by_family(skb, Side::Outbound)
}

#[inline(always)]
pub fn lb0_egress(skb: &Skb) -> i32 {
    by_family(skb, Side::Lb0)
}

#[inline(always)]
fn by_family(skb: &Skb, side: Side) -> i32 {
    match skb.protocol() {
        IPV4 => work::<Addr4>(skb, side),
        IPV6 => work::<Addr6>(skb, side),
        _ => NEXT,
    }
}

/// Works on a packet, and sends or answers it if that is what becomes of it.
#[inline(always)]
fn work<A: Stages>(skb: &Skb, side: Side) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let mut verdict = packet::<A>(skb, side);
    if verdict == SEND {
        verdict = A::send(skb);
    }
    if verdict == ANSWER {
        answer::<A>(skb, side)
    } else {
        verdict
    }
}

#[inline(always)]
fn packet<A: Stages>(skb: &Skb, side: Side) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let found = A::read(skb);
    let Some((config, draft)) = at_hand::<A>() else {
        return NEXT;
    };
    match found {
        FLOW => {}
        ICMP_ERROR => return A::related(skb, side),
        OTHER => return other(config, draft, side),
        _ => return NEXT,
    }
    if !concerns(config, &draft.key, side) {
        return bystander(skb, config, draft, side);
    }
    let now_s = now_s();
    let may_open = side == Side::Inbound && draft.step().may_open();
    let mut found = Kernel.find(draft);
    if found.is_some() && is_met(draft.val.flags, side) && !still_stands(config, draft, now_s) {
        give_up(draft);
        found = None;
    }
    let is_embryo = match found {
        Some(is_embryo) => is_embryo,
        None if may_open => {
            let verdict = A::opener(skb);
            if verdict != MADE {
                return verdict;
            }
            true
        }
        None => return bystander(skb, config, draft, side),
    };
    let flags = draft.val.flags;
    if !is_met(flags, side) {
        return NEXT;
    }
    if draft.header.lies != 0 {
        count_packet(Counter::Malformed);
        return SHOT;
    }
    let next = after(flags, draft.step());
    let is_due = now_s != draft.val.seen_s;
    if next != flags || is_due {
        draft.val.flags = next;
        draft.val.seen_s = now_s;
        A::touch(skb, is_embryo);
    }
    if is_due && flags.has(FlowFlags::SNAT) {
        A::find_ways(skb);
    }
    SEND
}

/// The configuration, and the packet at hand.
#[inline(always)]
pub fn at_hand<A>() -> Option<(&'static Config, &'static mut Draft<A>)>
where
    Kernel: FlowTables<A>,
{
    Some((config()?, Kernel.draft()?))
}

/// What [`read`] found: nothing that concerns us, a packet that may have a flow, an ICMP error, anything else.
const NOTHING: u32 = 0;
const FLOW: u32 = 1;
const ICMP_ERROR: u32 = 2;
const OTHER: u32 = 3;

/// Reads the headers.
#[inline(always)]
pub fn read<A: Stages>(skb: &Skb) -> u32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((_, draft)) = at_hand::<A>() else {
        return NOTHING;
    };
    skb.pull_headers();
    let Some(header) = A::header(skb, skb.l3) else {
        return NOTHING;
    };
    draft.header = header;
    if header.place == Place::LATER {
        return follow_first(draft);
    }
    if header.proto == A::ICMP {
        let Some([kind, _]) = skb.load::<2>(header.l4) else {
            return NOTHING;
        };
        draft.step = kind as u32;
        return if is_error(A::FAMILY, kind) {
            ICMP_ERROR
        } else {
            OTHER
        };
    }
    let Some(ports) = ports(skb, &header) else {
        // Cut short, unless it is a protocol that has no ports.
        let is_known = matches!(header.proto, Proto::TCP | Proto::UDP | Proto::SCTP);
        return if is_known { NOTHING } else { OTHER };
    };
    draft.key = FlowKey::new(
        header.proto,
        header.src,
        ports.sport,
        header.dst,
        ports.dport,
    );
    draft.step = ports.step as u32;
    draft.header.lies = ports.lies as u8;
    FLOW
}

/// A fragment without ports has those of the first one (rule 98).
#[inline(always)]
fn follow_first<A: Family>(draft: &mut Draft<A>) -> u32
where
    Kernel: FlowTables<A>,
{
    let header = &draft.header;
    let key = FragmentKey::new(header.proto, header.src, header.dst, header.id);
    let Some(ports) = Kernel.fragment(&key) else {
        return OTHER;
    };
    draft.key = key.tuple(&ports);
    draft.step = Step::Carry as u32;
    FLOW
}

/// May the packet be a Service's? Reads one bit.
#[inline(always)]
pub fn concerns<A>(config: &Config, key: &FlowKey<A>, side: Side) -> bool {
    match side {
        Side::Inbound => {
            // Backends' ports, too: a direct connection may have had to give way to a flow's answers.
            config.is_snat_port(key.dport)
                || frontend_bit(key.proto, key.dport).is_some_and(has_port)
                || has_port(backend_bit(key.dport))
        }
        Side::Outbound => has_port(backend_bit(key.sport)) || config.is_snat_port(key.sport),
        Side::Lb0 => true,
    }
}

/// Is a half with these flags translated here?
#[inline(always)]
pub fn is_met(flags: FlowFlags, side: Side) -> bool {
    match side {
        Side::Inbound => flags.is_met_inbound(),
        Side::Outbound => flags.is_met_outbound(),
        Side::Lb0 => flags.is_met_at_lb0(),
    }
}

/// A packet without a flow of its own: it may still be in the way of one, or lead nowhere.
#[inline(always)]
fn bystander<A: Stages>(skb: &Skb, config: &Config, draft: &mut Draft<A>, side: Side) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let may_open = draft.step().may_open();
    match side {
        Side::Inbound if may_open && has_port(backend_bit(draft.key.dport)) => A::beside(skb),
        Side::Outbound if config.is_snat_port(draft.key.sport) => A::collision(skb),
        Side::Inbound | Side::Outbound if may_open => A::nowhere(side),
        Side::Inbound | Side::Outbound | Side::Lb0 => NEXT,
    }
}

/// A protocol without ports, an echo, or a fragment whose first was not seen.
#[inline(always)]
fn other<A: Stages>(config: &Config, draft: &mut Draft<A>, side: Side) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    if side == Side::Lb0 {
        return NEXT;
    }
    let header = &draft.header;
    draft.key = FlowKey::new(
        header.proto,
        header.src,
        BePort::new(0),
        header.dst,
        BePort::new(0),
    );
    if draft.header.place == Place::LATER {
        return lost_fragment(config, draft);
    }
    A::nowhere(side)
}

/// A fragment for a VIP must not go on as it is; on a node's own address it may be the host's.
#[inline(always)]
fn lost_fragment<A: Family>(config: &Config, draft: &Draft<A>) -> i32
where
    Config: FamilyConfig<A>,
{
    if config.ranges().find(&draft.header.dst).is_none() {
        return NEXT;
    }
    count_packet(Counter::FragmentUnknown);
    SHOT
}

/// A packet to an address in a service range that no frontend answers, where it arrives (rules 83, 84); and one to a
/// ClusterIP that is about to leave the node untranslated.
#[inline(always)]
pub fn nowhere<A: Stages>(side: Side) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return NEXT;
    };
    if config.ranges().find(&draft.key.dst).is_none() {
        return NEXT;
    }
    let dial = Dial {
        addr: draft.key.dst,
        port: draft.key.dport,
        proto: draft.key.proto,
    };
    let sender = Sender {
        addr: draft.key.src,
        class: Class::Outside,
    };
    match lookup(&Kernel, &dial, &sender) {
        Lookup::Pass => NEXT,
        Lookup::Refuse(reason) => refuse(draft, reason),
        Lookup::Found(_) if side == Side::Outbound => {
            count_packet(Counter::Untranslated);
            pending(draft, Error::PortUnreachable)
        }
        Lookup::Found(_) => NEXT,
    }
}

/// Counts a refusal, and answers it if it is one to answer.
#[inline(always)]
fn refuse<A>(draft: &mut Draft<A>, reason: Reason) -> i32 {
    count_packet(reason.counter());
    match reason.answer() {
        Answer::Refused => pending(draft, Error::PortUnreachable),
        Answer::Unreachable => SHOT,
    }
}

/// Says what to answer.
#[inline(always)]
fn pending<A>(draft: &mut Draft<A>, error: Error) -> i32 {
    draft.answer = error.code();
    ANSWER
}

/// A direct opener to a backend whose answers would be taken for those of a flow to a VIP: it ends a flow that is
/// closing, else it goes on under another port.
#[inline(always)]
pub fn beside<A: Stages>(skb: &Skb) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return NEXT;
    };
    draft.answers = draft.key.reversed();
    if !Kernel.load(&draft.answers, &mut draft.met) {
        return A::nowhere(Side::Inbound);
    }
    let flags = draft.met.flags;
    if !flags.is_met_outbound() {
        return NEXT;
    }
    if flags.is_closing() {
        end_met(draft);
        return NEXT;
    }
    let opening = opening(skb, config);
    draft.val.src = draft.key.src;
    if !opening.sidestep(draft, FlowFlags::DIRECT, DYNAMIC_LO, DYNAMIC_HI) {
        count_packet(Counter::NoSnatPort);
        return SHOT;
    }
    count_packet(Counter::PortChanged);
    SEND
}

/// Forgets the flow that is in the way, which the answers at hand are of.
#[inline(always)]
fn end_met<A: Family>(draft: &mut Draft<A>)
where
    Kernel: FlowTables<A>,
{
    draft.quoted = draft.met.other_key(draft.key.proto);
    Kernel.forget(&draft.quoted);
    Kernel.forget(&draft.answers);
}

/// A packet of the host, or one that a CNI masqueraded, that leaves with the tuple of a masqueraded flow of ours: its
/// answers would be taken for that flow's.
#[inline(always)]
pub fn collision<A: Stages>(skb: &Skb) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return NEXT;
    };
    draft.answers = draft.key.reversed();
    if draft.key.src == config.lb0_addr() {
        return masquerade_again(skb, config, draft);
    }
    let flags = if Kernel.load(&draft.answers, &mut draft.met) {
        draft.met.flags
    } else {
        FlowFlags::default()
    };
    if !flags.has(FlowFlags::SNAT) || flags.has(FlowFlags::LB0) {
        return if draft.step().may_open() {
            A::nowhere(Side::Outbound)
        } else {
            NEXT
        };
    }
    if draft.step().may_open() {
        draft.val.src = draft.key.src;
        if move_out(skb, config, draft) {
            count_packet(Counter::HostPortMoved);
            return SEND;
        }
    } else if !flags.has(FlowFlags::ESTABLISHED) {
        // A connection that is older than ours: ours tries again, from another port.
        end_met(draft);
        return NEXT;
    }
    count_packet(Counter::NoSnatPort);
    SHOT
}

/// A packet that the stack forwarded out of `lb0`. Beyond the node nobody could answer its source: it gets an address of
/// the device that it leaves by (rule 79), and a flow of its own for the way between there and `lb0`. To backends of
/// this node it goes as it is.
#[inline(always)]
fn masquerade_again<A: Stages>(skb: &Skb, config: &Config, draft: &mut Draft<A>) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    if !device(skb.ifindex()).is_some_and(|device| device.is(DeviceVal::UPLINK)) {
        return NEXT;
    }
    if !Kernel.load(&draft.answers, &mut draft.met) {
        count_packet(Counter::FlowUnknown);
        return SHOT;
    }
    if draft.met.flags.has(FlowFlags::LOCAL) {
        return NEXT;
    }
    if !draft.step().may_open() {
        count_packet(Counter::FlowUnknown);
        return SHOT;
    }
    draft.val.src = (Node { skb }).source(&draft.key.dst);
    if draft.val.src.is_unspecified() || !move_out(skb, config, draft) {
        count_packet(Counter::NoSnatPort);
        return SHOT;
    }
    SEND
}

/// Makes a flow that leaves from `draft.val.src` and a port for masqueraded ones.
#[inline(never)]
fn move_out<A: Family>(skb: &Skb, config: &Config, draft: &mut Draft<A>) -> bool
where
    Kernel: Tables<A> + FlowTables<A>,
{
    let (lo, hi) = (config.snat_lo.host(), config.snat_hi.host());
    hi >= lo && opening(skb, config).sidestep(draft, FlowFlags::HOST, lo, hi)
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
#[inline(always)]
pub fn touch<A: Stages>(skb: &Skb, is_embryo: bool) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((_, draft)) = at_hand::<A>() else {
        return 0;
    };
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

/// Looks up the next hops of both halves of the flow at hand.
#[inline(always)]
pub fn find_ways<A: Stages>(skb: &Skb) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((_, draft)) = at_hand::<A>() else {
        return 0;
    };
    draft.answers = draft.val.other_key(draft.key.proto);
    if let Some((oif, via)) = skb.next_hop(&draft.val.dst) {
        Kernel.note_via(&draft.key, oif, &via);
    }
    if let Some((oif, via)) = skb.next_hop(&draft.key.src) {
        Kernel.note_via(&draft.answers, oif, &via);
    }
    0
}

/// Rewrites a packet and sends it on its way.
#[inline(always)]
pub fn send<A: Stages>(skb: &Skb) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return NEXT;
    };
    if draft.header.place == Place::FIRST {
        remember_first(draft);
    }
    let is_redirected = draft.val.flags.has(FlowFlags::SNAT);
    if is_redirected && !to_lb0(draft.val.flags) {
        if draft.header.ttl <= 1 {
            count_packet(Counter::HopsExceeded);
            return pending(draft, Error::HopsExceeded);
        }
        if skb.size() > ALWAYS_FITS
            && let Some(mtu) = skb.too_big_for(draft.val.oif)
        {
            count_packet(Counter::TooBig);
            return pending(draft, Error::TooBig { mtu });
        }
    }
    if !write(skb, draft) {
        count_packet(Counter::Malformed);
        return SHOT;
    }
    if is_redirected {
        leave(skb, config, draft)
    } else {
        NEXT
    }
}

/// Later fragments find their ports by this.
#[inline(always)]
fn remember_first<A: Family>(draft: &Draft<A>)
where
    Kernel: FlowTables<A>,
{
    let (header, key) = (&draft.header, &draft.key);
    Kernel.put_fragment(
        &FragmentKey::new(header.proto, header.src, header.dst, header.id),
        &FragmentVal {
            sport: key.sport,
            dport: key.dport,
        },
    );
}

/// Makes the packet say what the flow says.
#[inline(never)]
fn write<A: Family>(skb: &Skb, draft: &mut Draft<A>) -> bool {
    draft.answers = draft.val.translated(draft.key.proto);
    rewrite(skb, &draft.header, &draft.key, &draft.answers)
}

/// Into `lb0`, where the stack takes it up?
#[inline(always)]
pub const fn to_lb0(flags: FlowFlags) -> bool {
    flags.has(FlowFlags::LB0) && !flags.has(FlowFlags::REPLY)
}

/// Sends a masqueraded packet, or its answer, where the flow says.
#[inline(always)]
pub fn leave<A: Family>(skb: &Skb, config: &Config, draft: &Draft<A>) -> i32 {
    if to_lb0(draft.val.flags) {
        let protocol = if A::FAMILY == 4 { IPV4 } else { IPV6 };
        if !skb.send_to_mac(&config.lb0_mac, protocol) {
            return SHOT;
        }
        return skb.redirect_into(config.lb0);
    }
    if !A::store_ttl(skb, draft.header.l3, draft.header.ttl.wrapping_sub(1)) {
        return SHOT;
    }
    skb.set_mark(skb.mark() | config.mark);
    skb.redirect_neigh(draft.val.oif, &draft.val.via)
}

#[inline(always)]
fn opening<'a>(skb: &'a Skb, config: &'a Config) -> Opening<'a, Kernel, Node<'a>, KernelChance> {
    Opening {
        tables: Kernel,
        network: Node { skb },
        config,
        chance: KernelChance,
        now_s: now_s(),
    }
}

/// Decides an opener without a flow: a verdict, or [`MADE`].
#[inline(always)]
pub fn opener<A: Stages>(skb: &Skb) -> i32
where
    Kernel: Tables<A> + FlowTables<A>,
    Config: FamilyConfig<A>,
{
    let Some((config, draft)) = at_hand::<A>() else {
        return NEXT;
    };
    let outcome = opening(skb, config).open(draft);
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
        None => A::beside(skb),
        Some(reason) => refuse(draft, reason),
    }
}
