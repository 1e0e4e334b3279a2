//! What a change costs in the agent, from the object to the maps: time here, system calls under strace in a
//! process of its own, which takes the pinned maps over as a restarted agent does.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use lb_agent::{
    model::{Event, Object, ObjectRef},
    reconcile::Reconciler,
};
use serde::{Deserialize, Serialize};

use crate::{
    objects::{self, Here, Objects, SLICES},
    report::Row,
    stats::Summary,
    world::{self, World},
};

/// A plane to change, as the process under strace needs to know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traced {
    pub root: std::path::PathBuf,
    pub crowd: u32,
    pub here: Here,
}

/// The plane's objects.
pub fn cluster(crowd: u32, here: &Here) -> Objects {
    let mut objects = Objects::crowd(crowd);
    if crowd > 1 {
        objects.add_web(here);
        objects.add_large();
    }
    objects
}

/// One endpoint of the large Service replaced by another.
pub fn endpoint(world: &mut World, rounds: u32) -> Result<Vec<Row>> {
    let (mut changes, mut rests) = (Vec::new(), Vec::new());
    for version in 1..=rounds {
        let slice = objects::large_slice(version % SLICES, version);
        let start = Instant::now();
        world.agent.take(Event::Apply(Object::Slice(slice)));
        let round = world.agent.round();
        changes.push(micros(start));
        ensure!(
            round.ops > 0 && world.agent.failed() == 0,
            "the change did not reach the maps"
        );
        let start = Instant::now();
        world.agent.rest();
        rests.push(micros(start));
    }
    Ok([
        (
            "one endpoint of 1,000 replaced, 4 frontends",
            changes,
            "object to maps",
        ),
        (
            "wait until what it freed may be used again",
            rests,
            "in quiet time; a membarrier",
        ),
    ]
    .into_iter()
    .filter_map(|(name, values, note)| micros_row(name.into(), &values, note))
    .collect())
}

/// One Service with ten endpoints added.
pub fn service(world: &mut World, rounds: u8) -> Result<Vec<Row>> {
    let mut times = Vec::new();
    for number in 1..=rounds {
        times.push(add_and_remove(&mut world.agent, number, |_| {})?);
        world.agent.rest();
    }
    let name = format!("one Service added to {}", world.vips.len());
    Ok(micros_row(name, &times, "10 endpoints; object to maps")
        .into_iter()
        .collect())
}

/// Adds a Service and takes it away; returns the microseconds of the first half. `mark` is told when that begins and
/// ends.
fn add_and_remove(agent: &mut Reconciler, number: u8, mark: impl Fn(&str)) -> Result<f64> {
    let (service, slice) = objects::newcomer(number);
    let (key, slice_key) = (service.key.clone(), slice.key.clone());
    mark("begin");
    let start = Instant::now();
    agent.take(Event::Apply(Object::Service(service)));
    agent.take(Event::Apply(Object::Slice(slice)));
    let round = agent.round();
    let took = micros(start);
    mark("end");
    ensure!(
        round.ops > 0 && agent.failed() == 0,
        "the Service did not reach the maps"
    );
    agent.take(Event::Delete(ObjectRef::Slice(slice_key)));
    agent.take(Event::Delete(ObjectRef::Service(key)));
    agent.round();
    Ok(took)
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

fn micros_row(name: String, values: &[f64], note: &str) -> Option<Row> {
    Row::of(name, "us", values, None, note.into())
}

/// Changes that are traced, with the most that the first may take.
const MARKS: [(&str, &str, Option<f64>); 3] = [
    (
        "endpoint",
        "one endpoint of 1,000 replaced, 4 frontends",
        Some(3.0),
    ),
    ("rest", "wait until what it freed may be used again", None),
    ("service", "one Service added", None),
];

/// What the process under strace does. Marks are lookups of paths that do not exist.
pub fn traced(plane: &Traced) -> Result<()> {
    let objects = cluster(plane.crowd, &plane.here);
    let mut agent = world::adopt(&plane.root, objects, &plane.here)?;
    let mark = |name: &str, side: &str| {
        // Not there: it is looked for to be seen.
        let _absent = Path::new(&mark_path(name, side)).try_exists();
    };
    if plane.crowd > 1 {
        // One change to warm up, whose rest lets the next find everything free.
        for version in 1_000..1_002 {
            let slice = objects::large_slice(version % SLICES, version);
            mark("endpoint", "begin");
            agent.take(Event::Apply(Object::Slice(slice)));
            agent.round();
            mark("endpoint", "end");
            mark("rest", "begin");
            agent.rest();
            mark("rest", "end");
        }
    }
    for number in 1..=2 {
        add_and_remove(&mut agent, number, |side| mark("service", side))?;
        agent.rest();
    }
    Ok(())
}

fn mark_path(name: &str, side: &str) -> String {
    format!("/lb-bench-{side}-{name}")
}

/// System calls of each change, all of the process's counted, whatever they are for.
pub fn system_calls(plane: &Traced, dir: &Path) -> Result<Vec<Row>> {
    let log = dir.join(format!("strace-{}", plane.crowd));
    let status = Command::new("strace")
        .args(["-f", "-qq", "-e", "signal=none", "-o"])
        .arg(&log)
        .arg(std::env::current_exe()?)
        .args(["--traced", &serde_json::to_string(plane)?])
        .stdin(Stdio::null())
        .status()
        .context("strace cannot be started")?;
    ensure!(status.success(), "the process under strace failed");
    let text = std::fs::read_to_string(&log)?;
    let mut rows = Vec::new();
    for (mark, name, target) in MARKS {
        let Some(calls) = between(&text, mark) else {
            continue;
        };
        let total: u32 = calls.values().sum();
        let calls: Vec<String> = calls
            .iter()
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        rows.push(Row {
            name: match mark {
                "service" => format!("{name} to {}", plane.crowd),
                _ => name.to_owned(),
            },
            unit: "calls",
            value: Summary::of(&[f64::from(total)]).context("no value")?,
            target: target.map(|most| (false, most)),
            note: calls.join(", "),
        });
    }
    Ok(rows)
}

/// Calls by name between the last pair of marks.
fn between(log: &str, mark: &str) -> Option<BTreeMap<String, u32>> {
    let lines: Vec<&str> = log.lines().collect();
    let at = |side| {
        let path = format!("\"{}\"", mark_path(mark, side));
        lines.iter().rposition(|line| line.contains(&path))
    };
    let (begin, end) = (at("begin")?, at("end")?);
    let mut calls = BTreeMap::new();
    for line in lines.get(begin + 1..end)? {
        // "PID name(arguments) = result"; a call that was interrupted ends in a line "<... name resumed>".
        let call = line
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .trim_start();
        let Some((name, _)) = call.split_once('(') else {
            continue;
        };
        let name = match bpf_command(call) {
            Some(command) => command.to_owned(),
            None => name.to_owned(),
        };
        if !name.starts_with("<...") {
            *calls.entry(name).or_insert(0) += 1;
        }
    }
    Some(calls)
}

/// `BPF_MAP_UPDATE_BATCH` of `bpf(BPF_MAP_UPDATE_BATCH, ...`.
fn bpf_command(call: &str) -> Option<&str> {
    call.strip_prefix("bpf(")?.split([',', ' ']).next()
}
