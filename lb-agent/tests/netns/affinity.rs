//! `sessionAffinity: ClientIP` (rules 70 to 76). One client is one network namespace.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::lab::manifest::{Document, ServiceManifest, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, Node, Pod};

use crate::harness::{SOON, Server, case, counted, eventually, servers, soon_who, who};

const NAMES: [&str; 4] = ["web-0", "web-1", "web-2", "web-3"];
const CLUSTER_IP: &str = "10.96.0.10:80";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("affinity", name, test);
    vec![
        case("a_client_sticks_to_its_backend_and_clients_spread", sticks),
        case("all_frontends_of_a_service_port_share_the_pin", shared),
        case("service_ports_and_families_are_pinned_apart", apart),
        case("a_pin_ends_after_the_timeout_without_connections", expires),
        case("each_connection_prolongs_the_pin", prolonged),
        case(
            "a_pinned_backend_that_leaves_is_replaced_and_pinned_anew",
            repinned,
        ),
        case("affinity_can_be_switched_on_and_off", switched),
    ]
}

struct Sticky {
    node: Node,
    clients: [Pod; 2],
    pods: [Server; 4],
}

impl Sticky {
    fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("node-a")?;
        let clients = [node.pod("client-0")?, node.pod("client-1")?];
        let pods = servers(&node, NAMES, 8080)?;
        Ok(Self {
            node,
            clients,
            pods,
        })
    }

    fn publish(&self, service: ServiceManifest, leaving: Option<&str>) -> Result<()> {
        let stay = self
            .pods
            .iter()
            .filter(|server| Some(server.pod.name.as_str()) != leaving);
        let listed = slices("ns/web")
            .port("tcp", "TCP", 8080)
            .port("udp", "UDP", 8080);
        let listed = listed.endpoints(stay.map(|server| &server.pod));
        self.node
            .publish::<Document>("web", [service.into(), listed.into()])
    }
}

fn service() -> ServiceManifest {
    svc("ns/web")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::a")
        .port("tcp", "TCP", 80)
        .node_port(30080)
        .port("udp", "UDP", 80)
        .external_ip("198.51.100.8")
}

/// The one server that answers `count` dials to `to`.
fn only(pod: &Pod, to: &str, count: usize) -> Result<String> {
    let mut seen = who(pod, &Dial::tcp(to.parse()?), count)?;
    ensure!(seen.len() == 1, "{} is answered by {seen:?}", pod.name);
    seen.pop().context("nobody")
}

fn sticks(lab: &Lab) -> Result<()> {
    let sticky = Sticky::new(lab)?;
    sticky.publish(service().affinity(60), None)?;
    let agent = sticky.node.agent(&[])?;
    let first = only(&sticky.clients[0], CLUSTER_IP, 20)?;
    ensure!(
        first == only(&sticky.clients[0], CLUSTER_IP, 20)?,
        "another process is the same client"
    );
    ensure!(counted(&agent, "hit_pinned")? >= 39);
    // Sixteen clients on four backends see one alone only once in 4^15.
    let mut seen = std::collections::BTreeSet::from([first]);
    for number in 0..15 {
        let client = sticky.node.pod(&format!("more-{number}"))?;
        seen.insert(only(&client, CLUSTER_IP, 3)?);
    }
    ensure!(seen.len() > 1, "all clients are pinned to {seen:?}");
    Ok(())
}

/// Rule 70: the destination is no part of the key.
fn shared(lab: &Lab) -> Result<()> {
    let sticky = Sticky::new(lab)?;
    sticky.publish(service().affinity(60), None)?;
    let _agent = sticky.node.agent(&[])?;
    let node_port = sticky.node.host.v4(30080).to_string();
    for client in &sticky.clients {
        let pinned = only(client, CLUSTER_IP, 5)?;
        for to in ["198.51.100.8:80", &node_port] {
            ensure!(only(client, to, 10)? == pinned, "{to}");
        }
    }
    Ok(())
}

