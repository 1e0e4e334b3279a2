//! New flows of packets: which backend, under which source address, and by which way.
//!
//! | way | source | sent | answers come back |
//! |---|---|---|---|
//! | stack | the client's | routed by the stack, so that a CNI's policy sees it | through an uplink's egress |
//! | redirect | an address of the egress device (rule 79) | straight to the next hop | to that address |
//! | `lb0` | an address that nobody has | up the stack, out of `lb0` | into `lb0` |
//!
//! The half of the answers is written first: whoever gets it has reserved the tuple.

use crate::{
    config::{Config, FamilyConfig},
    decide::{Caller, Chance, Dial, Lookup, PACKET, lookup, try_choose},
    flow::{FlowFlags, FlowKey, FlowVal},
    frontend::{Class, FrontendVal, Kind},
    id::{BackendId, ServiceId},
    list::List,
    net::{Address, BePort},
    parse::{Header, Place},
    reason::{Counter, Reason},
    service::BackendFlags,
    tables::Tables,
    track::Step,
};

/// How many ports are tried before a flow is given up: with half of the range in use, one flow in 65,536
/// fails.
const PORT_TRIES: u32 = 16;
/// Ports for clients whose own port is taken: the dynamic ones (RFC 6335).
pub const DYNAMIC_LO: u16 = 49_152;
/// Likewise, the last.
pub const DYNAMIC_HI: u16 = 65_535;

/// The flow tables of one family, embryos and established as one.
pub trait Flows<A> {
    /// Copies the flow that packets with this key belong to; false where there is none. Not returned: a BPF stack is small.
    fn load(&self, key: &FlowKey<A>, to: &mut FlowVal<A>) -> bool;
    /// Is there such a flow?
    fn is_flow(&self, key: &FlowKey<A>) -> bool;
    /// Makes an embryo; false where there is one with this key, or no room.
    fn reserve(&self, key: &FlowKey<A>, val: &FlowVal<A>) -> bool;
    /// Forgets one half.
    fn forget(&self, key: &FlowKey<A>);
    /// Counts [`Counter::PortChanged`].
    fn note_port_changed(&self);
}

/// Where a destination is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route<A> {
    /// The device; 0: nowhere, or on this host.
    pub oif: u32,
    /// The address to masquerade with there, unspecified if the device has none or is no uplink.
    pub source: A,
    /// Does the device lead out of the node, through our programs?
    pub is_uplink: bool,
}

/// What is asked of the node's own network.
pub trait Network<A> {
    /// The route to `to`, for a packet that arrived.
    fn route(&self, to: &A) -> Route<A>;
    /// Does a socket of the host use the tuple that `answers` would be delivered to?
    fn is_port_taken(&self, answers: &FlowKey<A>) -> bool;
    /// Does the detector count what arrives at this device as a pod's?
    fn is_pod_device(&self) -> bool;
}

/// A packet as the client of a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender<A> {
    /// Its source address.
    pub addr: A,
    /// How policies see it.
    pub class: Class,
}

impl<A: Address> Caller<A> for Sender<A> {
    #[inline(always)]
    fn may_be_on_loopback(&self) -> bool {
        false
    }

    #[inline(always)]
    fn class(&self) -> Class {
        self.class
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        PACKET
    }

    #[inline(always)]
    fn addr(&self) -> Option<A> {
        Some(self.addr)
    }
}

/// What became of an opener: a kind, and what it carries, as one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome(u32);

impl Outcome {
    /// No Service's.
    pub const PASS: Self = Self(0);
    const REFUSED: u32 = 1 << 8;
    const FOUND: u32 = 2 << 8;
    const MADE: u32 = 3 << 8;
    const FAILED: u32 = 4 << 8;

    #[inline(always)]
    const fn new(kind: u32, carried: u32) -> Self {
        Self(kind | carried)
    }

    #[inline(always)]
    const fn is(self, kind: u32) -> bool {
        self.0 & 0xff00 == kind
    }

    #[inline(always)]
    const fn carried(self) -> u32 {
        self.0 & 0xff
    }

