//! Every way to reach a Service at the socket: families, protocols, connected or not, from pod and host.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lb_common::socket::PEER_PLACES;
use libtest_mimic::Trial;
use xtask::lab::manifest::{slices, svc};
use xtask::lab::traffic::{Dial, exchange};
use xtask::lab::{Agent, Lab, Node, Pod, Serve, ServeOptions};

use crate::harness::Scene;

const VIP4: &str = "10.96.0.10:80";
const VIP6: &str = "[fd00:96::a]:80";

/// A client and a dual-stack Service, whose one backend is on the other node.
struct Dials {
    _agent: Agent,
    node: Node,
    client: Pod,
    server: Pod,
    _serve: Serve,
}

fn build(lab: &Lab) -> Result<Dials> {
    let (node, other) = (lab.node("node-a")?, lab.node("node-b")?);
    let client = node.pod("client")?;
    let server = other.pod("server")?;
    let options = ServeOptions::new(&[server.v4(8080), server.v6(8080)]);
    let serve = server.serve_with(&options.udp_lite().mptcp())?;
    let web = svc("ns/web")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::a")
        .port("tcp", "TCP", 80)
        .port("udp", "UDP", 80);
    let endpoints = slices("ns/web")
        .port("tcp", "TCP", 8080)
        .port("udp", "UDP", 8080)
        .endpoint(&server);
    node.publish::<xtask::lab::manifest::Document>("web", [web.into(), endpoints.into()])?;
    let agent = node.agent(&[])?;
    Ok(Dials {
        _agent: agent,
        node,
        client,
        server,
        _serve: serve,
    })
}

/// The dials of one family, named.
fn dials(vip: SocketAddr) -> Vec<(&'static str, Dial)> {
    vec![
        ("tcp", Dial::tcp(vip)),
        ("tcp_fast_open", Dial::tcp(vip).fast_open()),
        ("udp_connected", Dial::udp(vip)),
        ("udp_unconnected", Dial::udp(vip).unconnected()),
    ]
}

pub fn trials() -> Vec<Trial> {
    let scene = Scene::new("families", build);
    let [vip4, vip6]: [SocketAddr; 2] = [VIP4, VIP6].map(|vip| vip.parse().expect("an address"));
    let mut trials = Vec::new();
    for (family, vip, is_mapped) in [
        ("v4", vip4, false),
        ("v6", vip6, false),
        ("v4_mapped", vip4, true),
    ] {
        for (protocol, dial) in dials(vip) {
            let dial = if is_mapped { dial.mapped() } else { dial };
            let for_host = dial.clone();
            trials.push(scene.case(
                &format!("a_pod_reaches_a_cluster_ip_over_{protocol}_{family}_and_sees_the_vip"),
                move |scene| from_pod(scene, &dial, vip),
            ));
            trials.push(scene.case(
                &format!("the_host_reaches_a_cluster_ip_over_{protocol}_{family}_and_sees_the_vip"),
                move |scene| from_host(scene, &for_host, vip),
            ));
        }
    }
    trials.extend([
        scene.case("a_socket_bound_to_the_pods_address_keeps_it", bound),
        scene.case("one_process_uses_every_family_at_once", one_process),
        scene.case(
            "more_sockets_than_there_are_places_each_show_what_they_dialled",
            more_than_places,
        ),
        scene.case("udp_lite_reaches_a_cluster_ip_by_sendto", udp_lite),
        scene.case("multipath_tcp_reaches_a_cluster_ip", mptcp),
        scene.case(
            "a_destination_that_is_no_service_stays_as_it_is",
            not_a_service,
        ),
        scene.case("ping_sockets_are_left_alone", ping),
    ]);
    trials
}

fn from_pod(scene: &Dials, dial: &Dial, vip: SocketAddr) -> Result<()> {
    let answer = scene.client.ask(dial)??;
    let own = scene.client.addresses[usize::from(vip.is_ipv6())];
    ensure!(answer.by == "server" && answer.peer == vip, "{answer:?}");
    ensure!(
        answer.client.ip() == own,
        "the client's address changed: {answer:?}"
    );
    Ok(())
}

fn from_host(scene: &Dials, dial: &Dial, vip: SocketAddr) -> Result<()> {
    let answer = scene.node.host.ask(dial)??;
    let own = scene.node.host.addresses[usize::from(vip.is_ipv6())];
    ensure!(answer.by == "server" && answer.peer == vip, "{answer:?}");
    ensure!(
        answer.client.ip() == own,
        "the client's address changed: {answer:?}"
    );
    Ok(())
}

