//! Unconnected UDP: one socket, several Services, and a backend that stays as long as it serves.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use xtask::lab::manifest::{Document, SliceManifest, slices, svc};
use xtask::lab::traffic::{Dial, exchange, peer_of, receive};
use xtask::lab::{ELSEWHERE, Lab};

use crate::harness::{case, counted, servers};

pub const DNS4: &str = "10.96.0.53:53";
pub const DNS6: &str = "[fd00:96::53]:53";
const LOG4: &str = "10.96.0.54:53";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("datagrams", name, test);
    vec![
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
        case(
            "a_connected_socket_that_names_its_service_stays_with_its_backend",
            named_again,
        ),
    ]
}

/// A dual-stack UDP Service on port 53.
pub fn dns(name: &str, v4: &str, v6: &str) -> Document {
    svc(name).cluster_ip(v4).cluster_ip(v6).udp(53).into()
}

/// Its endpoints, without any.
pub fn dns_slices(name: &str) -> SliceManifest {
    slices(name).udp(5353)
}

/// Two Services with the same endpoints: a reply's source alone does not tell which of them was asked.
pub fn twins(
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
    client.exec(|| {
        let socket = Dial::udp(first).unconnected().open()?;
        for vip in [first, second, first, first, second] {
            let shown = exchange(&socket, vip)?.peer;
            ensure!(
                shown == vip,
                "wrote to {vip} last, the answer shows {shown}"
            );
        }
        Ok(())
    })?;
    ensure!(
        counted(&agent, "revnat_conflict")? >= 1,
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

/// The kernel delivers to a connected socket from its peer alone: another backend's answer would be lost.
fn named_again(lab: &Lab) -> Result<()> {
    let (node, client, _pods) = twins(lab, 2)?;
    let _agent = node.agent(&[])?;
    let (v4, v6): (SocketAddr, SocketAddr) = (DNS4.parse()?, DNS6.parse()?);
    client.exec(|| {
        for (to, dial) in [
            (v4, Dial::udp(v4)),
            (v6, Dial::udp(v6)),
            (v4, Dial::udp(v4).mapped()),
        ] {
            for _ in 0..6 {
                let socket = dial.open()?;
                let name = peer_of(&socket)?;
                socket.send_to(b"hello", &name.into())?;
                let (_, from) = receive(&socket)?;
                ensure!(
                    from.ip().to_canonical() == to.ip(),
                    "sent to {to} on a socket connected to it, the answer shows {from}"
                );
            }
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