    /// Both halves are in the table: the index of the counter that says how the backend was found.
    #[inline(always)]
    pub const fn made(self) -> Option<u32> {
        if self.is(Self::MADE) {
            Some(self.carried())
        } else {
            None
        }
    }

    /// Dropped: the index of the counter that says why.
    #[inline(always)]
    pub const fn failed(self) -> Option<u32> {
        if self.is(Self::FAILED) {
            Some(self.carried())
        } else {
            None
        }
    }

    /// Refused.
    #[inline(always)]
    pub const fn refused(self) -> Option<Reason> {
        if self.is(Self::REFUSED) {
            Reason::from_index(self.carried())
        } else {
            None
        }
    }
}

/// A packet and its flow while they are worked on: too large for a BPF stack, so in the kernel they lie in a
/// per-CPU map. There, too, the verifier forgets by which of many ways through a header a number came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Draft<A> {
    /// What the network header says.
    pub header: Header<A>,
    /// What the packet does to its connection: a [`Step`] as a number.
    pub step: u32,
    /// What to answer, where there is an answer: an [`crate::answer::Error`] as a number.
    pub answer: u32,
    /// What it dials.
    pub frontend: FrontendVal,
    /// What the packet carries.
    pub key: FlowKey<A>,
    /// The half of the client's packets.
    pub val: FlowVal<A>,
    /// What the answers will carry; for an ICMP error what it quotes, translated.
    pub answers: FlowKey<A>,
    /// What an ICMP error quotes.
    pub quoted: FlowKey<A>,
    /// The network header that it quotes.
    pub inner: Header<A>,
    /// The half of the backend's packets.
    pub counterpart: FlowVal<A>,
    /// A flow that is in the way.
    pub met: FlowVal<A>,
}

/// All that a new flow depends on, but its packet. The stages of [`Opening::open`] stay out of line and
/// return numbers: the verifier walks through each on its own.
pub struct Opening<'a, T, N, C> {
    /// Services and flows.
    pub tables: T,
    /// The node.
    pub network: N,
    /// The configuration in force.
    pub config: &'a Config,
    /// Clock and dice.
    pub chance: C,
    /// Seconds since boot.
    pub now_s: u32,
}

/// Both halves are in the table.
const INSERTED: u32 = u32::MAX;

