//! Four who may hold the tuple of a masqueraded flow: an older socket of the host, one that binds later, one in TIME_WAIT,
//! and a pod that a CNI's rules masquerade. Connections of none are harmed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::Trial;
use socket2::{Domain, Protocol, Socket, Type};
use xtask::lab::traffic::{Dial, read_line};
use xtask::lab::{CLUSTER_CIDR, Lab, Place, Task};

use crate::harness::{SOON, case, case_with, counted};
use crate::packets::{Scene, service};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("colliders", name, test);
    vec![
        case(
            "masqueraded_flows_keep_off_ports_of_older_host_connections",
            older,
        ),
        case(
            "masqueraded_flows_keep_off_ports_that_are_bound_later",
            bound_later,
        ),
        case("masqueraded_flows_keep_off_ports_in_time_wait", time_wait),
        case(
            "a_host_connection_with_the_tuple_of_a_flow_is_moved",
            connected_later,
        ),
        case_with(
            "nft",
            "colliders",
            "a_masqueraded_pod_with_the_tuple_of_a_flow_is_moved",
            masqueraded_pod,
        ),
    ]
}

/// The ports of masqueraded flows: few, so that half of them can be held.
const RANGE: &str = "45000-46023";
const FIRST: u16 = 45_000;
/// Flows of each test: if they did not look, one in 2^24 runs would find only free ports.
const FLOWS: usize = 24;

/// The ports that are held: every second one.
fn held() -> impl Iterator<Item = u16> {
    (FIRST..FIRST + 1024).step_by(2)
}

fn flags() -> [&'static str; 4] {
    ["--snat-ports", RANGE, "--cluster-cidr", CLUSTER_CIDR]
}

fn scene(lab: &Lab) -> Result<Scene> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), false, true)?;
    Ok(scene)
}

/// The node's ports that the backend saw clients outside come from.
fn ports_seen(scene: &Scene, dial: &Dial) -> Result<BTreeSet<u16>> {
    let ports = scene
        .outside
        .ask_many(dial, FLOWS)?
        .into_iter()
        .map(|asked| {
            let answer = asked.map_err(|failure| anyhow!("{dial}: {failure}"))?;
            let port = answer.client.port();
            ensure!(
                (FIRST..FIRST + 1024).contains(&port),
                "{dial} came from port {port}"
            );
            Ok(port)
        });
    ports.collect()
}

fn keep_off(scene: &Scene, dial: &Dial) -> Result<()> {
    let taken: BTreeSet<u16> = held().collect();
    let seen = ports_seen(scene, dial)?;
    let both: Vec<&u16> = seen.intersection(&taken).collect();
    ensure!(both.is_empty(), "{dial}: flows got held ports {both:?}");
    Ok(())
}

fn tcp_from(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    // Bounds connect as well.
    socket.set_write_timeout(Some(Duration::from_secs(3)))?;
    socket
        .bind(&from.into())
        .with_context(|| format!("bind {from}"))?;
    socket
        .connect(&to.into())
        .with_context(|| format!("connect from {from}"))?;
    read_line(&socket).map_err(|failure| anyhow!("from {from}: {failure}"))?;
    Ok(socket.into())
}

fn echo(mut stream: &TcpStream) -> Result<()> {
    let mut word = [0; 5];
    stream.write_all(b"again")?;
    stream.read_exact(&mut word).context("no echo")?;
    ensure!(&word == b"again");
    Ok(())
}

/// Connections from every held port of the host to the backend itself. Told so, they are used again.
fn hold(host: &Place, family: usize, backend: SocketAddr) -> Result<Task<usize>> {
    let own = host.addresses[family];
    let task = host.spawn("holder", move |control| {
        let streams: Result<Vec<TcpStream>> = held()
            .map(|port| tcp_from(SocketAddr::new(own, port), backend))
            .collect();
        let streams = streams?;
        control.say(&true)?;
        let _told: bool = control.hear(Duration::from_secs(60))?;
        for stream in &streams {
            echo(stream)?;
        }
        Ok(streams.len())
    })?;
    task.hear::<bool>(Duration::from_secs(20))?;
    Ok(task)
}

fn backend(scene: &Scene, family: usize) -> SocketAddr {
    SocketAddr::new(scene.remote[0].pod.addresses[family], 8080)
}

