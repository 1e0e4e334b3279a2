//! What the programs must do with a packet, by the code that they share with this, over tables in memory.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use anyhow::{Context as _, Result, ensure};
use bytemuck::Pod;
use lb_agent::maps::{LbMaps as _, fake::FakeMaps, family::Family as Mapped, kernel::KernelMaps};
use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    config::{Config, FamilyConfig},
    csum,
    decide::Fixed,
    flow::{FlowFlags, FlowKey, FlowVal},
    frontend::{Class, FrontendKey, FrontendVal},
    id::{BackendId, ServiceId},
    nat::{Draft, Flows, Network, Opening, Route, Sender, stands},
    net::{Addr4, Addr6, BePort, Proto},
    parse::{Header, Parse, Place, ports},
    ports::{PortBit, backend_bit, frontend_bit},
    rewrite::{Rewrite, rewrite},
    service::{Backend, Service, Slot},
    tables::Tables,
    track::{Step, after},
};

use super::generate::{Key, Shot, Side};
use crate::frame::{Buffer, Sums};
use crate::rig::{Devices, LB0_MAC, NEXT, REDIRECT, Ran, Rig, SHOT};
use crate::world::{MARK, places, rig_capacities};

/// A family as the oracle needs it.
pub trait Family: Mapped + Parse + Rewrite {}
impl Family for Addr4 {}
impl Family for Addr6 {}

const L3: u32 = 14;

type FlowMap<A> = HashMap<FlowKey<A>, FlowVal<A>>;

pub struct Oracle<A: Family> {
    world: World<A>,
    /// Which of the flows are no embryos.
    established: HashSet<FlowKey<A>>,
    config: Config,
    bits: HashSet<PortBit>,
    devices: Devices,
}

/// The tables, and the node's network.
struct World<A: Family> {
    fake: FakeMaps<A>,
    flows: RefCell<FlowMap<A>>,
}

/// What a packet must come to.
enum Wanted {
    Untouched,
    Dropped,
    Exactly {
        verdict: i32,
        bytes: Vec<u8>,
        mark: u32,
    },
    /// An answer of ours, or silence where answers are limited.
    Answered,
    /// Something that is not foretold, but sound.
    Sound,
}

/// The flow tables at a moment.
#[derive(Default)]
pub struct Image<A> {
    flows: Vec<(FlowKey<A>, FlowVal<A>)>,
    embryos: Vec<(FlowKey<A>, FlowVal<A>)>,
}

impl<A: Family> Image<A>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
{
    pub fn restore(&self, rig: &Rig) -> Result<()> {
        for (map, entries) in [
            (A::MAPS.flows, &self.flows),
            (A::MAPS.embryos, &self.embryos),
        ] {
            let (keys, values): (Vec<_>, Vec<_>) = entries.iter().copied().unzip();
            rig.put_all(map, &keys, &values)?;
        }
        Ok(())
    }
}

