//! One fixture: packets in, and all that is to come of them.

use std::{
    collections::BTreeSet, fmt::Write as _, net::SocketAddr, ops::RangeInclusive, sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytemuck::Pod;
use lb_agent::maps::family::Family;
use lb_common::{
    config::Config,
    flow::{FlowFlags, FlowKey, FlowVal},
    net::{Addr4, Addr6, BePort},
    reason::Counter,
};

use crate::packet::Packet;
use crate::rig::{NEXT, REDIRECT, Rig, SHOT};
use crate::world::MARK;

/// A device of the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Device {
    /// None: the stack routes.
    Stack,
    Up0,
    Up1,
    Pod0,
    Lb0,
}

/// A packet and what becomes of it.
#[derive(Clone)]
pub struct Step {
    program: &'static str,
    device: Device,
    input: Vec<u8>,
    mark: u32,
    verdict: i32,
    /// `None`: dropped, so nobody sees what it looks like.
    output: Option<Output>,
    mark_after: u32,
    before: Prepare,
}

#[derive(Clone, Debug)]
enum Output {
    Bytes(Vec<u8>),
    /// The packet under another source port, one of these.
    SomePort(Packet, RangeInclusive<u16>),
}

impl Step {
    fn new(program: &'static str, device: Device, input: Vec<u8>) -> Self {
        Self {
            program,
            device,
            output: Some(Output::Bytes(input.clone())),
            input,
            mark: 0,
            verdict: NEXT,
            mark_after: 0,
            before: Arc::new(|_| Ok(())),
        }
    }

    /// Arrives at the first uplink. Until told otherwise it is expected to pass untouched.
    pub fn inbound(packet: &Packet) -> Self {
        Self::new("lb_tc_in", Device::Up0, packet.bytes())
    }

    pub fn inbound_bytes(bytes: Vec<u8>) -> Self {
        Self::new("lb_tc_in", Device::Up0, bytes)
    }

    pub fn inbound_l3(packet: &Packet) -> Self {
        Self::new("lb_tc_in_l3", Device::Up0, packet.bytes())
    }

    /// Leaves by the first uplink.
    pub fn outbound(packet: &Packet) -> Self {
        Self::new("lb_tc_out", Device::Up0, packet.bytes())
    }

    pub fn outbound_bytes(bytes: Vec<u8>) -> Self {
        Self::new("lb_tc_out", Device::Up0, bytes)
    }

    pub fn outbound_l3(packet: &Packet) -> Self {
        Self::new("lb_tc_out_l3", Device::Up0, packet.bytes())
    }

    /// Leaves by `lb0`.
    pub fn at_lb0(packet: &Packet) -> Self {
        Self::new("lb_lb0_out", Device::Lb0, packet.bytes())
    }

    pub fn at_lb0_bytes(bytes: Vec<u8>) -> Self {
        Self::new("lb_lb0_out", Device::Lb0, bytes)
    }

