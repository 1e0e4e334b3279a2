//! An overlay: pods of the other node are reached through a vxlan device, whose MTU is smaller and whose address is out of
//! this node's pod range, as flannel has it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use xtask::lab::traffic::Dial;
use xtask::lab::{CLUSTER_CIDR, Lab, Node, Place};

use crate::harness::{SOON, case, eventually, servers};
use crate::nodeport::publish;
use crate::packets::answered;
use crate::transfer::transfer;

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("overlay", name, test);
    vec![
        case(
            "a_client_outside_reaches_a_backend_behind_an_overlay",
            redirected,
        ),
        case(
            "without_redirects_a_backend_behind_an_overlay_is_reached_too",
            forwarded,
        ),
    ]
}

/// The device's addresses on each node.
const ADDRESSES: [[&str; 2]; 2] = [
    ["10.244.1.0", "fd00:244:1::"],
    ["10.244.2.0", "fd00:244:2::"],
];
const MACS: [&str; 2] = ["02:00:00:00:01:01", "02:00:00:00:01:02"];

/// A vxlan device without learning: neighbours, hardware addresses and the other end are written down.
fn overlay(own: &Place, other: &Place, nth: usize) -> Result<()> {
    let [local, remote] = [own, other].map(|place| place.addresses[0]);
    let (mac, mac_there) = (MACS[nth], MACS[1 - nth]);
    let [v4, v6] = ADDRESSES[nth];
    let [there4, there6] = ADDRESSES[1 - nth];
    let (pods4, pods6) = (format!("{there4}/24"), format!("{there6}/64"));
    own.netns.ip(&format!(
        "link add flannel.1 address {mac} type vxlan id 1 local {local} dev eth0 dstport 8472 nolearning\n\
         link set flannel.1 mtu 1450 up\n\
         addr add {v4}/32 dev flannel.1\naddr add {v6}/128 dev flannel.1 nodad\n\
         neigh add {there4} dev flannel.1 lladdr {mac_there} nud permanent\n\
         neigh add {there6} dev flannel.1 lladdr {mac_there} nud permanent\n\
         route del {pods4}\nroute del {pods6}\n\
         route add {pods4} via {there4} dev flannel.1 onlink\n\
         route add {pods6} via {there6} dev flannel.1 onlink\n"
    ))?;
    let learned = own.netns.within(|| {
        let words = [
            "fdb",
            "add",
            mac_there,
            "dev",
            "flannel.1",
            "dst",
            &remote.to_string(),
        ]
        .map(str::to_owned);
        std::process::Command::new("bridge")
            .args(words)
            .status()
            .context("run bridge")
    })?;
    ensure!(learned.success(), "bridge fdb add: {learned}");
    Ok(())
}

fn redirected(lab: &Lab) -> Result<()> {
    reached(lab, &["--cluster-cidr", CLUSTER_CIDR])
}

fn forwarded(lab: &Lab) -> Result<()> {
    reached(lab, &["--cluster-cidr", CLUSTER_CIDR, "--no-redirect"])
}

fn reached(lab: &Lab, flags: &[&str]) -> Result<()> {
    let nodes: [Node; 2] = [lab.node("node-a")?, lab.node("node-b")?];
    let outside = lab.outside("outside")?;
    let [node, other] = &nodes;
    overlay(&node.host, &other.host, 0)?;
    overlay(&other.host, &node.host, 1)?;
    let server = servers(other, ["remote"], 8080)?;
    publish(node, &server)?;
    let _agent = node.agent(flags)?;
    let text = b"x".repeat(8_000);
    for (family, address) in node.host.addresses.into_iter().enumerate() {
        let to = SocketAddr::new(address, 30080);
        let own: IpAddr = ADDRESSES[0][family].parse()?;
        for dial in [Dial::tcp(to), Dial::udp(to), Dial::udp(to).unconnected()] {
            let client = answered(&outside, &dial)?;
            ensure!(client == own, "{dial} came from {client}, not {own}");
        }
        // The client's link takes more than the overlay: it is told, and sends again in smaller parts.
        eventually(SOON, || {
            let dial = Dial::udp(to)
                .saying(&text)
                .within(std::time::Duration::from_millis(500));
            answered(&outside, &dial)
        })?;
        transfer(&outside, to, 4 << 20).with_context(|| format!("4 MiB to {to}"))?;
    }
    Ok(())
}