fn older(lab: &Lab) -> Result<()> {
    let scene = scene(lab)?;
    let hosts = [0, 1].map(|family| hold(&scene.node.host, family, backend(&scene, family)));
    let agent = scene.node.agent(&flags())?;
    for (node, host) in scene.node.host.addresses.into_iter().zip(hosts) {
        let host = host?;
        keep_off(&scene, &Dial::tcp(SocketAddr::new(node, 30080)))?;
        host.tell(&true)?;
        ensure!(host.join(SOON)? == held().count());
    }
    ensure!(counted(&agent, "host_port_moved")? == 0);
    Ok(())
}

/// A lookup does not find these: they have no peer, and are bound to another address.
fn bound_later(lab: &Lab) -> Result<()> {
    let scene = scene(lab)?;
    let _agent = scene.node.agent(&flags())?;
    for (node, any) in scene
        .node
        .host
        .addresses
        .into_iter()
        .zip(["127.0.0.1", "::1"])
    {
        let any: IpAddr = any.parse()?;
        let binder = scene.node.host.spawn("binder", move |control| {
            let bound: std::io::Result<Vec<UdpSocket>> = held()
                .map(|port| UdpSocket::bind(SocketAddr::new(any, port)))
                .collect();
            let bound = bound?;
            control.say(&true)?;
            control.wait_for_stop(Duration::from_secs(60));
            Ok(bound.len())
        })?;
        binder.hear::<bool>(SOON)?;
        keep_off(&scene, &Dial::udp(SocketAddr::new(node, 30081)))?;
        binder.finish(SOON)?;
    }
    Ok(())
}

fn time_wait(lab: &Lab) -> Result<()> {
    let scene = scene(lab)?;
    for family in [0, 1] {
        // It closes first, so that its end is the one that waits.
        let host = hold(&scene.node.host, family, backend(&scene, family))?;
        host.tell(&true)?;
        host.join(SOON)?;
    }
    let _agent = scene.node.agent(&flags())?;
    for node in scene.node.host.addresses {
        keep_off(&scene, &Dial::tcp(SocketAddr::new(node, 30080)))?;
    }
    Ok(())
}

/// A connection of a client outside that stays; told so, it is used again. The port that the backend sees.
fn flow(scene: &Scene, family: usize) -> Result<(Task<bool>, u16)> {
    let to = SocketAddr::new(scene.node.host.addresses[family], 30080);
    let task = scene.outside.spawn("flow", move |control| {
        let socket = Dial::tcp(to)
            .open()
            .map_err(|failure| anyhow!("{failure}"))?;
        let line = read_line(&socket).map_err(|failure| anyhow!("{failure}"))?;
        let stream: TcpStream = socket.into();
        // Established for our table, too, before anyone else comes.
        echo(&stream)?;
        control.say(&line)?;
        let _told: bool = control.hear(Duration::from_secs(60))?;
        echo(&stream)?;
        Ok(true)
    })?;
    let line: String = task.hear(SOON)?;
    let (_, client) = line.split_once(' ').context("no client")?;
    let client: SocketAddr = client.parse()?;
    Ok((task, client.port()))
}

fn moved(lab: &Lab, rules: &str, from: fn(&Scene) -> &Place) -> Result<()> {
    let scene = scene(lab)?;
    if !rules.is_empty() {
        scene.node.host.netns.nft(rules)?;
    }
    let agent = scene.node.agent(&flags())?;
    for family in [0, 1] {
        let (kept, port) = flow(&scene, family)?;
        let place = from(&scene);
        let (own, to) = (
            SocketAddr::new(place.addresses[family], port),
            backend(&scene, family),
        );
        place.exec(|| echo(&tcp_from(own, to)?))?;
        kept.tell(&true)?;
        kept.join(SOON).context("the flow that was there")?;
    }
    ensure!(counted(&agent, "host_port_moved")? == 2);
    Ok(())
}

fn connected_later(lab: &Lab) -> Result<()> {
    moved(lab, "", |scene| &scene.node.host)
}

/// As many plugins masquerade what pods send out of the cluster, here to all that is not on this node.
pub const MASQUERADE: &str = "table inet plugin {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.244.1.0/24 ip daddr != 10.244.1.0/24 oifname \"eth0\" masquerade
    ip6 saddr fd00:244:1::/64 ip6 daddr != fd00:244:1::/64 oifname \"eth0\" masquerade
  }
}
";

/// The pod binds the port of the flow, and netfilter sees no reason to change it.
fn masqueraded_pod(lab: &Lab) -> Result<()> {
    moved(lab, MASQUERADE, |scene| &scene.local[0].pod)
}
