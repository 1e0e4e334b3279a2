//! What the demo shows, in its order: who answers whom, the shift as the Service changes, what an operator sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cast::Cast;
use super::draw::{Answers, Legend};
use super::look::{look, wait_for_ctrl_c};
use crate::lab::traffic::{Asked, Dial};
use crate::lab::{Place, Task};
use crate::say::{self, Colour, colour};

/// Dials for each row of the first table.
const DIALS: usize = 60;
/// Dials for each row of the second.
const DIALS_AFTER_CHANGE: usize = 200;
/// Dials from which it is read who serves: a pod of four is missed once in five thousand times.
const DIALS_TO_SETTLE: usize = 30;
/// How long a change may take to be seen.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// The rest between two dials of the background load: its closed connections must not use up the client's ports.
const LOAD_REST: Duration = Duration::from_micros(500);

/// What `deploy/demo/web.yaml` gives the Service.
const CLUSTER_IP: &str = "10.96.0.80:80";
const CLUSTER_IP6: &str = "[fd00:96::80]:80";
const BALANCER: &str = "203.0.113.80:80";
const BALANCER6: &str = "[2001:db8::80]:80";
const NODE_PORT: &str = "172.18.0.1:30080";
const NODE_PORT6: &str = "[fd00:18::1]:30080";
const LOCALHOST: &str = "127.0.0.1:30080";

/// Sets the stage, plays, and takes it down; with `stay` only when it is told to.
pub(super) fn perform(agent: &Path, stay: bool) -> Result<()> {
    say::step(
        "setting the stage: two nodes, pods, a client, an agent, all in namespaces of their own",
    );
    let begun = Instant::now();
    let mut cast = Cast::new(agent)?;
    say::step(&format!(
        "the agent serves deploy/demo ({} ms)",
        begun.elapsed().as_millis()
    ));
    who_answers(&cast)?;
    shift(&mut cast)?;
    look(&cast, CLUSTER_IP)?;
    if stay {
        wait_for_ctrl_c(&cast);
    }
    delete(&cast)?;
    clean_up(cast)
}

fn who_answers(cast: &Cast) -> Result<()> {
    let legend = Legend::new(cast.names());
    say::heading(&format!("1. Who answers: {DIALS} dials each"));
    say::line(format!(
        "  {:<5}{:<33}{:<5}{}",
        "from",
        "to",
        "by",
        legend.heading()
    ));
    let (pod, node): (&Place, &Place) = (&cast.client, &cast.node.host);
    let outside = &cast.outside;
    let mut all = 0;
    for (name, place, kind, address, protocol) in [
        ("pod", pod, "ClusterIP", CLUSTER_IP, "TCP"),
        ("pod", pod, "ClusterIP", CLUSTER_IP, "UDP"),
        ("pod", pod, "ClusterIP", CLUSTER_IP6, "TCP"),
        ("pod", pod, "ClusterIP", CLUSTER_IP6, "UDP"),
        ("pod", pod, "NodePort", NODE_PORT, "TCP"),
        ("pod", pod, "LoadBalancer", BALANCER, "TCP"),
        ("node", node, "ClusterIP", CLUSTER_IP, "TCP"),
        ("node", node, "ClusterIP", CLUSTER_IP6, "UDP"),
        ("node", node, "NodePort", NODE_PORT6, "TCP"),
        ("node", node, "NodePort", LOCALHOST, "UDP"),
        ("node", node, "LoadBalancer", BALANCER6, "TCP"),
        ("out", outside, "NodePort", NODE_PORT, "TCP"),
        ("out", outside, "NodePort", NODE_PORT6, "TCP"),
        ("out", outside, "LoadBalancer", BALANCER, "TCP"),
        ("out", outside, "LoadBalancer", BALANCER6, "TCP"),
    ] {
        let to: SocketAddr = address.parse().context("an address of the demo")?;
        let dial = if protocol == "TCP" {
            Dial::tcp(to)
        } else {
            Dial::udp(to).unconnected()
        };
        let asked = ask(place, &dial, DIALS)?;
        let answers = count(&asked, to)?;
        let to = format!("{kind:<13}{address}");
        say::line(format!(
            "  {name:<5}{to:<33}{protocol:<5}{}",
            legend.row(&answers)
        ));
        all += asked.len();
    }
    done(&format!(
        "{all} dials, none failed; every client saw the Service as its peer, never the pod"
    ));
    who_is_seen(cast)
}

/// A client outside is itself to the pods of the node that it dials, and that node to those of others.
fn who_is_seen(cast: &Cast) -> Result<()> {
    say::heading("   Whom the pods see when a client outside dials the LoadBalancer IP");
    let [client, _] = cast.outside.addresses;
    let to: SocketAddr = BALANCER.parse().context("an address of the demo")?;
    let mut seen = BTreeMap::new();
    for asked in ask(&cast.outside, &Dial::tcp(to), DIALS)? {
        let answer = asked.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        seen.insert(answer.by, answer.client.ip());
    }
    ensure!(
        seen.values().any(|ip| *ip == client),
        "no pod saw the client's address {client}: {seen:?}"
    );
    for (pod, ip) in seen {
        let whose = if ip == client {
            "the client itself"
        } else {
            "the node: the pod is on another one, and its answers must come back here"
        };
        say::line(format!("  {pod:<10}{ip:<16}{whose}"));
    }
    Ok(())
}