/// TCP, UDP, IPv4 and IPv6 hold four pins. Sixteen clients pinned alike four times over would be no chance.
fn apart(lab: &Lab) -> Result<()> {
    let sticky = Sticky::new(lab)?;
    sticky.publish(service().affinity(60), None)?;
    let _agent = sticky.node.agent(&[])?;
    let mut differing = 0;
    for number in 0..16 {
        let client = sticky.node.pod(&format!("more-{number}"))?;
        let dials = [
            Dial::tcp(CLUSTER_IP.parse()?),
            Dial::tcp("[fd00:96::a]:80".parse()?),
            Dial::udp(CLUSTER_IP.parse()?),
            Dial::udp(CLUSTER_IP.parse()?).unconnected(),
        ];
        let mut pins = Vec::new();
        for dial in &dials {
            let seen = who(&client, dial, 5)?;
            ensure!(seen.len() == 1, "{dial} is answered by {seen:?}");
            pins.extend(seen);
        }
        ensure!(
            pins[2] == pins[3],
            "rule 76: connected and unconnected UDP share the pin"
        );
        differing += usize::from(pins[0] != pins[1] || pins[0] != pins[2]);
    }
    ensure!(differing > 0, "every client has one pin for everything");
    Ok(())
}

/// Of thirty pins taken after the timeout all would fall on the old backend once in 4^30.
fn expires(lab: &Lab) -> Result<()> {
    let sticky = Sticky::new(lab)?;
    sticky.publish(service().affinity(2), None)?;
    let _agent = sticky.node.agent(&[])?;
    let mut clients = Vec::new();
    for number in 0..12 {
        let client = sticky.node.pod(&format!("more-{number}"))?;
        let pinned = only(&client, CLUSTER_IP, 3)?;
        clients.push((client, pinned));
    }
    thread::sleep(Duration::from_millis(2200));
    let mut moved = 0;
    for (client, pinned) in &clients {
        moved += usize::from(only(client, CLUSTER_IP, 3)? != *pinned);
    }
    ensure!(moved > 0, "no pin of {} ended", clients.len());
    Ok(())
}

/// Rule 71: the timeout counts from the last connection, not from the first.
fn prolonged(lab: &Lab) -> Result<()> {
    let sticky = Sticky::new(lab)?;
    sticky.publish(service().affinity(3), None)?;
    let _agent = sticky.node.agent(&[])?;
    let start = Instant::now();
    let mut pins = Vec::new();
    while start.elapsed() < Duration::from_secs(5) {
        for client in &sticky.clients {
            pins.push((client.name.clone(), only(client, CLUSTER_IP, 1)?));
        }
        thread::sleep(Duration::from_millis(300));
    }
    pins.sort();
    pins.dedup();
    ensure!(pins.len() == sticky.clients.len(), "{pins:?}");
    Ok(())
}

/// Rule 72.
fn repinned(lab: &Lab) -> Result<()> {
    let sticky = Sticky::new(lab)?;
    sticky.publish(service().affinity(60), None)?;
    let _agent = sticky.node.agent(&[])?;
    let client = &sticky.clients[0];
    let first = only(client, CLUSTER_IP, 5)?;
    sticky.publish(service().affinity(60), Some(&first))?;
    eventually(SOON, || {
        ensure!(only(client, CLUSTER_IP, 1)? != first, "still at {first}");
        Ok(())
    })?;
    let second = only(client, CLUSTER_IP, 20)?;
    sticky.publish(service().affinity(60), None)?;
    // A client without a pin shows that the endpoint is back.
    eventually(SOON, || {
        let fresh = sticky.node.pod("fresh")?;
        ensure!(only(&fresh, CLUSTER_IP, 1)? == first, "{first} is not back");
        Ok(())
    })?;
    ensure!(
        only(client, CLUSTER_IP, 20)? == second,
        "the new pin does not hold"
    );
    Ok(())
}

/// Rule 74.
fn switched(lab: &Lab) -> Result<()> {
    let sticky = Sticky::new(lab)?;
    sticky.publish(service(), None)?;
    let _agent = sticky.node.agent(&[])?;
    let client = &sticky.clients[0];
    let dial = Dial::tcp(CLUSTER_IP.parse()?);
    soon_who(client, &dial, 60, &NAMES)?;
    sticky.publish(service().affinity(60), None)?;
    eventually(SOON, || only(client, CLUSTER_IP, 20))?;
    sticky.publish(service(), None)?;
    soon_who(client, &dial, 60, &NAMES)
}