fn bound(scene: &Dials) -> Result<()> {
    for (index, vip) in [VIP4, VIP6].into_iter().enumerate() {
        let vip: SocketAddr = vip.parse()?;
        for dial in [Dial::tcp(vip), Dial::udp(vip), Dial::udp(vip).unconnected()] {
            let own = scene.client.addresses[index];
            let answer = scene
                .client
                .ask(&dial.clone().bound_to(own))?
                .with_context(|| format!("{dial}"))?;
            ensure!(
                answer.peer == vip && answer.client.ip() == own,
                "{dial}: {answer:?}"
            );
        }
    }
    Ok(())
}

fn one_process(scene: &Dials) -> Result<()> {
    let (vip4, vip6): (SocketAddr, SocketAddr) = (VIP4.parse()?, VIP6.parse()?);
    scene.client.exec(|| {
        let dials = [(vip4, false), (vip6, false), (vip4, true)].map(|(vip, is_mapped)| {
            let dial = Dial::udp(vip).unconnected();
            (vip, is_mapped, if is_mapped { dial.mapped() } else { dial })
        });
        let mut sockets = Vec::new();
        for (vip, is_mapped, dial) in &dials {
            let to = if *is_mapped { mapped(*vip) } else { *vip };
            sockets.push((dial.open()?, *vip, to));
        }
        for _ in 0..3 {
            for (socket, vip, to) in &sockets {
                let answer = exchange(socket, *to)?;
                ensure!(answer.peer == *vip, "{answer:?}");
            }
        }
        Ok(())
    })
}

/// Sockets that stay open hold their places, which are met again after as many cookies as there are places: the
/// sockets that get those have storage instead.
fn more_than_places(scene: &Dials) -> Result<()> {
    let vip: SocketAddr = VIP4.parse()?;
    let direct = scene.server.v4(8080);
    scene.client.exec(|| {
        let dial = |to| -> Result<UdpSocket> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            ensure!(socket.peer_addr()? == to, "shows {:?}", socket.peer_addr());
            Ok(socket)
        };
        let held = (0..300).map(|_| dial(vip)).collect::<Result<Vec<_>>>()?;
        for _ in 0..2 * PEER_PLACES {
            let socket = dial(vip)?;
            socket.connect(direct)?;
            ensure!(socket.peer_addr()? == direct, "the VIP was not forgotten");
        }
        for socket in held {
            ensure!(socket.peer_addr()? == vip, "a place was taken away");
        }
        Ok(())
    })
}

/// An IPv4 destination as an IPv6 socket writes it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

/// UDP-Lite has no connect hook in the kernel: it is translated datagram by datagram.
fn udp_lite(scene: &Dials) -> Result<()> {
    for vip in [VIP4, VIP6] {
        let vip: SocketAddr = vip.parse()?;
        let answer = scene.client.ask(&Dial::udp_lite(vip).unconnected())??;
        ensure!(answer.by == "server" && answer.peer == vip, "{answer:?}");
    }
    Ok(())
}

/// getpeername runs on the Multipath TCP socket, connect on its subflow: the peer may show as the backend.
fn mptcp(scene: &Dials) -> Result<()> {
    for (vip, backend) in [(VIP4, scene.server.v4(8080)), (VIP6, scene.server.v6(8080))] {
        let vip: SocketAddr = vip.parse()?;
        let answer = scene.client.ask(&Dial::mptcp(vip))??;
        ensure!(answer.by == "server", "{answer:?}");
        ensure!([vip, backend].contains(&answer.peer), "{answer:?}");
    }
    Ok(())
}

fn not_a_service(scene: &Dials) -> Result<()> {
    for to in [scene.server.v4(8080), scene.server.v6(8080)] {
        for dial in [
            Dial::tcp(to),
            Dial::udp(to),
            Dial::udp(to).unconnected(),
            Dial::udp_lite(to),
        ] {
            let answer = scene.client.ask(&dial)??;
            ensure!(
                answer.by == "server" && answer.peer == to,
                "{dial}: {answer:?}"
            );
        }
    }
    Ok(())
}

/// An ICMP socket runs the connect hook like any other: it must connect, and to the VIP itself.
fn ping(scene: &Dials) -> Result<()> {
    scene
        .client
        .netns
        .sysctl("net.ipv4.ping_group_range", "0 0")?;
    for vip in [VIP4, VIP6] {
        let vip: SocketAddr = vip.parse()?;
        let peer = scene.client.exec(|| {
            let protocol = match vip {
                SocketAddr::V4(_) => socket2::Protocol::ICMPV4,
                SocketAddr::V6(_) => socket2::Protocol::ICMPV6,
            };
            let kind = socket2::Type::DGRAM;
            let socket =
                socket2::Socket::new(socket2::Domain::for_address(vip), kind, Some(protocol))?;
            socket.connect(&vip.into())?;
            Ok(socket.peer_addr()?.as_socket().context("no address")?.ip())
        })?;
        ensure!(peer == vip.ip(), "the ping socket's peer is {peer}");
    }
    Ok(())
}