impl<T, N, C: Chance> Opening<'_, T, N, C> {
    /// Makes the flow of the opener `draft.key`, which has none.
    #[inline(always)]
    pub fn open<A>(&self, draft: &mut Draft<A>) -> Outcome
    where
        A: Address,
        T: Tables<A> + Flows<A>,
        N: Network<A>,
        Config: FamilyConfig<A>,
    {
        let found = Outcome(self.find(draft));
        if !found.is(Outcome::FOUND) {
            return found;
        }
        if draft.header.lies != 0 {
            return Outcome::new(Outcome::FAILED, Counter::Malformed as u32);
        }
        let class = Class::from_index(found.carried());
        let choice = Outcome(self.choose(draft, class));
        if !choice.is(Outcome::FOUND) {
            return choice;
        }
        let wants_masquerade = masquerades(self.config, &draft.frontend, class);
        let back = self.put_way(draft, wants_masquerade);
        let inserted = self.insert(draft, back);
        if inserted == INSERTED {
            Outcome::new(Outcome::MADE, choice.carried())
        } else {
            Outcome::new(Outcome::FAILED, inserted)
        }
    }

    /// Rule 39, in its order.
    #[inline(always)]
    pub fn class<A>(&self, source: &A) -> Class
    where
        A: Address,
        T: Tables<A>,
        N: Network<A>,
        Config: FamilyConfig<A>,
    {
        if self.config.pods().contains(source) || self.network.is_pod_device() {
            Class::Pod
        } else if self.tables.is_node_addr(source) {
            Class::Host
        } else {
            Class::Outside
        }
    }

    /// Finds what is dialled: an [`Outcome`], which carries the class of the sender.
    #[inline(never)]
    fn find<A>(&self, draft: &mut Draft<A>) -> u32
    where
        A: Address,
        T: Tables<A>,
        N: Network<A>,
        Config: FamilyConfig<A>,
    {
        let sender = Sender {
            addr: draft.key.src,
            class: self.class(&draft.key.src),
        };
        let dial = Dial {
            addr: draft.key.dst,
            port: draft.key.dport,
            proto: draft.key.proto,
        };
        match lookup(&self.tables, &dial, &sender) {
            Lookup::Pass => Outcome::PASS.0,
            Lookup::Refuse(reason) => Outcome::REFUSED | reason as u32,
            Lookup::Found(frontend) => {
                draft.frontend = frontend;
                Outcome::FOUND | sender.class as u32
            }
        }
    }

    /// Writes a backend into the client's half: an [`Outcome`], which carries how it was found.
    #[inline(never)]
    fn choose<A>(&self, draft: &mut Draft<A>, class: Class) -> u32
    where
        A: Address,
        T: Tables<A>,
    {
        let sender = Sender {
            addr: draft.key.src,
            class,
        };
        match try_choose(&self.tables, &draft.frontend, &sender, &self.chance) {
            Err(reason) => Outcome::REFUSED | reason as u32,
            Ok((slot, hit)) => {
                let val = &mut draft.val;
                val.dst = slot.addr;
                val.dport = slot.port;
                val.service = slot.service;
                val.backend = slot.backend;
                val.generation = slot.generation;
                Outcome::FOUND | hit as u32
            }
        }
    }

    /// Completes the half of the client's packets, whose backend is chosen; returns the device that answers leave by, 0
    /// where the stack routes them.
    #[inline(never)]
    pub fn put_way<A>(&self, draft: &mut Draft<A>, wants_masquerade: bool) -> u32
    where
        A: Address,
        T: Tables<A>,
        N: Network<A>,
        Config: FamilyConfig<A>,
    {
        let config = self.config;
        let val = &mut draft.val;
        val.src = draft.key.src;
        val.sport = draft.key.sport;
        val.oif = 0;
        val.via = A::UNSPECIFIED;
        val.seen_s = self.now_s;
        let is_hairpin = val.dst == val.src;
        let is_local = (self.tables.backend(val.backend)).is_some_and(|backend| {
            backend.flags.has(BackendFlags::ON_NODE) || backend.flags.has(BackendFlags::HOST_ADDR)
        });
        val.flags = if is_local {
            FlowFlags::LOCAL
        } else {
            FlowFlags::default()
        };
        let masquerade_local = is_hairpin || config.flags & Config::MASQUERADE_LOCAL != 0;
        if !(wants_masquerade || is_hairpin) || (is_local && !masquerade_local) {
            return 0;
        }
        let route = self.network.route(&val.dst);
        let leads_out = route.is_uplink && !is_local;
        if !leads_out || config.flags & Config::NO_REDIRECT != 0 {
            let source: A = config.lb0_addr();
            if (!leads_out && !masquerade_local) || config.lb0 == 0 || source.is_unspecified() {
                return 0;
            }
            val.flags = val.flags.with(FlowFlags::SNAT).with(FlowFlags::LB0);
            val.src = source;
            val.oif = config.lb0;
        } else {
            if route.source.is_unspecified() {
                return 0;
            }
            val.flags = FlowFlags::SNAT;
            val.src = route.source;
            val.oif = route.oif;
        }
        self.network.route(&draft.key.src).oif
    }

    /// Puts both halves into the table: [`INSERTED`], or the counter of what prevents it.
    #[inline(never)]
    fn insert<A>(&self, draft: &mut Draft<A>, back: u32) -> u32
    where
        A: Address,
        T: Flows<A>,
        N: Network<A>,
    {
        let is_masqueraded = draft.val.flags.has(FlowFlags::SNAT);
        if is_masqueraded || !self.reserve_kept(draft) {
            let (lo, hi) = if is_masqueraded {
                (self.config.snat_lo.host(), self.config.snat_hi.host())
            } else {
                draft.val.flags = draft.val.flags.with(FlowFlags::PORT);
                (DYNAMIC_LO, DYNAMIC_HI)
            };
            if hi < lo || !self.reserve_port(draft, back, lo, hi) {
                return Counter::NoSnatPort as u32;
            }
            if !is_masqueraded {
                self.tables.note_port_changed();
            }
        }
        if self.tables.reserve(&draft.key, &draft.val) {
            return INSERTED;
        }
        // Another CPU made the flow of the same opener, and its answers may be these; or there is no room.
        let is_there = self.tables.load(&draft.key, &mut draft.met);
        let is_shared = is_there && draft.met.other_key(draft.key.proto) == draft.answers;
        if !is_shared {
            self.tables.forget(&draft.answers);
        }
        if is_there {
            INSERTED
        } else {
            Counter::FlowTableFull as u32
        }
    }

    /// Makes way for a flow that has the tuple of this opener, or its answers: the opener goes on from `draft.val.src`,
    /// under another port from `lo` to `hi`. It is no Service's.
    #[inline(never)]
    pub fn sidestep<A>(&self, draft: &mut Draft<A>, flags: FlowFlags, lo: u16, hi: u16) -> bool
    where
        A: Address,
        T: Flows<A>,
        N: Network<A>,
    {
        let val = &mut draft.val;
        val.dst = draft.key.dst;
        val.dport = draft.key.dport;
        val.service = ServiceId::NONE;
        val.backend = BackendId::NONE;
        val.generation = 0;
        val.flags = flags.with(FlowFlags::PORT);
        val.oif = 0;
        val.via = A::UNSPECIFIED;
        val.seen_s = self.now_s;
        if !self.reserve_port(draft, 0, lo, hi) {
            return false;
        }
        let is_whole = self.tables.reserve(&draft.key, &draft.val);
        if !is_whole {
            self.tables.forget(&draft.answers);
        }
        is_whole
    }

    /// Reserves the answers of a flow that keeps the client's address and port; false when another flow of
    /// the same client and backend has the same answers.
    #[inline(always)]
    fn reserve_kept<A>(&self, draft: &mut Draft<A>) -> bool
    where
        A: Address,
        T: Flows<A>,
    {
        draft.put_answers(0);
        let proto = draft.key.proto;
        if self.tables.load(&draft.answers, &mut draft.met) {
            let other = &draft.met;
            let dialled = other.other_key(proto);
            let timeouts = &self.config.timeouts;
            let is_over = other.flags.is_closing()
                || timeouts.is_over(proto, other.flags, other.seen_s, self.now_s);
            if !is_over && dialled != draft.key {
                return false;
            }
            self.tables.forget(&dialled);
            self.tables.forget(&draft.answers);
        }
        self.tables.reserve(&draft.answers, &draft.counterpart)
    }

    /// Reserves the answers under a port from `lo` to `hi`, searched from a random one on.
    #[inline(always)]
    fn reserve_port<A>(&self, draft: &mut Draft<A>, back: u32, lo: u16, hi: u16) -> bool
    where
        A: Address,
        T: Flows<A>,
        N: Network<A>,
    {
        let width = (hi - lo) as u32 + 1;
        for _ in 0..PORT_TRIES {
            draft.val.sport = BePort::new(port_in(lo, width, self.chance.random()));
            if self.try_port(draft, back) {
                return true;
            }
        }
        false
    }

    #[inline(never)]
    fn try_port<A>(&self, draft: &mut Draft<A>, back: u32) -> bool
    where
        A: Address,
        T: Flows<A>,
        N: Network<A>,
    {
        draft.put_answers(back);
        let flags = draft.val.flags;
        let asks_host = (flags.has(FlowFlags::SNAT) && !flags.has(FlowFlags::LB0))
            || flags.has(FlowFlags::HOST);
        if self.tables.is_flow(&draft.answers)
            || (asks_host && self.network.is_port_taken(&draft.answers))
        {
            return false;
        }
        self.tables.reserve(&draft.answers, &draft.counterpart)
    }
}