    pub fn at(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Carries this mark, and goes on carrying it.
    pub fn marked(mut self, mark: u32) -> Self {
        (self.mark, self.mark_after) = (mark, mark);
        self
    }

    pub fn unmarked_to(mut self, mark: u32) -> Self {
        self.mark_after = mark;
        self
    }

    /// Goes on as this packet.
    pub fn becomes(mut self, packet: &Packet) -> Self {
        self.output = Some(Output::Bytes(packet.bytes()));
        self
    }

    /// Goes on as this packet under another port.
    pub fn becomes_from(mut self, packet: &Packet, ports: RangeInclusive<u16>) -> Self {
        self.output = Some(Output::SomePort(packet.clone(), ports));
        self
    }

    /// After something was done to the maps.
    pub fn after(mut self, act: impl Fn(&mut Rig) -> Result<()> + Send + Sync + 'static) -> Self {
        self.before = Arc::new(act);
        self
    }

    /// After other settings were put in force.
    pub fn under(self, change: fn(&mut Config)) -> Self {
        self.after(move |rig| {
            let mut config = rig.config;
            change(&mut config);
            rig.put_config(&config)
        })
    }

    pub fn becomes_bytes(mut self, bytes: Vec<u8>) -> Self {
        self.output = Some(Output::Bytes(bytes));
        self
    }

    /// Goes to another device as this packet, which our own egress program is to leave alone.
    pub fn leaves_as(self, packet: &Packet) -> Self {
        self.leaves_as_bytes(packet.bytes())
    }

    pub fn leaves_as_bytes(mut self, bytes: Vec<u8>) -> Self {
        self.output = Some(Output::Bytes(bytes));
        self.verdict = REDIRECT;
        self.mark_after = self.mark | MARK;
        self
    }

    /// Arrives at `lb0` as this packet.
    pub fn goes_up_as(mut self, packet: &Packet) -> Self {
        self.output = Some(Output::Bytes(packet.bytes()));
        self.verdict = REDIRECT;
        self
    }

    pub fn dropped(mut self) -> Self {
        self.output = None;
        self.verdict = SHOT;
        self
    }

    fn run(&self, rig: &mut Rig) -> Result<()> {
        (self.before)(rig)?;
        let device = index(rig, self.device);
        let ran = rig.run(self.program, device, self.mark, &self.input)?;
        ensure!(
            ran.verdict == self.verdict,
            "verdict {}, not {}; {}",
            ran.verdict,
            self.verdict,
            hex(&ran.bytes)
        );
        let output = match &self.output {
            None => return Ok(()),
            Some(Output::Bytes(bytes)) => bytes.clone(),
            Some(Output::SomePort(packet, ports)) => under_its_port(packet, ports, &ran.bytes)?,
        };
        if ran.bytes != output {
            let at = ran.bytes.iter().zip(&output).position(|(a, b)| a != b);
            bail!(
                "the packet differs from byte {at:?} on\n in  {}\n out {}\n not {}",
                hex(&self.input),
                hex(&ran.bytes),
                hex(&output)
            );
        }
        let mark = ran.mark;
        ensure!(
            mark == self.mark_after,
            "mark {mark:#x}, not {:#x}",
            self.mark_after
        );
        Ok(())
    }
}

/// The packet as it must be, with the source port that it has.
fn under_its_port(packet: &Packet, ports: &RangeInclusive<u16>, bytes: &[u8]) -> Result<Vec<u8>> {
    let at = packet.l4();
    let port = bytes.get(at..at + 2).context("no port")?;
    let port = u16::from_be_bytes(port.try_into()?);
    ensure!(ports.contains(&port), "port {port}, not one of {ports:?}");
    let source = SocketAddr::new(packet.src.ip(), port);
    Ok(packet.clone().from(source).bytes())
}

fn index(rig: &Rig, device: Device) -> u32 {
    match device {
        Device::Stack => 0,
        Device::Up0 => rig.devices.up0,
        Device::Up1 => rig.devices.up1,
        Device::Pod0 => rig.devices.pod0,
        Device::Lb0 => rig.devices.lb0,
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let gap = if at > 0 && at % 4 == 0 { " " } else { "" };
        // Writing to a String cannot fail.
        write!(text, "{gap}{byte:02x}").ok();
    }
    text
}

/// A flow, as both of its halves.
#[derive(Clone, Debug)]
pub struct Conversation {
    pub proto: u8,
    pub client: SocketAddr,
    pub dialled: SocketAddr,
    /// Whom the backend sees.
    pub source: SocketAddr,
    pub backend: SocketAddr,
    pub flags: FlowFlags,
    /// By which devices packets and answers leave.
    pub devices: (Device, Device),
    pub is_embryo: bool,
    pub is_of_service: bool,
}

impl Conversation {
    /// An embryo that is not masqueraded, made by the opener.
    pub fn of(opener: &Packet, backend: SocketAddr) -> Self {
        Self {
            proto: opener.proto().0,
            client: opener.src,
            dialled: opener.dst,
            source: opener.src,
            backend,
            flags: FlowFlags::default(),
            devices: (Device::Stack, Device::Stack),
            is_embryo: true,
            is_of_service: true,
        }
    }

    pub fn with(mut self, flags: FlowFlags) -> Self {
        self.flags = self.flags.with(flags);
        self
    }

    pub fn masqueraded(mut self, source: SocketAddr, out: Device, back: Device) -> Self {
        self.source = source;
        self.devices = (out, back);
        self.with(FlowFlags::SNAT)
    }

    /// Answered and taken up.
    pub fn established(mut self) -> Self {
        self.is_embryo = false;
        self.with(FlowFlags::REPLIED).with(FlowFlags::ESTABLISHED)
    }

