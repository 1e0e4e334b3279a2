//! NodePorts on the node's own addresses (rules 47 to 57), and their protection from host processes.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, ServiceManifest, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, Node, Place, Pod};

use crate::harness::{
    SOON, Server, case, counted, errno, eventually, expect_refusal, servers, soon_who, who,
};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("nodeport", name, test);
    vec![
        case(
            "a_node_port_answers_on_the_primary_address_for_pod_and_host",
            primary,
        ),
        case(
            "a_node_port_does_not_answer_on_other_addresses_by_default",
            primary_alone,
        ),
        case("node_port_addresses_all_answers_on_every_address", all),
        case("node_port_addresses_takes_a_range", range),
        case("an_address_that_is_added_later_answers", added_later),
        case(
            "a_node_port_of_another_node_is_left_to_that_node",
            other_node,
        ),
        case("tcp_and_udp_of_one_node_port_are_independent", protocols),
        case(
            "no_node_port_is_served_where_none_is_allocated",
            none_allocated,
        ),
        case(
            "protect_node_ports_refuses_a_host_process_and_counts_it",
            protected,
        ),
        case(
            "without_protection_a_host_process_may_bind_a_node_port",
            unprotected,
        ),
    ]
}

pub struct Web {
    pub node: Node,
    pub client: Pod,
    pub server: [Server; 1],
}

/// A dual-stack Service `ns/web` with TCP and UDP node port 30080 and one backend.
pub fn service() -> ServiceManifest {
    svc("ns/web")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::a")
        .port("tcp", "TCP", 80)
        .node_port(30080)
        .port("udp", "UDP", 80)
        .node_port(30080)
}

/// Publishes [`service`] on `node`, with `server` as its one backend.
pub fn publish(node: &Node, servers: &[Server]) -> Result<()> {
    let listed = slices("ns/web")
        .port("tcp", "TCP", 8080)
        .port("udp", "UDP", 8080)
        .endpoints(servers.iter().map(|server| &server.pod));
    node.publish::<Document>("web", [service().into(), listed.into()])
}

pub fn web(lab: &Lab) -> Result<Web> {
    let node = lab.node("node-a")?;
    let client = node.pod("client")?;
    let server = servers(&node, ["web"], 8080)?;
    publish(&node, &server)?;
    Ok(Web {
        node,
        client,
        server,
    })
}

/// TCP and UDP, connected and not, to `address`:30080, each answered by `web` and showing that address.
pub fn answers(place: &Place, address: IpAddr) -> Result<()> {
    let to = SocketAddr::new(address, 30080);
    for dial in [Dial::tcp(to), Dial::udp(to), Dial::udp(to).unconnected()] {
        let answer = place
            .ask(&dial)?
            .map_err(|failure| anyhow::anyhow!("{dial}: {failure}"))?;
        ensure!(
            answer.by == "web" && answer.peer == to,
            "{dial}: {answer:?}"
        );
    }
    Ok(())
}

fn primary(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&[])?;
    for address in web.node.host.addresses {
        answers(&web.client, address)?;
        answers(&web.node.host, address)?;
    }
    Ok(())
}

/// Nothing listens on the port, so that the node itself refuses.
fn primary_alone(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let second: [IpAddr; 2] = ["172.18.1.1".parse()?, "fd00:1801::1".parse()?];
    second
        .iter()
        .try_for_each(|address| web.node.add_address(*address))?;
    let _agent = web.node.agent(&[])?;
    for address in second {
        let dial = Dial::tcp(SocketAddr::new(address, 30080));
        ensure!(errno(&web.client, &dial)? == Errno::ECONNREFUSED);
    }
    Ok(())
}

fn all(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let second: [IpAddr; 2] = ["172.18.1.1".parse()?, "fd00:1801::1".parse()?];
    second
        .iter()
        .try_for_each(|address| web.node.add_address(*address))?;
    let _agent = web.node.agent(&["--nodeport-addresses", "all"])?;
    for address in second.into_iter().chain(web.node.host.addresses) {
        answers(&web.client, address)?;
    }
    Ok(())
}

