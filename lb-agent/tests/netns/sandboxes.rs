//! Pods whose sockets are not this kernel's (`--pod-devices`), and protocols that have no hook: they are met as packets.
//! A pod of a cgroup beside the node's stands for a virtual machine: no hook of the node sees it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lb_common::csum;
use libtest_mimic::Trial;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use xtask::lab::manifest::{Document, endpoint, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{CLUSTER_CIDR, Lab, Node, Place, Pod, Serve, Task};

use crate::harness::{SOON, Server, case, counted, errno, eventually, servers, soon_who};
use crate::packets::{CLUSTER_IP, HIDDEN, addresses, answered};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("sandboxes", name, test);
    vec![
        case(
            "a_sandbox_reaches_cluster_ips_here_and_elsewhere_with_its_own_address",
            cluster_ips,
        ),
        case(
            "a_sandbox_that_is_its_own_backend_sees_the_address_that_nobody_has",
            hairpin,
        ),
        case(
            "a_client_of_another_node_that_is_its_own_backend_sees_this_node",
            remote_hairpin,
        ),
        case(
            "without_pod_devices_a_sandbox_is_refused_where_packets_leave_the_node",
            not_served,
        ),
        case("sctp_of_a_sandbox_is_translated_both_ways", sctp),
        case(
            "sctp_of_a_pod_is_rejected_where_packets_leave_the_node",
            sctp_of_a_pod,
        ),
    ]
}

const FLAGS: [&str; 4] = ["--pod-devices", "pod0", "--cluster-cidr", CLUSTER_CIDR];

/// A node with a sandbox on `pod0`, and another one.
struct Scene {
    node: Node,
    other: Node,
    sandbox: Pod,
}

impl Scene {
    fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("node-a")?;
        let other = lab.node("node-b")?;
        let sandbox = node.sandboxed_pod("sandbox")?;
        Ok(Self {
            node,
            other,
            sandbox,
        })
    }

    fn publish(&self, backends: &[(&Place, &str)]) -> Result<()> {
        let mut service = svc("ns/web");
        for address in CLUSTER_IP {
            service = service.cluster_ip(address);
        }
        let service = service
            .port("tcp", "TCP", 80)
            .node_port(30080)
            .port("udp", "UDP", 80)
            .node_port(30081)
            .port("sctp", "SCTP", 80)
            .node_port(30082);
        let mut listed = slices("ns/web")
            .port("tcp", "TCP", 8080)
            .port("udp", "UDP", 8080)
            .port("sctp", "SCTP", 8080);
        for (place, node) in backends {
            listed = listed.endpoint(endpoint(place, node));
        }
        self.node
            .publish::<Document>("web", [service.into(), listed.into()])
    }
}

fn dials(address: IpAddr, ports: [u16; 2]) -> [Dial; 3] {
    let [tcp, udp] = ports.map(|port| SocketAddr::new(address, port));
    [Dial::tcp(tcp), Dial::udp(udp), Dial::udp(udp).unconnected()]
}

fn cluster_ips(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let local: [Server; 1] = servers(&scene.node, ["local"], 8080)?;
    let remote: [Server; 1] = servers(&scene.other, ["remote"], 8080)?;
    let _agent = scene.node.agent(&FLAGS)?;
    for (server, node) in [(&local[0], "node-a"), (&remote[0], "node-b")] {
        scene.publish(&[(&server.pod, node)])?;
        for (nth, vip) in addresses(CLUSTER_IP)?.into_iter().enumerate() {
            for dial in dials(vip, [80, 80]) {
                soon_who(&scene.sandbox, &dial, 1, &[&server.pod.name])?;
                let answer = scene
                    .sandbox
                    .ask(&dial)?
                    .map_err(|failure| anyhow!("{dial}: {failure}"))?;
                ensure!(answer.peer == dial.to(), "{dial}: {answer:?}");
                let client = scene.sandbox.addresses[nth];
                ensure!(answer.client.ip() == client, "{dial}: {answer:?}");
            }
        }
    }
    Ok(())
}

/// Rule 78: else it would answer itself past the translation.
fn hairpin(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let _serve: Serve = scene.sandbox.serve(8080)?;
    scene.publish(&[(&scene.sandbox, "node-a")])?;
    let agent = scene.node.agent(&FLAGS)?;
    for (vip, hidden) in addresses(CLUSTER_IP)?.into_iter().zip(addresses(HIDDEN)?) {
        for dial in dials(vip, [80, 80]) {
            let client = answered(&scene.sandbox, &dial)?;
            ensure!(client == hidden, "{dial} came from {client}");
        }
    }
    ensure!(counted(&agent, "flow_unknown")? == 0);
    Ok(())
}

fn remote_hairpin(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let _serve: Serve = scene.other.host.serve(8080)?;
    scene.publish(&[(&scene.other.host, "node-b")])?;
    for flags in [&[][..], &["--no-redirect"]] {
        let _agent = scene.node.agent(flags)?;
        for node in scene.node.host.addresses {
            for dial in dials(node, [30080, 30081]) {
                let client = answered(&scene.other.host, &dial)?;
                ensure!(client == node, "{dial} came from {client}");
            }
        }
    }
    Ok(())
}

/// Where packets of no flow go: out of the uplink.
fn leave_by_uplink(scene: &Scene) -> Result<()> {
    let [v4, v6] = scene.other.host.addresses;
    scene.node.host.netns.ip(&format!(
        "route add default via {v4}\nroute add default via {v6}\n"
    ))
}