impl<A: Family> Oracle<A>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
    Config: FamilyConfig<A>,
{
    pub fn new(rig: &Rig) -> Result<Self> {
        let content = KernelMaps::<A>::open(&rig.root)?.read()?;
        let mut bits: HashSet<PortBit> = (content.frontends.keys())
            .filter_map(|key| frontend_bit(key.proto, key.port))
            .collect();
        bits.extend(
            content
                .backends
                .values()
                .map(|backend| backend_bit(backend.port)),
        );
        let mut fake = FakeMaps::new(rig_capacities());
        fake.meddle(|empty| *empty = content);
        fake.config = rig.config;
        fake.node_addrs = (rig.entries::<A, u32>(A::MAPS.node_addrs)?.into_iter())
            .map(|(addr, _)| addr)
            .collect();
        Ok(Self {
            world: World {
                fake,
                flows: RefCell::default(),
            },
            established: HashSet::new(),
            config: rig.config,
            bits,
            devices: rig.devices,
        })
    }

    /// What the kernel has by the last comparison.
    pub fn image(&self) -> Image<A> {
        let flows = self.world.flows.borrow().clone().into_iter();
        let (flows, embryos) = flows.partition(|(key, _)| self.established.contains(key));
        Image { flows, embryos }
    }

    pub fn put_image(&mut self, image: &Image<A>) {
        self.established = image.flows.iter().map(|(key, _)| *key).collect();
        let all = image.embryos.iter().chain(&image.flows);
        *self.world.flows.borrow_mut() = all.copied().collect();
    }

    /// The flows after a packet: those that were there, and what the packet may have made. To dump the map costs
    /// milliseconds, for it has 65,536 buckets.
    fn flows_now(&mut self, rig: &Rig, packets: Option<FlowKey<A>>) -> Result<FlowMap<A>> {
        let mut keys: Vec<FlowKey<A>> = self.world.flows.borrow().keys().copied().collect();
        keys.extend(packets);
        let mut now = FlowMap::new();
        self.established.clear();
        while let Some(key) = keys.pop() {
            if now.contains_key(&key) {
                continue;
            }
            let flow = rig.lookup::<_, FlowVal<A>>(A::MAPS.flows, &key)?;
            let embryo = rig.lookup::<_, FlowVal<A>>(A::MAPS.embryos, &key)?;
            if flow.is_some() {
                self.established.insert(key);
            }
            if let Some(val) = flow.or(embryo) {
                keys.push(val.other_key(key.proto));
                now.insert(key, val);
            }
        }
        Ok(now)
    }

    /// Is there nothing in the kernel that no packet is known to have made?
    pub fn compare_all(&self, rig: &Rig) -> Result<()> {
        let known = self.world.flows.borrow();
        for map in [A::MAPS.flows, A::MAPS.embryos] {
            for (key, val) in rig.entries::<FlowKey<A>, FlowVal<A>>(map)? {
                let is_known = known.contains_key(&key);
                ensure!(is_known, "{map} holds what nobody made: {key:?} {val:?}");
            }
        }
        Ok(())
    }

    /// The flows that there are, in an order that a seed gives again.
    pub fn keys(&self) -> Vec<Key> {
        let at = |addr: A, port: BePort| SocketAddr::new(addr.ip(), port.host());
        let flows = self.world.flows.borrow();
        let mut keys: Vec<Key> = (flows.keys())
            .map(|key| (key.proto.0, at(key.src, key.sport), at(key.dst, key.dport)))
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Compares what came of a packet with what must.
    pub fn compare(&mut self, rig: &Rig, shot: &Shot, ran: &Ran) -> Result<()> {
        let now = self.flows_now(rig, key_of::<A>(&shot.bytes))?;
        let wanted = self.wanted(shot, &now)?;
        let is_same = ran.bytes == shot.bytes && ran.mark == 0;
        match wanted {
            Wanted::Untouched => ensure!(ran.verdict == NEXT && is_same, "not left alone: {ran:?}"),
            Wanted::Dropped => ensure!(ran.verdict == SHOT, "not dropped: {ran:?}"),
            Wanted::Exactly {
                verdict,
                bytes,
                mark,
            } => ensure!(
                (ran.verdict, &ran.bytes, ran.mark) == (verdict, &bytes, mark),
                "{ran:?}, not {verdict} {mark:#x} {bytes:?}"
            ),
            Wanted::Answered if ran.verdict == SHOT => {}
            Wanted::Answered => {
                ensure!(
                    ran.verdict == REDIRECT && ran.mark == MARK,
                    "no answer: {ran:?}"
                );
                ensure!(
                    is_sound::<A>(&ran.bytes) == Some(true),
                    "a broken answer: {ran:?}"
                );
            }
            Wanted::Sound if ran.verdict == SHOT || is_same => {}
            Wanted::Sound => {
                let (before, after) = (is_sound::<A>(&shot.bytes), is_sound::<A>(&ran.bytes));
                ensure!(
                    before != Some(true) || after == Some(true),
                    "broken: {ran:?}"
                );
            }
        }
        for (key, val) in &now {
            let other = now
                .get(&val.other_key(key.proto))
                .context("half of a flow")?;
            ensure!(
                other.other_key(key.proto) == *key,
                "halves that do not match"
            );
        }
        *self.world.flows.borrow_mut() = now;
        Ok(())
    }

    fn has_port(&self, bit: PortBit) -> bool {
        self.bits.contains(&bit)
    }

    fn concerns(&self, key: &FlowKey<A>, side: Side) -> bool {
        match side {
            Side::Inbound => {
                self.config.is_snat_port(key.dport)
                    || frontend_bit(key.proto, key.dport).is_some_and(|bit| self.has_port(bit))
                    || self.has_port(backend_bit(key.dport))
            }
            Side::Outbound => {
                self.has_port(backend_bit(key.sport)) || self.config.is_snat_port(key.sport)
            }
            Side::Lb0 => true,
        }
    }

    fn wanted(&self, shot: &Shot, now: &FlowMap<A>) -> Result<Wanted> {
        let side = shot.side;
        let buffer = Buffer::new(shot.bytes.clone(), Sums::Full);
        let Some(header) = A::header(&buffer, L3) else {
            return Ok(Wanted::Untouched);
        };
        if header.place == Place::LATER || header.proto == A::ICMP {
            return Ok(Wanted::Sound);
        }
        let Some(found) = ports(&buffer, &header) else {
            let is_known = matches!(header.proto, Proto::TCP | Proto::UDP | Proto::SCTP);
            return Ok(if is_known {
                Wanted::Untouched
            } else {
                Wanted::Sound
            });
        };
        let (sport, dport, step) = (found.sport, found.dport, found.step);
        let key = FlowKey::new(header.proto, header.src, sport, header.dst, dport);
        if !self.concerns(&key, side) {
            return Ok(self.bystander(&key, step, side));
        }
        let may_open = side == Side::Inbound && step.may_open();
        let mut flow = self.world.flow(&key);
        let now_s = now_s()?;
        if let Some(val) = flow
            && is_met(val.flags, side)
            && !stands(&&self.world, &self.config, &key, &val, step, now_s)
        {
            self.world.forget(&val.other_key(key.proto));
            self.world.forget(&key);
            flow = None;
        }
        let val = match flow {
            Some(val) => val,
            None if may_open => match self.open(&key, (step, found.lies), now, now_s)? {
                Ok(val) => val,
                Err(wanted) => return Ok(wanted),
            },
            None => return Ok(self.bystander(&key, step, side)),
        };
        if !is_met(val.flags, side) {
            return Ok(Wanted::Untouched);
        }
        if found.lies {
            return Ok(Wanted::Dropped);
        }
        let kept = now.get(&key).context("the flow is gone")?;
        let state = after(val.flags, step);
        ensure!(kept.flags == state, "state {:?}, not {state:?}", kept.flags);
        Ok(self.sent(buffer, &header, &key, &val))
    }

    /// A packet of a flow.
    fn sent(
        &self,
        buffer: Buffer,
        header: &Header<A>,
        key: &FlowKey<A>,
        val: &FlowVal<A>,
    ) -> Wanted {
        let is_redirected = val.flags.has(FlowFlags::SNAT);
        let to_lb0 = val.flags.has(FlowFlags::LB0) && !val.flags.has(FlowFlags::REPLY);
        if is_redirected && !to_lb0 && header.ttl <= 1 {
            return Wanted::Answered;
        }
        if is_redirected && !to_lb0 && buffer.bytes.borrow().len() > 1_280 {
            // Whether it fits, devices decide: fixtures have that.
            return Wanted::Sound;
        }
        if !rewrite(&buffer, header, key, &val.translated(key.proto)) {
            return Wanted::Dropped;
        }
        if is_redirected && !to_lb0 && !A::store_ttl(&buffer, header.l3, header.ttl - 1) {
            return Wanted::Dropped;
        }
        let mut bytes = buffer.into_bytes();
        if to_lb0 {
            bytes[..6].copy_from_slice(&LB0_MAC);
        }
        Wanted::Exactly {
            verdict: if is_redirected { REDIRECT } else { NEXT },
            bytes,
            mark: if is_redirected && !to_lb0 { MARK } else { 0 },
        }
    }

    /// The flow that the kernel made of an opener, if it is one that could be made.
    fn open(
        &self,
        key: &FlowKey<A>,
        (step, lies): (Step, bool),
        now: &FlowMap<A>,
        now_s: u32,
    ) -> Result<std::result::Result<FlowVal<A>, Wanted>> {
        let made = now.get(key).copied();
        let mut tried = Vec::new();
        // Lists have two endpoints at most: both ends of the dice.
        for throw in [0, u32::MAX] {
            let flows = self.world.flows.borrow().clone();
            let mut draft = draft(*key, step);
            draft.header.lies = u8::from(lies);
            let opening = Opening {
                tables: &self.world,
                network: Routes {
                    devices: self.devices,
                },
                config: &self.config,
                chance: Fixed {
                    now_ns: 0,
                    random: throw,
                },
                now_s,
            };
            let outcome = opening.open(&mut draft);
            *self.world.flows.borrow_mut() = flows;
            if let Some(reason) = outcome.refused() {
                let is_answered = reason.answer() == lb_common::reason::Answer::Refused;
                return Ok(Err(if is_answered {
                    Wanted::Answered
                } else {
                    Wanted::Dropped
                }));
            }
            if outcome == lb_common::nat::Outcome::PASS {
                return Ok(Err(self.beside(key, Side::Inbound)));
            }
            // A port that fixed dice find taken is one that other dice may find free.
            if outcome.failed().is_none()
                && let Some(made) = made
                && could_be(&draft.val, &made, &self.config)
            {
                return Ok(Ok(FlowVal {
                    flags: draft.val.flags,
                    ..made
                }));
            }
            tried.push((outcome, draft.val));
        }
        if tried.iter().any(|(outcome, _)| outcome.failed().is_some()) {
            return Ok(match made {
                Some(made) => Ok(FlowVal {
                    flags: made.flags.without(FlowFlags::STATE),
                    ..made
                }),
                None => Err(Wanted::Dropped),
            });
        }
        anyhow::bail!("made {made:?}, which is none of {tried:?}")
    }

    fn bystander(&self, key: &FlowKey<A>, step: Step, side: Side) -> Wanted {
        let may_open = step.may_open();
        match side {
            Side::Inbound if may_open => self.beside(key, side),
            Side::Outbound if self.config.is_snat_port(key.sport) => Wanted::Sound,
            Side::Outbound if may_open => self.nowhere(key, side),
            Side::Inbound | Side::Outbound | Side::Lb0 => Wanted::Untouched,
        }
    }

    fn beside(&self, key: &FlowKey<A>, side: Side) -> Wanted {
        if self.has_port(backend_bit(key.dport)) && self.world.is_flow(&key.reversed()) {
            return Wanted::Sound;
        }
        self.nowhere(key, side)
    }

    fn nowhere(&self, key: &FlowKey<A>, side: Side) -> Wanted {
        use lb_common::decide::{Dial, Lookup, lookup};
        if FamilyConfig::<A>::ranges(&self.config)
            .find(&key.dst)
            .is_none()
        {
            return Wanted::Untouched;
        }
        let dial = Dial {
            addr: key.dst,
            port: key.dport,
            proto: key.proto,
        };
        let sender = Sender {
            addr: key.src,
            class: Class::Outside,
        };
        match lookup(&&self.world, &dial, &sender) {
            Lookup::Refuse(reason) if reason.answer() == lb_common::reason::Answer::Unreachable => {
                Wanted::Dropped
            }
            Lookup::Refuse(_) => Wanted::Answered,
            Lookup::Found(_) if side == Side::Outbound => Wanted::Answered,
            Lookup::Pass | Lookup::Found(_) => Wanted::Untouched,
        }
    }
}

fn is_met(flags: FlowFlags, side: Side) -> bool {
    match side {
        Side::Inbound => flags.is_met_inbound(),
        Side::Outbound => flags.is_met_outbound(),
        Side::Lb0 => flags.is_met_at_lb0(),
    }
}

/// The tuple that a packet carries.
fn key_of<A: Family>(bytes: &[u8]) -> Option<FlowKey<A>> {
    let buffer = Buffer::new(bytes.to_vec(), Sums::Full);
    let header = A::header(&buffer, L3)?;
    let found = ports(&buffer, &header)?;
    let (src, dst) = (header.src, header.dst);
    Some(FlowKey::new(
        header.proto,
        src,
        found.sport,
        dst,
        found.dport,
    ))
}

/// The same flow but for what dice and time decide.
fn could_be<A: Family>(drawn: &FlowVal<A>, made: &FlowVal<A>, config: &Config) -> bool {
    let is_port = if drawn.flags.has(FlowFlags::SNAT) {
        config.is_snat_port(made.sport)
    } else if drawn.flags.has(FlowFlags::PORT) {
        made.sport.host() >= lb_common::nat::DYNAMIC_LO
    } else {
        made.sport == drawn.sport
    };
    let same = FlowVal {
        sport: made.sport,
        seen_s: made.seen_s,
        flags: FlowFlags {
            bits: drawn.flags.bits | made.flags.bits & FlowFlags::STATE.bits,
        },
        ..*drawn
    };
    is_port && same == *made
}

/// Are all checksums right, and the lengths those of the packet? `None`: no such packet.
fn is_sound<A: Family>(bytes: &[u8]) -> Option<bool> {
    let header = A::header(&Buffer::new(bytes.to_vec(), Sums::Full), L3)?;
    let (l3, l4) = (header.l3 as usize, header.l4 as usize);
    let end = l3 + header.total as usize;
    let segment = bytes.get(l4..end)?;
    if A::FAMILY == 4 {
        let network = bytes.get(l3..l4)?;
        if csum::ipv4_header(network)? != network[10..12] {
            return Some(false);
        }
    }
    if header.place != Place::WHOLE {
        return None;
    }
    if header.proto == Proto::SCTP {
        return Some(csum::sctp(segment)? == segment[8..12]);
    }
    let at = csum::field(header.proto)?;
    let sum = csum::segment(&header.src, &header.dst, header.proto, segment)?;
    let is_none = header.proto == Proto::UDP && segment.get(at..at + 2)? == [0, 0];
    Some(is_none || sum == segment[at..at + 2])
}

fn now_s() -> Result<u32> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(u32::try_from(now.tv_sec())?)
}

