//! Start, crash, restart and removal of the agent, and several agents on one kernel.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use xtask::lab::manifest::{Document, slices, svc};
use xtask::lab::traffic::{Dial, exchange, peer_of, receive};
use xtask::lab::{Lab, Node};

use crate::harness::{SOON, case, eventually, soon_who, told, who};
use crate::load::{VIP, Web, settle};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("lifecycle", name, test);
    vec![
        case("a_killed_and_restarted_agent_fails_no_dial", killed),
        case("sigterm_leaves_the_data_plane_serving", terminated),
        case(
            "a_restarted_agent_applies_what_changed_while_it_was_away",
            away,
        ),
        case("a_restart_keeps_ids_and_pins_and_sessions", kept),
        case(
            "udp_sockets_connected_before_the_agent_came_are_ended_once",
            before_attach,
        ),
        case(
            "an_entry_that_somebody_deleted_is_repaired_and_counted",
            repaired,
        ),
        case(
            "the_agent_needs_neither_cap_sys_resource_nor_locked_memory",
            few_rights,
        ),
        case(
            "without_a_node_object_cluster_ips_are_served",
            no_node_object,
        ),
        case(
            "an_agent_with_a_wrong_flag_ends_with_its_name_and_a_remedy",
            wrong_flag,
        ),
    ]
}

fn killed(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers(0..4)?;
    let mut agent = web.node.agent(&[])?;
    let load = web.load()?;
    for round in 0..4 {
        thread::sleep(Duration::from_millis(200));
        agent.kill9()?;
        // What changes while the agent is away is part of the test.
        web.publish_numbers((0..4).filter(|number| *number != round))?;
        thread::sleep(Duration::from_millis(200));
        agent.restart()?;
    }
    let by = settle(load)?;
    ensure!(by.len() == 4, "{by:?}");
    Ok(())
}

fn terminated(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers(0..4)?;
    let mut agent = web.node.agent(&[])?;
    let load = web.load()?;
    let status = agent.term()?;
    ensure!(status.success(), "SIGTERM ended the agent with {status}");
    thread::sleep(Duration::from_millis(1500));
    settle(load)?;
    agent.restart()
}

/// A backend goes, one comes, a Service goes and one comes, all unseen.
fn away(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0, 1])?;
    let other = |name: &str, address: &str| {
        let listed = slices(name).tcp(8080).endpoint(&web.pods[3].pod);
        [
            Document::from(svc(name).cluster_ip(address).tcp(80)),
            listed.into(),
        ]
    };
    web.node.publish("other", other("ns/old", "10.96.0.11"))?;
    let mut agent = web.node.agent(&[])?;
    agent.kill9()?;
    web.publish_numbers([1, 2])?;
    web.node.publish("other", other("ns/new", "10.96.0.12"))?;
    ensure!(
        who(&web.client, &Dial::tcp(VIP.parse()?), 40)? == ["web-0", "web-1"],
        "nobody is there to apply it"
    );
    agent.restart()?;
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 40)? == ["web-1", "web-2"]);
    ensure!(who(&web.client, &Dial::tcp("10.96.0.12:80".parse()?), 3)? == ["web-3"]);
    ensure!(
        !json(&web.node, &["service", "list", "-o", "json"])?
            .to_string()
            .contains("10.96.0.11")
    );
    Ok(())
}

