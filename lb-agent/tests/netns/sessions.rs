//! Unconnected UDP keeps its backend per socket and VIP, as long as the backend serves.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use xtask::lab::manifest::{Document, endpoint};
use xtask::lab::traffic::{Asked, Dial, Failure, exchange};
use xtask::lab::{Lab, Place};

use crate::datagrams::{DNS4, DNS6, dns, dns_slices, twins};
use crate::harness::{SOON, case, eventually, servers};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("sessions", name, test);
    vec![
        case(
            "an_unconnected_socket_keeps_its_backend_and_others_spread",
            keeps_its_backend,
        ),
        case(
            "an_unconnected_socket_leaves_a_backend_that_no_longer_serves",
            leaves_a_dead_backend,
        ),
        case(
            "an_unconnected_socket_stays_with_a_draining_backend",
            stays_while_draining,
        ),
        case("a_flow_to_a_deleted_service_ends", deleted_service),
    ]
}

fn keeps_its_backend(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let client = node.pod("client")?;
    let pods = servers(&node, ["dns-0", "dns-1", "dns-2"], 5353)?;
    let endpoints = dns_slices("ns/dns").endpoints(pods.iter().map(|server| &server.pod));
    node.publish::<Document>(
        "dns",
        [dns("ns/dns", "10.96.0.53", "fd00:96::53"), endpoints.into()],
    )?;
    let _agent = node.agent(&[])?;
    for vip in [DNS4, DNS6] {
        let vip: SocketAddr = vip.parse()?;
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            let of_one_socket = client.exec(|| conversation(vip, 10))?;
            ensure!(
                of_one_socket.len() == 1,
                "one socket was answered by {of_one_socket:?}"
            );
            seen.extend(of_one_socket);
        }
        ensure!(seen.len() == 3, "20 sockets saw only {seen:?}");
    }
    Ok(())
}

/// Who answers `count` datagrams of one socket. Every answer must show the VIP.
fn conversation(vip: SocketAddr, count: usize) -> Result<BTreeSet<String>> {
    let socket = Dial::udp(vip).unconnected().open()?;
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        let answer = exchange(&socket, vip)?;
        ensure!(answer.peer == vip, "{answer:?}");
        seen.insert(answer.by);
    }
    Ok(seen)
}

/// A socket in `place` that asks `vip` whenever it is told to.
fn asker(place: &Place, vip: SocketAddr) -> Result<xtask::lab::Task<()>> {
    place.spawn("asker", move |control| {
        let socket = Dial::udp(vip)
            .unconnected()
            .within(Duration::from_secs(1))
            .open()?;
        while control.hear::<bool>(Duration::from_secs(30))? {
            control.say(&exchange(&socket, vip))?;
        }
        Ok(())
    })
}

fn ask(task: &xtask::lab::Task<()>) -> Result<Asked> {
    task.tell(&true)?;
    task.hear(Duration::from_secs(5))
}

fn leaves_a_dead_backend(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let client = node.pod("client")?;
    let pods = servers(&node, ["dns-0", "dns-1"], 5353)?;
    let service = || dns("ns/dns", "10.96.0.53", "fd00:96::53");
    let endpoints = dns_slices("ns/dns").endpoints(pods.iter().map(|server| &server.pod));
    node.publish::<Document>("dns", [service(), endpoints.into()])?;
    let _agent = node.agent(&[])?;
    let vip: SocketAddr = DNS4.parse()?;
    let asker = asker(&client, vip)?;
    let first = ask(&asker)??.by;
    let Some(other) = pods.iter().find(|server| server.pod.name != first) else {
        bail!("answered by {first}");
    };
    // Both servers still run: only the endpoint leaves.
    node.publish::<Document>(
        "dns",
        [service(), dns_slices("ns/dns").endpoint(&other.pod).into()],
    )?;
    eventually(SOON, || {
        let answer = ask(&asker)??;
        ensure!(
            answer.by == other.pod.name,
            "still answered by {}",
            answer.by
        );
        ensure!(answer.peer == vip, "{answer:?}");
        Ok(())
    })
}

fn stays_while_draining(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let client = node.pod("client")?;
    let pods = servers(&node, ["dns-0", "dns-1"], 5353)?;
    let service = || dns("ns/dns", "10.96.0.53", "fd00:96::53");
    let endpoints = dns_slices("ns/dns").endpoints(pods.iter().map(|server| &server.pod));
    node.publish::<Document>("dns", [service(), endpoints.into()])?;
    let _agent = node.agent(&[])?;
    let vip: SocketAddr = DNS4.parse()?;
    let asker = asker(&client, vip)?;
    let first = ask(&asker)??.by;
    let endpoints = pods.iter().map(|server| {
        let listed = endpoint(&server.pod, &server.pod.node);
        if server.pod.name == first {
            listed.terminating(true)
        } else {
            listed
        }
    });
    node.publish::<Document>(
        "dns",
        [service(), dns_slices("ns/dns").endpoints(endpoints).into()],
    )?;
    // New sockets leave the draining backend, which shows that the change has arrived.
    eventually(SOON, || {
        for _ in 0..8 {
            let by = client.exec(|| conversation(vip, 1))?;
            ensure!(!by.contains(&first), "new sockets still reach {first}");
        }
        Ok(())
    })?;
    for _ in 0..5 {
        let answer = ask(&asker)??;
        ensure!(
            answer.by == first,
            "rule 90: the flow went from {first} to {}",
            answer.by
        );
    }
    Ok(())
}

/// Rule 92: once the Service is gone its flows end; nothing goes to the old backend.
fn deleted_service(lab: &Lab) -> Result<()> {
    let (node, client, _pods) = twins(lab, 2)?;
    node.publish(
        "cidr",
        [xtask::lab::manifest::service_cidr(
            "services",
            &xtask::lab::SERVICE_CIDRS,
        )],
    )?;
    let _agent = node.agent(&[])?;
    let asker = asker(&client, DNS4.parse()?)?;
    ask(&asker)??;
    node.withdraw("twins")?;
    eventually(SOON, || match ask(&asker)? {
        Err(Failure {
            call,
            errno: libc::EHOSTUNREACH,
        }) if call == "sendto" => Ok(()),
        other => bail!("{other:?}"),
    })
}