fn draft<A: Family>(key: FlowKey<A>, step: Step) -> Draft<A> {
    Draft {
        step: step as u32,
        ..Draft::opener(key)
    }
}

/// The routes of `world::NETWORK`.
struct Routes {
    devices: Devices,
}

impl<A: Family> Network<A> for Routes {
    fn route(&self, to: &A) -> Route<A> {
        let ip = to.ip();
        let place = places()
            .into_iter()
            .find(|place| place.client.is_ipv4() == ip.is_ipv4());
        let nowhere = Route {
            oif: 0,
            source: A::UNSPECIFIED,
            is_uplink: false,
        };
        let Some(place) = place else { return nowhere };
        let source = |nth: usize| A::from_ip(place.nodes[nth]).unwrap_or(A::UNSPECIFIED);
        if place.nodes.contains(&ip) {
            return nowhere;
        }
        if ip == place.local || ip == place.pod {
            return Route {
                oif: self.devices.pod0,
                ..nowhere
            };
        }
        if ip == place.lb0 {
            return Route {
                oif: self.devices.lb0,
                ..nowhere
            };
        }
        let (oif, nth) = if ip == place.narrow {
            (self.devices.up1, 1)
        } else {
            (self.devices.up0, 0)
        };
        Route {
            oif,
            source: source(nth),
            is_uplink: true,
        }
    }

