//! Programs on the node's devices: clients outside reach Services, and devices come and go.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;
use xtask::lab::manifest::{Document, slices};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, Place};

use crate::harness::{case, servers};
use crate::nodeport::{answers, service, web};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("devices", name, test);
    vec![
        case(
            "a_client_outside_reaches_a_node_port_with_its_own_address",
            local_backend,
        ),
        case(
            "a_client_outside_reaches_a_backend_of_another_node",
            remote_backend,
        ),
    ]
}

/// The addresses that a backend sees clients come from, over TCP and UDP.
fn seen(from: &Place, address: IpAddr) -> Result<[IpAddr; 2]> {
    let to = SocketAddr::new(address, 30080);
    let ask = |dial: Dial| -> Result<IpAddr> {
        let answer = from
            .ask(&dial)?
            .map_err(|failure| anyhow!("{dial}: {failure}"))?;
        Ok(answer.client.ip())
    };
    Ok([ask(Dial::tcp(to))?, ask(Dial::udp(to))?])
}

fn local_backend(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let outside = lab.outside("outside")?;
    let _agent = web.node.agent(&[])?;
    for (node, client) in web.node.host.addresses.into_iter().zip(outside.addresses) {
        answers(&outside, node)?;
        ensure!(seen(&outside, node)? == [client; 2]);
    }
    Ok(())
}

/// What leaves the node again comes from its own address, so that answers come back to it.
fn remote_backend(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let other = lab.node("node-b")?;
    let server = servers(&other, ["web"], 8080)?;
    let listed = slices("ns/web")
        .port("tcp", "TCP", 8080)
        .port("udp", "UDP", 8080);
    node.publish::<Document>(
        "web",
        [service().into(), listed.endpoint(&server[0].pod).into()],
    )?;
    let outside = lab.outside("outside")?;
    let _agent = node.agent(&[])?;
    for address in node.host.addresses {
        answers(&outside, address)?;
        ensure!(seen(&outside, address)? == [address; 2]);
    }
    Ok(())
}
