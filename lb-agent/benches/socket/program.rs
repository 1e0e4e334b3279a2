//! Time inside the programs, by the kernel's own statistics, over programs that do nothing on the same hook
//! under the same calls. Statistics cost some 50 ns a run themselves; the difference is free of that.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use lb_common::reason::Counter;

use crate::{
    objects::{self, Here, SERVER_PORT},
    progress::Progress,
    report::Row,
    stats::Summary,
    sys::Runs,
    worker::{Act, Worker},
    world::{Bare, World},
};

/// What one row measures.
struct Case {
    name: &'static str,
    program: &'static str,
    /// The plane that is dialled: an index into the worlds.
    world: usize,
    act: Act,
    list: Vec<SocketAddrV4>,
    /// What the empty program is dialled with: the same calls without translation.
    direct: Vec<SocketAddrV4>,
    /// Counted once for each call, so that the row measures what it says.
    counter: Option<Counter>,
    target_ns: Option<f64>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    pub calls: usize,
}

/// Worlds: one Service; one of each kind; a large cluster.
pub fn measure(worlds: [&World; 3], bare: &Bare, here: &Here, effort: Effort) -> Result<Vec<Row>> {
    let cases = cases(worlds, here)?;
    let lists = |world: usize| {
        let of = |case: &Case| {
            if case.world == world {
                case.list.clone()
            } else {
                Vec::new()
            }
        };
        cases.iter().map(of).collect()
    };
    let mut workers = Vec::new();
    for (number, world) in worlds.iter().enumerate() {
        workers.push(Worker::start(&world.place, lists(number))?);
    }
    let idle = Worker::start(
        &bare.place,
        cases.iter().map(|case| case.direct.clone()).collect(),
    )?;
    let _statistics = enable_stats(Stats::RunTime).context("BPF_ENABLE_STATS (Linux 5.8)")?;

    let mut over = vec![Vec::new(); cases.len()];
    let mut own = vec![Vec::new(); cases.len()];
    // One more round to warm up.
    let mut progress = Progress::new("time in the programs", effort.rounds + 1);
    for round in 0..=effort.rounds {
        for (number, case) in cases.iter().enumerate() {
            let world = worlds.get(case.world).context("no such world")?;
            let worker = workers.get(case.world).context("no such worker")?;
            let empty = time(&idle, case, number, effort, || bare.runs(case.program))?;
            let before = count(world, case)?;
            let full = time(worker, case, number, effort, || world.runs(case.program))?;
            let counted = count(world, case)? - before;
            ensure!(
                case.counter.is_none() || counted + 1 >= effort.calls as u64,
                "{}: only {counted} of {} calls went that way",
                case.name,
                effort.calls
            );
            if round > 0
                && let (Some(over), Some(own)) = (over.get_mut(number), own.get_mut(number))
            {
                over.push(full - empty);
                own.push(empty);
            }
        }
        progress.step();
    }
    for worker in workers {
        worker.stop()?;
    }
    idle.stop()?;
    Ok(cases
        .iter()
        .zip(over)
        .zip(own)
        .filter_map(|((case, over), own)| {
            Some(Row {
                name: case.name.to_owned(),
                unit: "ns",
                value: Summary::of(&over)?,
                target: case.target_ns.map(|ns| (false, ns)),
                note: format!("empty program {:.0} ns", Summary::of(&own)?.median),
            })
        })
        .collect())
}

/// Mean time of one run, in ns.
fn time(
    worker: &Worker,
    case: &Case,
    list: usize,
    effort: Effort,
    runs: impl Fn() -> Result<Runs>,
) -> Result<f64> {
    let before = runs()?;
    let done = worker.act(case.act, list, effort.calls)?;
    let after = runs()?;
    let is_refusal = case
        .counter
        .is_some_and(|counter| matches!(counter, Counter::NoEndpoints | Counter::UnknownPort));
    ensure!(
        done.refused == 0 || is_refusal,
        "{}: {} calls were refused",
        case.name,
        done.refused
    );
    let count = after.count - before.count;
    ensure!(
        count >= effort.calls as u64,
        "{}: the program ran {count} times in {} calls",
        case.name,
        effort.calls
    );
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let mean = (after.ns - before.ns) as f64 / count as f64;
    Ok(mean)
}

