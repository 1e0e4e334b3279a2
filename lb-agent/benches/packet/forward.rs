//! Small packets through the node on one core: how many a second, and how long our programs take of it.

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use aya::sys::{Stats, enable_stats};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use lb_agent::maps::sys as agent_sys;

use crate::{
    asm,
    inject::{FIRST_PORT, FLOWS, Injector, look},
    objects::{Backend, SERVER_PORT},
    peer::Peer,
    plane::{Plane, v4},
    progress::Progress,
    report::Row,
    sink::Sink,
    sys, worker,
};

/// The node's device, and the other end of its cable.
const UPLINK: &str = "eth0";
const CABLE: &str = "port1";
/// A port that no frontend and no backend has; nobody answers there.
const STRANGER: u16 = 9;
/// How long what is still queued may take.
const REST: Duration = Duration::from_millis(20);
const HOOKS: [bpf_attach_type; 2] = [
    bpf_attach_type::BPF_TCX_INGRESS,
    bpf_attach_type::BPF_TCX_EGRESS,
];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    pub packets: u32,
}

/// Packets of flows that are established, from outside through one plane to one backend.
struct Way<'a> {
    name: &'static str,
    plane: &'a Plane,
    injector: Injector,
    sink: Sink,
}

impl<'a> Way<'a> {
    fn new(
        name: &'static str,
        plane: &'a Plane,
        backend: Backend,
        to: SocketAddrV4,
    ) -> Result<Self> {
        let client = v4(&plane.outside)?;
        let ports = FIRST_PORT..FIRST_PORT + FLOWS;
        let arrives_at = match to.port() {
            STRANGER => STRANGER,
            _ => {
                plane.outside.exec(|| worker::greet(client, ports, to))?;
                SERVER_PORT
            }
        };
        let (_, hardware) = plane.outside.netns.within(|| look("eth0"))?;
        let netns = &plane.node.host.netns;
        let sink = match backend {
            Backend::Remote => Sink::new(plane.lab.switch(), CABLE, arrives_at)?,
            Backend::Local => Sink::new(&plane.pod(backend).netns, "eth0", arrives_at)?,
        };
        Ok(Self {
            name,
            plane,
            injector: Injector::new(netns, UPLINK, (hardware, client), to)?,
            sink,
        })
    }

    /// Nanoseconds a packet; fails where packets went elsewhere.
    fn run(&self, packets: u32) -> Result<f64> {
        let before = self.sink.seen()?;
        let ns = self.injector.run(packets)?;
        thread::sleep(REST);
        let seen = self.sink.seen()? - before;
        ensure!(
            seen >= u64::from(packets) * 99 / 100,
            "{}: {seen} of {packets} packets arrived",
            self.name
        );
        Ok(ns / f64::from(packets))
    }
}

/// Nanoseconds a packet by peer, and ratios of rates.
pub fn rates(planes: &[Plane], backend: Backend, effort: Effort) -> Result<Vec<Row>> {
    let mut ways = Vec::new();
    for plane in planes {
        ways.push(Way::new(
            plane.peer.name(),
            plane,
            backend,
            plane.destination(backend)?,
        )?);
    }
    let mut ns: BTreeMap<Peer, Vec<f64>> = BTreeMap::new();
    let title = match backend {
        Backend::Remote => "small packets to a backend on the other node",
        Backend::Local => "small packets to a backend on this node",
    };
    let mut progress = Progress::new(title, effort.rounds + 1);
    for round in 0..=effort.rounds {
        for turn in 0..ways.len() {
            let way = &ways[(turn + round) % ways.len()];
            let value = way.run(effort.packets)?;
            if round > 0 {
                ns.entry(way.plane.peer).or_default().push(value);
            }
        }
        progress.step();
    }
    let mut rows = Vec::new();
    for (peer, values) in &ns {
        let rates: Vec<f64> = values.iter().map(|ns| 1e6 / ns).collect();
        rows.extend(row(
            format!("{} backend: {}", backend.name(), peer.name()),
            "kpps",
            &rates,
            None,
            effort,
        ));
    }
    let targets = match backend {
        Backend::Remote => [Some((true, 1.3)), None, Some((true, 1.0))],
        Backend::Local => [Some((true, 1.0)), None, None],
    };
    for (peer, target) in [Peer::Nftables, Peer::Iptables, Peer::Direct]
        .into_iter()
        .zip(targets)
    {
        let (Some(ours), Some(theirs)) = (ns.get(&Peer::Ours), ns.get(&peer)) else {
            continue;
        };
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| theirs / ours)
            .collect();
        let name = format!("{} backend: ours / {}", backend.name(), peer.name());
        rows.extend(row(name, "", &ratios, target, effort));
    }
    Ok(rows)
}