    fn halves(&self, rig: &Rig) -> [Half; 2] {
        let half = |src, dst, to_src, to_dst, flags, device| Half {
            proto: self.proto,
            src,
            dst,
            to_src,
            to_dst,
            flags,
            oif: index(rig, device),
            is_embryo: self.is_embryo,
            is_of_service: self.is_of_service,
        };
        let (out, back) = self.devices;
        let (source, backend) = (self.source, self.backend);
        [
            half(self.client, self.dialled, source, backend, self.flags, out),
            half(
                backend,
                source,
                self.dialled,
                self.client,
                self.flags.with(FlowFlags::REPLY),
                back,
            ),
        ]
    }
}

/// Half of a flow, without what differs from run to run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Half {
    proto: u8,
    src: SocketAddr,
    dst: SocketAddr,
    to_src: SocketAddr,
    to_dst: SocketAddr,
    flags: FlowFlags,
    oif: u32,
    is_embryo: bool,
    is_of_service: bool,
}

type Prepare = Arc<dyn Fn(&mut Rig) -> Result<()> + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct Fixture {
    pub name: String,
    config: fn(&mut Config),
    prepare: Prepare,
    steps: Vec<Step>,
    counters: Vec<(Counter, u64)>,
    flows: Vec<Conversation>,
    /// Flows that were put there to be in the way are not compared.
    compares_flows: bool,
}

impl Fixture {
    pub fn new(name: impl Into<String>, steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            name: name.into(),
            config: |_| {},
            prepare: Arc::new(|_| Ok(())),
            steps: steps.into_iter().collect(),
            counters: Vec::new(),
            flows: Vec::new(),
            compares_flows: true,
        }
    }

    /// Under other settings than the agent's.
    pub fn config(mut self, change: fn(&mut Config)) -> Self {
        self.config = change;
        self
    }

    /// After something was done to the maps.
    pub fn prepared(
        mut self,
        prepare: impl Fn(&mut Rig) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.prepare = Arc::new(prepare);
        self
    }

    pub fn counts(mut self, counter: Counter, times: u64) -> Self {
        self.counters.retain(|(other, _)| *other != counter);
        self.counters.push((counter, times));
        self
    }

    pub fn flow(mut self, flow: Conversation) -> Self {
        self.flows.push(flow);
        self
    }

    pub fn whatever_flows(mut self) -> Self {
        self.compares_flows = false;
        self
    }

    pub fn run(&self, rig: &mut Rig) -> Result<()> {
        rig.reset()?;
        let mut config = rig.config;
        (self.config)(&mut config);
        rig.put_config(&config)?;
        (self.prepare)(rig)?;
        let before = rig.counters()?;
        for (nth, step) in (1..).zip(&self.steps) {
            step.run(rig)
                .with_context(|| format!("packet {nth}, {}", step.program))?;
        }
        self.compare_counters(&before, &rig.counters()?)?;
        if self.compares_flows {
            self.compare_flows(rig)?;
        }
        Ok(())
    }

    fn compare_counters(&self, before: &[u64], after: &[u64]) -> Result<()> {
        let moved = Counter::ALL.iter().zip(before.iter().zip(after));
        let moved: BTreeSet<(Counter, u64)> = moved
            .filter(|(_, (before, after))| before != after)
            .map(|(counter, (before, after))| (*counter, after - before))
            .collect();
        let wanted: BTreeSet<(Counter, u64)> = self.counters.iter().copied().collect();
        ensure!(moved == wanted, "counted {moved:?}, not {wanted:?}");
        Ok(())
    }

    fn compare_flows(&self, rig: &Rig) -> Result<()> {
        let mut there = halves::<Addr4>(rig)?;
        there.extend(halves::<Addr6>(rig)?);
        let wanted: BTreeSet<Half> = (self.flows.iter())
            .flat_map(|flow| flow.halves(rig))
            .collect();
        ensure!(there == wanted, "flows {there:#?}, not {wanted:#?}");
        Ok(())
    }
}

fn halves<A: Family>(rig: &Rig) -> Result<BTreeSet<Half>>
where
    FlowKey<A>: Pod,
    FlowVal<A>: Pod,
{
    let mut all = BTreeSet::new();
    for (map, is_embryo) in [(A::MAPS.flows, false), (A::MAPS.embryos, true)] {
        let entries = rig.entries::<FlowKey<A>, FlowVal<A>>(map)?;
        for (key, val) in entries {
            let at = |addr: A, port: BePort| SocketAddr::new(addr.ip(), port.host());
            all.insert(Half {
                proto: key.proto.0,
                src: at(key.src, key.sport),
                dst: at(key.dst, key.dport),
                to_src: at(val.src, val.sport),
                to_dst: at(val.dst, val.dport),
                flags: val.flags,
                oif: val.oif,
                is_embryo,
                is_of_service: val.service.is_some(),
            });
        }
    }
    Ok(all)
}
