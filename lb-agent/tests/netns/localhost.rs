//! Loopback: NodePorts on 127.0.0.1 and ::1 for the host alone, and what a socket bound to loopback can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, endpoint, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, ServeOptions};

use crate::harness::{case, counted, errno, expect_refusal, servers, who};
use crate::nodeport::{answers, web};

const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("localhost", name, test);
    vec![
        case("a_node_port_answers_on_the_hosts_loopback", on_loopback),
        case(
            "a_host_network_pod_reaches_node_ports_on_loopback",
            host_network_pod,
        ),
        case("a_pods_loopback_is_its_own", pods_loopback),
        case("localhost_node_ports_can_be_switched_off", switched_off),
        case(
            "a_socket_bound_to_loopback_is_refused_where_all_backends_are_pods",
            bound_to_loopback,
        ),
        case(
            "a_socket_bound_to_loopback_reaches_a_backend_on_the_host",
            bound_reaches_host,
        ),
    ]
}

fn on_loopback(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&[])?;
    for address in LOOPBACKS {
        answers(&web.node.host, address)?;
    }
    let to = unspecified(SocketAddr::new(LOOPBACKS[0], 30080));
    ensure!(!who(&web.node.host, &Dial::tcp(to), 1)?.is_empty(), "{to}");
    answers(&web.node.host, "127.1.2.3".parse()?)
}

fn host_network_pod(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&[])?;
    let pod = web.node.host_network_pod("host-network")?;
    for address in LOOPBACKS {
        answers(&pod, address)?;
    }
    Ok(())
}

/// 0.0.0.0 or [::], which the kernel takes for loopback only after the hooks have run.
fn unspecified(loopback: SocketAddr) -> SocketAddr {
    let address: IpAddr = match loopback {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, loopback.port())
}

/// A server on the pod's own loopback, on the very port, is what the pod must reach.
fn pods_loopback(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&[])?;
    for address in LOOPBACKS {
        let to = SocketAddr::new(address, 30080);
        ensure!(errno(&web.client, &Dial::tcp(to))? == Errno::ECONNREFUSED);
        let _own = web
            .client
            .serve_with(&ServeOptions::new(&[to]).named("own"))?;
        for to in [to, unspecified(to)] {
            for dial in [Dial::tcp(to), Dial::udp(to), Dial::udp(to).unconnected()] {
                ensure!(who(&web.client, &dial, 1)? == ["own"], "{dial}");
            }
        }
    }
    Ok(())
}

fn switched_off(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&["--localhost-node-ports=false"])?;
    for address in LOOPBACKS {
        let to = SocketAddr::new(address, 30080);
        ensure!(errno(&web.node.host, &Dial::tcp(to))? == Errno::ECONNREFUSED);
        let _own = web
            .node
            .host
            .serve_with(&ServeOptions::new(&[to]).named("own"))?;
        for to in [to, unspecified(to)] {
            ensure!(who(&web.node.host, &Dial::tcp(to), 1)? == ["own"], "{to}");
        }
    }
    Ok(())
}

/// The kernel would route no packet with a loopback source off the host (EINVAL).
fn bound_to_loopback(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[])?;
    for (loopback, cluster_ip) in LOOPBACKS
        .into_iter()
        .zip(["10.96.0.10:80", "[fd00:96::a]:80"])
    {
        for to in [SocketAddr::new(loopback, 30080), cluster_ip.parse()?] {
            for dial in [Dial::tcp(to), Dial::udp(to), Dial::udp(to).unconnected()] {
                expect_refusal(
                    &web.node.host,
                    &dial.bound_to(loopback),
                    Errno::ECONNREFUSED,
                )?;
            }
        }
    }
    ensure!(counted(&agent, "loopback_bound")? >= 12);
    Ok(())
}

/// One backend is a pod, one a host process on the node's address: the latter answers, always.
fn bound_reaches_host(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let pods = servers(&node, ["web"], 8080)?;
    let _host = node.host.serve_with(&ServeOptions::new(&[
        node.host.v4(8080),
        node.host.v6(8080),
    ]))?;
    let web = svc("ns/web")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::a")
        .tcp(80)
        .node_port(30080);
    let listed = slices("ns/web")
        .tcp(8080)
        .endpoint(&pods[0].pod)
        .endpoint(endpoint(&node.host, "node-a"));
    node.publish::<Document>("web", [web.into(), listed.into()])?;
    let _agent = node.agent(&[])?;
    for loopback in LOOPBACKS {
        let to = SocketAddr::new(loopback, 30080);
        ensure!(who(&node.host, &Dial::tcp(to).bound_to(loopback), 10)? == ["node-a"]);
        ensure!(who(&node.host, &Dial::tcp(to), 40)? == ["node-a", "web"]);
    }
    Ok(())
}