fn range(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let (inside, outside): (IpAddr, IpAddr) = ("172.18.1.1".parse()?, web.node.host.addresses[0]);
    web.node.add_address(inside)?;
    let _agent = web.node.agent(&["--nodeport-addresses", "172.18.1.0/24"])?;
    answers(&web.client, inside)?;
    let dial = Dial::tcp(SocketAddr::new(outside, 30080));
    ensure!(errno(&web.client, &dial)? == Errno::ECONNREFUSED);
    // Rule 50: a list without an entry for a family matches all of it.
    answers(&web.client, web.node.host.addresses[1])
}

fn added_later(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&["--nodeport-addresses", "all"])?;
    let added: IpAddr = "172.18.1.1".parse()?;
    web.node.add_address(added)?;
    soon_who(
        &web.client,
        &Dial::tcp(SocketAddr::new(added, 30080)),
        1,
        &["web"],
    )
}

fn other_node(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let other = lab.node("node-b")?;
    let _agent = web.node.agent(&[])?;
    let _own = other.host.serve(30080)?;
    ensure!(who(&web.client, &Dial::tcp(other.host.v4(30080)), 1)? == ["node-b"]);
    Ok(())
}

/// Rule 57: the UDP port has no endpoints, the TCP port has.
fn protocols(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let tcp_alone = slices("ns/web")
        .port("tcp", "TCP", 8080)
        .endpoint(&web.server[0].pod);
    web.node
        .publish::<Document>("web", [service().into(), tcp_alone.into()])?;
    let _agent = web.node.agent(&[])?;
    let to = web.node.host.v4(30080);
    ensure!(who(&web.client, &Dial::tcp(to), 1)? == ["web"]);
    expect_refusal(&web.client, &Dial::udp(to), Errno::ECONNREFUSED)
}

/// Rule 56: a load balancer without node ports serves its address and no port of the node.
fn none_allocated(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let service = svc("ns/web")
        .cluster_ip("10.96.0.10")
        .port("tcp", "TCP", 80)
        .ingress("198.51.100.7");
    let listed = slices("ns/web")
        .port("tcp", "TCP", 8080)
        .endpoint(&web.server[0].pod);
    web.node
        .publish::<Document>("web", [service.into(), listed.into()])?;
    let _agent = web.node.agent(&[])?;
    ensure!(who(&web.client, &Dial::tcp("198.51.100.7:80".parse()?), 1)? == ["web"]);
    for port in [80, 30080] {
        ensure!(errno(&web.client, &Dial::tcp(web.node.host.v4(port)))? == Errno::ECONNREFUSED);
    }
    Ok(())
}

/// How binding `address` over TCP and UDP ends in `place`; errno 0 is success.
fn bind(place: &Place, address: SocketAddr) -> Result<[i32; 2]> {
    place.exec(|| {
        let errno = |result: std::io::Result<()>| {
            result
                .err()
                .map_or(0, |error| error.raw_os_error().unwrap_or(-1))
        };
        let tcp = std::net::TcpListener::bind(address).map(drop);
        let udp = std::net::UdpSocket::bind(address).map(drop);
        Ok([errno(tcp), errno(udp)])
    })
}

fn protected(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&["--protect-node-ports"])?;
    for address in ["0.0.0.0:30080", "[::]:30080"] {
        ensure!(
            bind(&web.node.host, address.parse()?)? == [libc::EADDRINUSE; 2],
            "{address}"
        );
        ensure!(
            bind(&web.client, address.parse()?)? == [0; 2],
            "a pod's ports are its own: {address}"
        );
    }
    ensure!(bind(&web.node.host, "0.0.0.0:30081".parse()?)? == [0; 2]);
    ensure!(counted(&agent, "bind_refused")? >= 4);
    // And told, through the ring buffer, so that an operator finds out why a process cannot start.
    eventually(SOON, || {
        let log = agent.log();
        ensure!(
            log.lines()
                .any(|line| line.contains("refused a bind") && line.contains("30080"))
        );
        Ok(())
    })?;
    Ok(())
}

fn unprotected(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&[])?;
    for address in ["0.0.0.0:30080", "[::]:30080"] {
        ensure!(
            bind(&web.node.host, address.parse()?)? == [0; 2],
            "{address}"
        );
    }
    Ok(())
}