/// Time in our programs by the kernel's statistics, over programs that do nothing on the same hooks.
pub fn programs(planes: &[Plane], effort: Effort) -> Result<Vec<Row>> {
    let find = |peer| planes.iter().find(|plane| plane.peer == peer);
    let (Some(ours), Some(direct)) = (find(Peer::Ours), find(Peer::Direct)) else {
        return Ok(Vec::new());
    };
    let empty = empty_programs(direct)?;
    let programs = programs_of(ours)?;
    let straight = direct.destination(Backend::Remote)?;
    let stranger = SocketAddrV4::new(*straight.ip(), STRANGER);
    let to = |backend| ours.destination(backend);
    let most = |ns| Some((false, ns));
    let cases = [
        (
            "established, remote backend",
            Backend::Remote,
            to(Backend::Remote)?,
            most(120.0),
        ),
        (
            "established, local backend",
            Backend::Local,
            to(Backend::Local)?,
            most(120.0),
        ),
        (
            "no service, forwarded",
            Backend::Remote,
            stranger,
            most(30.0),
        ),
        (
            "straight to a backend, forwarded",
            Backend::Remote,
            straight,
            None,
        ),
    ];
    let mut rows = Vec::new();
    let mut progress = Progress::new("time in the programs", cases.len() * (effort.rounds + 1));
    for (name, backend, to, target) in cases {
        let measured = Way::new(name, ours, backend, to)?;
        let idle = Way::new("direct", direct, backend, direct.destination(backend)?)?;
        let _statistics = enable_stats(Stats::RunTime)?;
        let mut values = Vec::new();
        for round in 0..=effort.rounds {
            let spent = spent(&programs, &measured, effort.packets)?;
            let base = self::spent(&empty, &idle, effort.packets)?;
            if round > 0 {
                values.push(spent - base);
            }
            progress.step();
        }
        rows.extend(row(name.to_owned(), "ns", &values, target, effort));
    }
    Ok(rows)
}

/// Nanoseconds of all programs for each packet.
fn spent(programs: &[OwnedFd], way: &Way<'_>, packets: u32) -> Result<f64> {
    let total = || -> Result<u64> {
        let runs = programs.iter().map(|program| sys::runs(program.as_fd()));
        runs.map(|runs| Ok(runs?.ns)).sum()
    };
    let before = total()?;
    way.run(packets)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok((total()? - before) as f64 / f64::from(packets))
}

/// Ours on the uplink, in and out.
fn programs_of(plane: &Plane) -> Result<Vec<OwnedFd>> {
    plane.node.host.netns.within(|| {
        let (index, _) = look(UPLINK)?;
        let mut programs = Vec::new();
        for hook in HOOKS {
            for link in agent_sys::device_links(index, hook)? {
                programs.push(sys::program(link.program)?);
            }
        }
        ensure!(
            programs.len() == 2,
            "{} programs on {UPLINK}",
            programs.len()
        );
        Ok(programs)
    })
}

/// Programs that do nothing, in the same places, for as long as the process lives.
fn empty_programs(plane: &Plane) -> Result<Vec<OwnedFd>> {
    plane.node.host.netns.within(|| {
        let (index, _) = look(UPLINK)?;
        let mut programs = Vec::new();
        for hook in HOOKS {
            let program = sys::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, hook, &asm::NEXT)?;
            std::mem::forget(sys::link(program.as_fd(), index, hook)?);
            programs.push(program);
        }
        Ok(programs)
    })
}

fn row(
    name: String,
    unit: &'static str,
    values: &[f64],
    target: Option<(bool, f64)>,
    effort: Effort,
) -> Option<Row> {
    let note = format!("{} packets a round", effort.packets);
    Row::of(name, unit, values, target, note)
}