/// Must the source be replaced, as far as the frontend and the client decide (rules 38, 39, 77)?
#[inline(always)]
pub fn masquerades<A>(config: &Config, frontend: &FrontendVal, class: Class) -> bool
where
    Config: FamilyConfig<A>,
{
    masquerades_for(
        config.flags & Config::MASQUERADE_ALL != 0,
        config.has_detector(),
        frontend,
        class,
    )
}

/// [`masquerades`] with the settings that it looks at.
#[inline(always)]
pub fn masquerades_for(
    masquerade_all: bool,
    has_detector: bool,
    frontend: &FrontendVal,
    class: Class,
) -> bool {
    if frontend.kind == Kind::CLUSTER_IP {
        return masquerade_all || (has_detector && class != Class::Pod);
    }
    // Policy Local is the one under which clients from outside use the Local list.
    let is_local_policy = matches!(frontend.list(Class::Outside), List::Local);
    !is_local_policy || class == Class::Host
}

impl<A: Address> Draft<A> {
    /// An opener of which nothing else is known.
    pub const fn opener(key: FlowKey<A>) -> Self {
        let nothing = FlowVal {
            src: A::UNSPECIFIED,
            dst: A::UNSPECIFIED,
            via: A::UNSPECIFIED,
            sport: BePort::new(0),
            dport: BePort::new(0),
            service: ServiceId::NONE,
            backend: BackendId::NONE,
            generation: 0,
            flags: FlowFlags { bits: 0 },
            oif: 0,
            seen_s: 0,
        };
        let header = Header {
            src: key.src,
            dst: key.dst,
            total: 0,
            l3: 0,
            l4: 0,
            id: 0,
            proto: key.proto,
            ttl: 64,
            place: Place::WHOLE,
            lies: 0,
        };
        Self {
            header,
            step: Step::Open as u32,
            answer: 0,
            frontend: FrontendVal::any_port(),
            key,
            val: nothing,
            answers: key,
            quoted: key,
            inner: header,
            counterpart: nothing,
            met: nothing,
        }
    }