fn count(world: &World, case: &Case) -> Result<u64> {
    case.counter.map_or(Ok(0), |counter| world.counter(counter))
}

fn cases([one, _, many]: [&World; 3], here: &Here) -> Result<Vec<Case>> {
    const ONE: usize = 0;
    const KINDS: usize = 1;
    const MANY: usize = 2;
    let stranger = objects::strangers(1);
    let strangers = objects::strangers(20_000);
    let server = vec![SocketAddrV4::new(here.server, SERVER_PORT)];
    let random = objects::shuffled(&many.vips);
    let sink = vec![SocketAddrV4::new(here.server, SERVER_PORT + 1)];
    let node_port = here.node_port().context("the node has no IPv4 address")?;
    let connect = |name, world, act, list: &[SocketAddrV4], counter, target_ns| Case {
        name,
        program: "lb_connect4",
        world,
        act,
        list: list.to_vec(),
        direct: if list.len() > 1 {
            strangers.clone()
        } else {
            stranger.clone()
        },
        counter,
        target_ns,
    };
    let datagram = |name, program, act, vip, direct: &[SocketAddrV4], counter| Case {
        name,
        program,
        world: KINDS,
        act,
        list: vec![vip],
        direct: direct.to_vec(),
        counter: Some(counter),
        target_ns: None,
    };
    use Act::{Connect, Echo, Reconnect, Send};
    use Counter::{HitChosen, HitPinned, HitSession, NoEndpoints, ReplyTranslated, UnknownPort};
    Ok(vec![
        connect(
            "connect4 hit, 1 service",
            ONE,
            Reconnect,
            &one.vips,
            Some(HitChosen),
            Some(80.0),
        ),
        connect(
            "connect4 hit, 1 service, new sockets",
            ONE,
            Connect,
            &one.vips,
            Some(HitChosen),
            None,
        ),
        connect(
            "connect4 hit, 20,000 services at random",
            MANY,
            Reconnect,
            &random,
            Some(HitChosen),
            Some(180.0),
        ),
        connect(
            "connect4 hit, 20,000 at random, new sockets",
            MANY,
            Connect,
            &random,
            Some(HitChosen),
            None,
        ),
        connect(
            "connect4 miss, 1 service",
            ONE,
            Reconnect,
            &stranger,
            None,
            Some(35.0),
        ),
        connect(
            "connect4 miss, 1 service, new sockets",
            ONE,
            Connect,
            &stranger,
            None,
            Some(35.0),
        ),
        connect(
            "connect4 miss, 20,000 services",
            MANY,
            Reconnect,
            &stranger,
            None,
            Some(35.0),
        ),
        connect(
            "connect4 miss, 20,000, random destinations",
            MANY,
            Reconnect,
            &strangers,
            None,
            None,
        ),
        connect(
            "connect4 hit, NodePort",
            KINDS,
            Reconnect,
            &[node_port],
            Some(HitChosen),
            None,
        ),
        connect(
            "connect4 hit, affinity",
            KINDS,
            Reconnect,
            &[objects::STICKY],
            Some(HitPinned),
            None,
        ),
        connect(
            "connect4 refusal, no endpoints",
            KINDS,
            Reconnect,
            &[objects::EMPTY],
            Some(NoEndpoints),
            None,
        ),
        connect(
            "connect4 refusal, unknown port",
            KINDS,
            Reconnect,
            &[objects::NO_PORT],
            Some(UnknownPort),
            None,
        ),
        datagram(
            "sendmsg4 session hit",
            "lb_sendmsg4",
            Send,
            objects::SINK,
            &sink,
            HitSession,
        ),
        datagram(
            "recvmsg4 reply",
            "lb_recvmsg4",
            Echo,
            objects::WEB,
            &server,
            ReplyTranslated,
        ),
    ])
}