/// Dials `times` from one process in `place`, up to the first failure.
fn ask(place: &Place, dial: &Dial, times: usize) -> Result<Vec<Asked>> {
    place.exec(|| {
        let mut asked = Vec::new();
        while asked.len() < times && asked.last().is_none_or(Asked::is_ok) {
            asked.push(dial.ask());
        }
        Ok(asked)
    })
}

/// Counts who answered. The client must have seen `to` as its peer: the translation is the kernel's secret.
fn count(asked: &[Asked], to: SocketAddr) -> Result<Answers> {
    let mut answers = Answers::new();
    for asked in asked {
        let answer = asked
            .as_ref()
            .map_err(|failure| anyhow::anyhow!("{to}: {failure}"))?;
        ensure!(
            answer.peer == to,
            "{to}: the client saw {} as its peer",
            answer.peer
        );
        *answers.entry(answer.by.clone()).or_default() += 1;
    }
    Ok(answers)
}

fn shift(cast: &mut Cast) -> Result<()> {
    let mut names = cast.names();
    names.push("web-3".to_owned());
    let legend = Legend::new(names);
    let to: SocketAddr = CLUSTER_IP.parse().context("an address of the demo")?;
    say::heading("2. The Service changes while clients dial");
    say::line(format!(
        "  {:<38}{}",
        "web-endpoints.yaml",
        legend.heading()
    ));
    let load = start_load(cast, to)?;
    show_shift(cast, &legend, "as shipped", &["web-0", "web-1", "web-2"])?;
    cast.scale_up("web-3")?;
    show_shift(
        cast,
        &legend,
        "scale up: web-3 joins",
        &["web-0", "web-1", "web-2", "web-3"],
    )?;
    cast.drain("web-0")?;
    show_shift(
        cast,
        &legend,
        "drain: web-0 is terminating",
        &["web-1", "web-2", "web-3"],
    )?;
    cast.delete("web-1")?;
    show_shift(cast, &legend, "delete: web-1 is gone", &["web-2", "web-3"])?;
    cast.stop("web-1");
    let (dials, failures) = load.finish(Duration::from_secs(10))?;
    if let Some(first) = failures.first() {
        bail!(
            "of {dials} dials in the background {} failed, the first with {first}",
            failures.len()
        );
    }
    done(&format!(
        "{dials} more dials went on in the background all this time, none failed"
    ));
    Ok(())
}

/// Dials `to` without end from the client pod; how many, and what failed.
fn start_load(cast: &Cast, to: SocketAddr) -> Result<Task<(u64, Vec<String>)>> {
    let dial = Dial::tcp(to);
    cast.client.spawn("load", move |control| {
        let (mut dials, mut failures) = (0, Vec::new());
        while !control.stop_asked() {
            dials += 1;
            if let Err(failure) = dial.ask() {
                failures.push(failure.to_string());
            }
            thread::sleep(LOAD_REST);
        }
        Ok((dials, failures))
    })
}

/// Waits until exactly `expected` serve, then dials and draws.
fn show_shift(cast: &Cast, legend: &Legend, title: &str, expected: &[&str]) -> Result<()> {
    let to: SocketAddr = CLUSTER_IP.parse().context("an address of the demo")?;
    let dial = Dial::tcp(to);
    let begun = Instant::now();
    loop {
        let seen = count(&ask(&cast.client, &dial, DIALS_TO_SETTLE)?, to)?;
        if seen.keys().eq(expected) {
            break;
        }
        let limit = SETTLE_LIMIT;
        ensure!(
            begun.elapsed() < limit,
            "after {limit:?} {seen:?} serve, and not {expected:?}"
        );
    }
    let settled = format!("{title} ({} ms)", begun.elapsed().as_millis());
    let answers = count(&ask(&cast.client, &dial, DIALS_AFTER_CHANGE)?, to)?;
    say::line(format!("  {settled:<38}{}", legend.row(&answers)));
    Ok(())
}

/// Ends the Service, and dials until it is gone.
fn delete(cast: &Cast) -> Result<()> {
    say::heading("4. The Service is deleted");
    let to: SocketAddr = CLUSTER_IP.parse().context("an address of the demo")?;
    let dial = Dial::tcp(to).within(Duration::from_millis(500));
    cast.delete_service()?;
    let begun = Instant::now();
    loop {
        if let Err(failure) = cast.client.ask(&dial)? {
            let after = begun.elapsed().as_millis();
            say::line(format!(
                "  after {after} ms a dial of {to} ends with {failure}"
            ));
            return Ok(());
        }
        ensure!(
            begun.elapsed() < SETTLE_LIMIT,
            "after {SETTLE_LIMIT:?} {to} still answers"
        );
    }
}

fn clean_up(cast: Cast) -> Result<()> {
    let (dir, cgroup) = (cast.lab.dir().to_owned(), cast.node.cgroup.clone());
    drop(cast);
    for path in [&dir, &cgroup] {
        ensure!(!path.exists(), "{} was left behind", path.display());
    }
    say::line("");
    done("cleaned up: processes, namespaces, cgroups, bpffs folder and programs are gone");
    Ok(())
}

fn done(words: &str) {
    say::line(format!("  {} {words}", colour(Colour::Green, "✓")));
}