/// What a command prints as JSON.
fn json(node: &Node, arguments: &[&str]) -> Result<Value> {
    let output = node.cli(arguments)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn kept(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    let sticky = svc("ns/sticky")
        .cluster_ip("10.96.0.20")
        .tcp(80)
        .affinity(60);
    let listed = slices("ns/sticky")
        .tcp(8080)
        .endpoints(web.pods.iter().map(|server| &server.pod));
    web.node
        .publish::<Document>("sticky", [sticky.into(), listed.into()])?;
    web.publish_numbers(0..4)?;
    let mut agent = web.node.agent(&[])?;
    let before = json(&web.node, &["service", "list", "-o", "json"])?;
    let sticky = Dial::tcp("10.96.0.20:80".parse()?);
    let pinned = who(&web.client, &sticky, 3)?;
    let vip: SocketAddr = VIP.parse()?;
    let session = web.client.spawn("session", move |control| {
        let socket = Dial::udp(vip).unconnected().open()?;
        while control.hear::<bool>(Duration::from_secs(30))? {
            control.say(&exchange(&socket, vip))?;
        }
        Ok(())
    })?;
    let ask = || -> Result<String> {
        session.tell(&true)?;
        let asked: xtask::lab::traffic::Asked = session.hear(SOON)?;
        Ok(asked?.by)
    };
    let first = ask()?;
    agent.kill9()?;
    agent.restart()?;
    ensure!(
        json(&web.node, &["service", "list", "-o", "json"])? == before,
        "ids changed"
    );
    ensure!(who(&web.client, &sticky, 10)? == pinned, "the pin is lost");
    ensure!(ask()? == first, "the session is lost");
    Ok(())
}

/// Such a socket runs no hook and would send to the VIP for ever. One that is connected to no Service stays.
fn before_attach(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let plain = web.pods[1].pod.v4(8080);
    let mut tasks = Vec::new();
    for vip in [VIP.parse()?, "[fd00:96::a]:80".parse()?, plain] {
        let task = web.client.spawn("early", move |control| {
            let socket = Dial::udp(vip).within(Duration::from_millis(500)).open()?;
            control.say(&peer_of(&socket)?)?;
            while control.hear::<bool>(Duration::from_secs(30))? {
                let sent = socket.send(b"hello").map_err(|error| error.raw_os_error());
                let got = receive(&socket).map_err(|failure| failure.errno);
                control.say(&(sent.err(), got.is_ok(), peer_of(&socket).is_ok()))?;
            }
            Ok(())
        })?;
        ensure!(task.hear::<SocketAddr>(SOON)? == vip);
        tasks.push(task);
    }
    let _agent = web.node.agent(&[])?;
    let look = |index: usize| -> Result<(Option<Option<i32>>, bool, bool)> {
        tasks[index].tell(&true)?;
        tasks[index].hear(SOON)
    };
    for index in [0, 1] {
        eventually(SOON, || match look(index)? {
            (_, _, false) => Ok(()),
            still => bail!("the socket still has its peer: {still:?}"),
        })?;
    }
    ensure!(
        look(2)? == (None, true, true),
        "a socket to no Service was ended"
    );
    // A new socket is translated, and so is the old one when it connects anew.
    soon_who(&web.client, &Dial::udp(VIP.parse()?), 3, &["web-0"])
}

fn wrong_flag(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    for (flag, value) in [
        ("--nodeport-addresses", "10.0.0.0/99"),
        ("--cluster-cidr", "10.0.0.0/8,10.1.0.0/16"),
        ("--detect-local-mode", "Guess"),
    ] {
        let mut agent = node.start_agent(&[flag, value])?;
        ensure!(!agent.wait_end()?.success(), "{flag} {value} was taken");
        let log = agent.log();
        ensure!(log.contains(flag), "the log does not name {flag}: {log}");
    }
    let mut agent = node.start_agent(&["--cgroup-root", "/nowhere"])?;
    ensure!(!agent.wait_end()?.success());
    ensure!(agent.log().contains("/nowhere"), "{}", agent.log());
    Ok(())
}

/// Every frontend is deleted behind the agent's back; its periodic comparison puts them back.
fn repaired(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let agent = web.node.agent(&["--full-check-period", "1s"])?;
    let pin = web.node.bpffs.join("v1/maps/LB4_FRONTENDS");
    let bpftool = |arguments: &[&str]| -> Result<Vec<u8>> {
        let output = Command::new("bpftool")
            .args(arguments)
            .output()
            .context("run bpftool (Debian package bpftool)")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(output.stdout)
    };
    let pin = pin.display().to_string();
    let entries: Value = serde_json::from_slice(&bpftool(&["-j", "map", "dump", "pinned", &pin])?)?;
    let entries = entries.as_array().context("no array of entries")?;
    ensure!(!entries.is_empty());
    for entry in entries {
        let key: Vec<&str> = entry["key"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        bpftool(&[&["map", "delete", "pinned", &pin, "key"], &*key].concat())?;
    }
    soon_who(&web.client, &Dial::tcp(VIP.parse()?), 3, &["web-0"])?;
    ensure!(
        told(&agent, "repairedEntries")? >= 1,
        "the repair was not counted"
    );
    Ok(())
}

fn few_rights(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let launcher = [
        "setpriv",
        "--bounding-set=-sys_resource",
        "prlimit",
        "--memlock=0",
    ];
    let agent = web.node.agent_by(&launcher, &[])?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.context("no CapEff")?.trim(), 16)?;
    ensure!(effective & (1 << 24) == 0, "the agent has CAP_SYS_RESOURCE");
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 3)? == ["web-0"]);
    Ok(())
}

fn no_node_object(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    web.node.withdraw("node")?;
    let _agent = web.node.agent(&[])?;
    ensure!(who(&web.client, &Dial::tcp(VIP.parse()?), 3)? == ["web-0"]);
    Ok(())
}