    fn is_port_taken(&self, _: &FlowKey<A>) -> bool {
        false
    }

    fn is_pod_device(&self) -> bool {
        false
    }
}

impl<A: Family> Tables<A> for &World<A> {
    fn frontend(&self, key: &FrontendKey<A>) -> Option<FrontendVal> {
        self.fake.frontend(key)
    }

    fn service(&self, id: ServiceId) -> Option<Service> {
        Tables::<A>::service(&self.fake, id)
    }

    fn slot(&self, index: u32) -> Option<Slot<A>> {
        self.fake.slot(index)
    }

    fn backend(&self, id: BackendId) -> Option<Backend<A>> {
        self.fake.backend(id)
    }

    fn is_node_addr(&self, addr: &A) -> bool {
        self.fake.is_node_addr(addr)
    }

    fn source_allowed(&self, service: ServiceId, client: &A) -> bool {
        self.fake.source_allowed(service, client)
    }

    fn netns_addr(&self, cookie: u64) -> Option<A> {
        self.fake.netns_addr(cookie)
    }

    fn is_node_port(&self, port: BePort) -> bool {
        Tables::<A>::is_node_port(&self.fake, port)
    }

    fn localhost(&self) -> bool {
        Tables::<A>::localhost(&self.fake)
    }

    fn service_range(&self, addr: &A) -> Option<u32> {
        self.fake.service_range(addr)
    }