fn not_served(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let local: [Server; 1] = servers(&scene.node, ["local"], 8080)?;
    scene.publish(&[(&local[0].pod, "node-a")])?;
    leave_by_uplink(&scene)?;
    let agent = scene.node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
    for vip in addresses(CLUSTER_IP)? {
        let [tcp, udp, _] = dials(vip, [80, 80]);
        for dial in [tcp, udp] {
            let refusal = errno(&scene.sandbox, &dial)?;
            ensure!(refusal == Errno::ECONNREFUSED, "{dial}: {refusal}");
        }
    }
    ensure!(counted(&agent, "untranslated")? >= 4);
    Ok(())
}

const SCTP: u8 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const CLIENT_PORT: u16 = 33_000;

/// An SCTP packet with one chunk of 20 bytes.
fn sctp_packet(sport: u16, dport: u16, chunk: u8) -> Result<Vec<u8>> {
    let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend([chunk, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1]);
    bytes.extend([0, 0, 0, 7]);
    let sum = csum::sctp(&bytes).context("too short")?;
    bytes[8..12].copy_from_slice(&sum);
    Ok(bytes)
}

/// Most kernels of test machines have no SCTP: both ends speak it by raw sockets.
fn raw(address: IpAddr) -> Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(address, 0));
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(SCTP))))?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(socket)
}

/// Waits for a packet whose checksum is right: its ports, chunk and sender.
fn receive(socket: &Socket, is_ipv4: bool) -> Result<(u16, u16, u8, IpAddr)> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 256];
    let (length, from) = socket.recv_from(&mut buffer)?;
    // SAFETY: the kernel has written the first `length` bytes.
    let bytes: Vec<u8> = (buffer[..length].iter())
        .map(|byte| unsafe { byte.assume_init() })
        .collect();
    // IPv4 shows its header to raw sockets, IPv6 does not.
    let bytes = bytes.get(if is_ipv4 { 20 } else { 0 }..).context("short")?;
    let port = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (sport, dport) = (port(0).context("short")?, port(2).context("short")?);
    let sum = csum::sctp(bytes).context("short")?;
    ensure!(bytes[8..12] == sum, "a wrong checksum: {bytes:x?}");
    let from = from.as_socket().context("no address")?.ip();
    Ok((sport, dport, bytes[12], from))
}

/// Answers one INIT.
fn sctp_server(pod: &Place, address: IpAddr) -> Result<Task<IpAddr>> {
    let task = pod.spawn("SCTP server", move |control| {
        let socket = raw(address)?;
        control.say(&true)?;
        let (sport, dport, chunk, from) = receive(&socket, address.is_ipv4())?;
        ensure!(
            (dport, chunk) == (8080, INIT),
            "to port {dport}: chunk {chunk}"
        );
        let answer = sctp_packet(dport, sport, INIT_ACK)?;
        socket.send_to(&answer, &SocketAddr::new(from, 0).into())?;
        Ok(from)
    })?;
    task.hear::<bool>(SOON)?;
    Ok(task)
}

fn sctp_client(place: &Place, family: usize, to: SocketAddr) -> Result<()> {
    let own = place.addresses[family];
    place.exec(move || {
        let socket = raw(own)?;
        let init = sctp_packet(CLIENT_PORT, to.port(), INIT)?;
        socket.send_to(&init, &SocketAddr::new(to.ip(), 0).into())?;
        let (sport, dport, chunk, from) = receive(&socket, own.is_ipv4())?;
        ensure!(
            (SocketAddr::new(from, sport), dport, chunk) == (to, CLIENT_PORT, INIT_ACK),
            "{chunk} from {from}:{sport} to port {dport}"
        );
        Ok(())
    })
}

fn sctp(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let local = scene.node.pod("local")?;
    let remote = scene.other.pod("remote")?;
    let outside = lab.outside("outside")?;
    scene.publish(&[(&local, "node-a")])?;
    let _agent = scene.node.agent(&FLAGS)?;
    for (family, vip) in addresses(CLUSTER_IP)?.into_iter().enumerate() {
        let server = sctp_server(&local, local.addresses[family])?;
        sctp_client(&scene.sandbox, family, SocketAddr::new(vip, 80))?;
        ensure!(server.join(SOON)? == scene.sandbox.addresses[family]);
    }
    scene.publish(&[(&remote, "node-b")])?;
    for (family, node) in scene.node.host.addresses.into_iter().enumerate() {
        eventually(SOON, || {
            let server = sctp_server(&remote, remote.addresses[family])?;
            sctp_client(&outside, family, SocketAddr::new(node, 30082))?;
            let seen = server.join(SOON)?;
            ensure!(seen == node, "the other node saw {seen}");
            Ok(())
        })?;
    }
    Ok(())
}

/// There is no connect hook for SCTP: what would leave the node with a ClusterIP is told so.
fn sctp_of_a_pod(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let local = scene.node.pod("local")?;
    let client = scene.node.pod("client")?;
    scene.publish(&[(&local, "node-a")])?;
    leave_by_uplink(&scene)?;
    let agent = scene.node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
    for (family, vip) in addresses(CLUSTER_IP)?.into_iter().enumerate() {
        let own = client.addresses[family];
        let refusal: i32 = client.exec(move || {
            let socket = raw(own)?;
            socket.connect(&SocketAddr::new(vip, 0).into())?;
            socket.send(&sctp_packet(CLIENT_PORT, 80, INIT)?)?;
            let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
            let error = socket.recv(&mut buffer).err().context("answered")?;
            Ok(error.raw_os_error().unwrap_or(0))
        })?;
        let refusal = Errno::from_raw(refusal);
        ensure!(refusal == Errno::ECONNREFUSED, "{vip}: {refusal}");
    }
    ensure!(counted(&agent, "untranslated")? >= 2);
    Ok(())
}