    /// What the packet does to its connection.
    #[inline(always)]
    pub const fn step(&self) -> Step {
        Step::from_index(self.step)
    }

    /// The half of the answers, from that of the client; `back` is the device they leave by.
    #[inline(always)]
    fn put_answers(&mut self, back: u32) {
        self.answers = self.val.other_key(self.key.proto);
        self.counterpart = self.val.other_val(&self.key, back);
    }
}

/// A port of the range that begins at `lo`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "below the width, which is at most 65,536"
)]
const fn port_in(lo: u16, width: u32, random: u32) -> u16 {
    lo.wrapping_add(((random as u64 * width as u64) >> 32) as u16)
}

/// Does what is in the table still stand for this packet, or is it time to decide anew?
///
/// TCP and SCTP keep their backend whatever changes (rule 88), until a new connection takes the tuple; UDP moves when its
/// backend no longer serves (rules 89 to 92).
#[inline(always)]
pub fn stands<A, T>(
    tables: &T,
    config: &Config,
    key: &FlowKey<A>,
    val: &FlowVal<A>,
    step: Step,
    now_s: u32,
) -> bool
where
    A: Address,
    T: Tables<A>,
{
    if val.flags.has(FlowFlags::REPLY) || !step.may_open() {
        return true;
    }
    if config
        .timeouts
        .is_over(key.proto, val.flags, val.seen_s, now_s)
    {
        return false;
    }
    match step {
        Step::Open if val.flags.is_closing() => false,
        // A repeated opener goes where the first went, unless nobody listens there any more.
        Step::Open => val.flags.has(FlowFlags::REPLIED) || serves(tables, val),
        Step::Datagram | Step::Carry | Step::Done | Step::Reset => serves(tables, val),
    }
}

/// Does the flow's backend still serve (rule 90)?
#[inline(always)]
fn serves<A: Address, T: Tables<A>>(tables: &T, val: &FlowVal<A>) -> bool {
    if !val.service.is_some() {
        return true;
    }
    tables
        .backend(val.backend)
        .is_some_and(|backend| backend.serves(val.service, val.generation, BackendFlags::SERVING))
}