    /// Whom the kernel has pinned is not followed.
    fn affinity(&self, _: &AffinityKey) -> Option<AffinityVal> {
        None
    }

    fn pin(&self, _: &AffinityKey, _: &AffinityVal) {}

    fn turn(&self, id: ServiceId) -> u32 {
        Tables::<A>::turn(&self.fake, id)
    }
}

impl<A: Family> World<A> {
    fn flow(&self, key: &FlowKey<A>) -> Option<FlowVal<A>> {
        self.flows.borrow().get(key).copied()
    }

    fn is_flow(&self, key: &FlowKey<A>) -> bool {
        self.flows.borrow().contains_key(key)
    }

    fn forget(&self, key: &FlowKey<A>) {
        self.flows.borrow_mut().remove(key);
    }
}

impl<A: Family> Flows<A> for &World<A> {
    fn load(&self, key: &FlowKey<A>, to: &mut FlowVal<A>) -> bool {
        self.flow(key).inspect(|val| *to = *val).is_some()
    }

    fn is_flow(&self, key: &FlowKey<A>) -> bool {
        World::is_flow(self, key)
    }

    fn reserve(&self, key: &FlowKey<A>, val: &FlowVal<A>) -> bool {
        let mut flows = self.flows.borrow_mut();
        let is_new = !flows.contains_key(key);
        if is_new {
            flows.insert(*key, *val);
        }
        is_new
    }

    fn forget(&self, key: &FlowKey<A>) {
        World::forget(self, key);
    }

    fn note_port_changed(&self) {}
}
