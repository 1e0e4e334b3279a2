//! A flood of SYNs from forged addresses beside connections that are established.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lb_common::{
    csum,
    map_table::FLOWS_PER_EMBRYO,
    net::{Addr4, Proto},
};
use libtest_mimic::Trial;
use socket2::{Domain, Protocol, Socket, Type};
use xtask::lab::traffic::{Dial, read_line};
use xtask::lab::{CLUSTER_CIDR, Lab, Place, Task};

use crate::harness::{case, counted};
use crate::packets::{Scene, service};

pub fn trials() -> Vec<Trial> {
    vec![case(
        "flood",
        "a_flood_of_syns_costs_no_established_connection",
        flood,
    )]
}

const MAX_FLOWS: u32 = 4_096;
const CONNECTIONS: usize = 256;

/// As large as the table of new flows, ten times.
const SYNS: u32 = 10 * (MAX_FLOWS / FLOWS_PER_EMBRYO);

fn flood(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let flooder = lab.outside("flooder")?;
    scene.publish(service(), true, true)?;
    let flows = MAX_FLOWS.to_string();
    let agent = scene
        .node
        .agent(&["--max-flows", &flows, "--cluster-cidr", CLUSTER_CIDR])?;
    let kept = connections(&scene)?;
    let before = counted(&agent, "hit_chosen")?;
    let target = SocketAddrV4::new(scene.node.host.addresses[0].to_string().parse()?, 30080);
    for _ in 0..2 {
        flooder.exec(|| send_syns(target))?;
        kept.tell(&true)?;
        let echoed: usize = kept.hear(Duration::from_secs(30))?;
        ensure!(echoed == CONNECTIONS, "{echoed} connections are left");
    }
    let opened = counted(&agent, "hit_chosen")? - before;
    ensure!(opened > u64::from(SYNS), "only {opened} SYNs arrived");
    // The same address serves on for whoever comes next.
    let dial = Dial::tcp(SocketAddr::V4(target));
    for asked in scene.outside.ask_many(&dial, 20)? {
        asked.map_err(|failure| anyhow!("after the flood: {failure}"))?;
    }
    kept.finish(Duration::from_secs(5))
}

/// Connections to both backends that say how many of them still echo, each time they are told.
fn connections(scene: &Scene) -> Result<Task<()>> {
    let node: &Place = &scene.node.host;
    let targets = node
        .addresses
        .map(|address| SocketAddr::new(address, 30080));
    let task = scene.outside.spawn("connections", move |control| {
        let open = |to: SocketAddr| -> Result<TcpStream> {
            let socket = Dial::tcp(to)
                .open()
                .map_err(|failure| anyhow!("{failure}"))?;
            read_line(&socket).map_err(|failure| anyhow!("{failure}"))?;
            Ok(socket.into())
        };
        let streams: Result<Vec<TcpStream>> =
            (0..CONNECTIONS).map(|nth| open(targets[nth % 2])).collect();
        let streams = streams?;
        control.say(&echoed(&streams))?;
        while !control.stop_asked() {
            if control.hear::<bool>(Duration::from_secs(60)).is_err() {
                break;
            }
            control.say(&echoed(&streams))?;
        }
        Ok(())
    })?;
    let echoed: usize = task.hear(Duration::from_secs(20))?;
    ensure!(echoed == CONNECTIONS, "{echoed} of {CONNECTIONS} echo");
    Ok(task)
}

fn echoed(streams: &[TcpStream]) -> usize {
    let echo = |mut stream: &TcpStream| -> std::io::Result<()> {
        let mut word = [0; 4];
        stream.write_all(b"echo")?;
        stream.read_exact(&mut word)
    };
    streams.iter().filter(|stream| echo(stream).is_ok()).count()
}

/// Each from another address and port, of a range that nobody routes.
fn send_syns(target: SocketAddrV4) -> Result<()> {
    let socket = Socket::new(
        Domain::IPV4,
        Type::RAW,
        Some(Protocol::from(libc::IPPROTO_RAW)),
    )?;
    for nth in 0..SYNS {
        let [_, a, b, c] = nth.to_be_bytes();
        let from = SocketAddrV4::new(Ipv4Addr::new(198, 18 + (a & 1), b, c), 1_024);
        socket
            .send_to(&syn(from, target)?, &target.into())
            .context("send a SYN")?;
    }
    Ok(())
}

fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Result<Vec<u8>> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut tcp = [
        &ports[..],
        &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0, 0, 0, 0, 0],
    ]
    .concat();
    let (src, dst) = (
        Addr4 {
            ip4: from.ip().octets(),
        },
        Addr4 {
            ip4: to.ip().octets(),
        },
    );
    let sum = csum::segment(&src, &dst, Proto::TCP, &tcp).context("too short")?;
    tcp[16..18].copy_from_slice(&sum);
    // The kernel fills in length, identification and checksum.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, Proto::TCP.0, 0, 0];
    packet.extend([src.ip4, dst.ip4].concat());
    packet.extend(tcp);
    Ok(packet)
}
