//! Unconnected UDP: one socket, several Services, and a backend that stays as long as it serves.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use xtask::lab::manifest::{Document, SliceManifest, endpoint, slices, svc};
use xtask::lab::traffic::{Asked, Dial, Failure, exchange, peer_of, receive};
use xtask::lab::{ELSEWHERE, Lab, Place};

use crate::harness::{SOON, case, counted, eventually, servers};

const DNS4: &str = "10.96.0.53:53";
const DNS6: &str = "[fd00:96::53]:53";
const LOG4: &str = "10.96.0.54:53";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("datagrams", name, test);
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
        case("two_vips_of_one_socket_pick_different_backends", two_vips),
        case(
            "two_vips_with_one_backend_show_the_last_one_written_and_are_counted",
            one_backend,
        ),
        case(
            "a_reply_from_elsewhere_shows_where_it_came_from",
            from_elsewhere,
        ),
        case(
            "one_socket_talks_to_a_service_and_to_others",
            service_and_others,
        ),
        case("a_socket_connected_anew_shows_its_new_peer", connected_anew),
        case("a_flow_to_a_deleted_service_ends", deleted_service),
    ]
}

/// A dual-stack UDP Service on port 53.
fn dns(name: &str, v4: &str, v6: &str) -> Document {
    svc(name).cluster_ip(v4).cluster_ip(v6).udp(53).into()
}

/// Its endpoints, without any.
fn dns_slices(name: &str) -> SliceManifest {
    slices(name).udp(5353)
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

/// Two Services with the same endpoints: a reply's source alone does not tell which of them was asked.
fn twins(
    lab: &Lab,
    backends: usize,
) -> Result<(
    xtask::lab::Node,
    xtask::lab::Pod,
    Vec<crate::harness::Server>,
)> {
    let node = lab.node("node-a")?;
    let client = node.pod("client")?;
    let pods: Vec<_> = servers(&node, ["dns-0", "dns-1"], 5353)?
        .into_iter()
        .take(backends)
        .collect();
    let listed = |name: &str| dns_slices(name).endpoints(pods.iter().map(|server| &server.pod));
    let documents = [
        dns("ns/dns", "10.96.0.53", "fd00:96::53"),
        listed("ns/dns").into(),
        dns("ns/log", "10.96.0.54", "fd00:96::54"),
        listed("ns/log").into(),
    ];
    node.publish("twins", documents)?;
    Ok((node, client, pods))
}

fn two_vips(lab: &Lab) -> Result<()> {
    let (node, client, _pods) = twins(lab, 2)?;
    let _agent = node.agent(&[])?;
    for (first, second) in [(DNS4, LOG4), (DNS6, "[fd00:96::54]:53")] {
        let (first, second): (SocketAddr, SocketAddr) = (first.parse()?, second.parse()?);
        client.exec(|| {
            for _ in 0..30 {
                let socket = Dial::udp(first).unconnected().open()?;
                let mut backends = BTreeSet::new();
                for vip in [first, second, first, second] {
                    let answer = exchange(&socket, vip)?;
                    ensure!(
                        answer.peer == vip,
                        "asked {vip}, the answer shows {}",
                        answer.peer
                    );
                    backends.insert((vip, answer.by));
                }
                ensure!(
                    backends.len() == 2,
                    "a VIP changed its backend: {backends:?}"
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn one_backend(lab: &Lab) -> Result<()> {
    let (node, client, _pods) = twins(lab, 1)?;
    let agent = node.agent(&[])?;
    let (first, second): (SocketAddr, SocketAddr) = (DNS4.parse()?, LOG4.parse()?);
    let shown = client.exec(|| {
        let socket = Dial::udp(first).unconnected().open()?;
        Ok([
            exchange(&socket, first)?.peer,
            exchange(&socket, second)?.peer,
        ])
    })?;
    ensure!(shown == [first, second], "{shown:?}");
    ensure!(
        counted(&agent, "revnat_conflict")? >= 1.0,
        "no conflict was counted"
    );
    Ok(())
}

fn from_elsewhere(lab: &Lab) -> Result<()> {
    let (node, client, pods) = twins(lab, 1)?;
    let _agent = node.agent(&[])?;
    for (vip, index) in [(DNS4, 0), (DNS6, 1)] {
        let dial = Dial::udp(vip.parse()?).unconnected().saying(ELSEWHERE);
        let answer = client.ask(&dial)??;
        ensure!(
            answer.peer.ip() == pods[0].pod.addresses[index],
            "{answer:?}"
        );
        ensure!(![53, 5353].contains(&answer.peer.port()), "{answer:?}");
    }
    Ok(())
}

fn service_and_others(lab: &Lab) -> Result<()> {
    let (node, client, _pods) = twins(lab, 2)?;
    let stranger = node.pod("stranger")?;
    let _serve = stranger.serve(5353)?;
    let _agent = node.agent(&[])?;
    let (vip, plain): (SocketAddr, SocketAddr) = (DNS4.parse()?, stranger.v4(5353));
    client.exec(|| {
        let socket = Dial::udp(vip).unconnected().open()?;
        for to in [vip, plain, vip, plain] {
            let answer = exchange(&socket, to)?;
            ensure!(
                answer.peer == to,
                "asked {to}, the answer shows {}",
                answer.peer
            );
        }
        Ok(())
    })
}

fn connected_anew(lab: &Lab) -> Result<()> {
    let (node, client, pods) = twins(lab, 2)?;
    let _agent = node.agent(&[])?;
    let plain = pods[0].pod.v4(5353);
    let (first, second): (SocketAddr, SocketAddr) = (DNS4.parse()?, LOG4.parse()?);
    client.exec(|| {
        let socket = Dial::udp(first).open()?;
        for to in [first, second, plain, first] {
            socket.connect(&to.into())?;
            ensure!(
                peer_of(&socket)? == to,
                "connected to {to}, the peer is {}",
                peer_of(&socket)?
            );
            socket.send(b"hello")?;
            let (_, from) = receive(&socket)?;
            ensure!(from == to, "connected to {to}, the answer shows {from}");
        }
        Ok(())
    })
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
