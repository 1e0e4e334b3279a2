//! Beside netfilter: what the stack forwards for us meets the rules of the node, and rules of CNI plugins change
//! nothing of what clients and backends see.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::traffic::Dial;
use xtask::lab::{CLUSTER_CIDR, Lab};

use crate::harness::{SOON, case_with, counted, eventually, soon_who};
use crate::packets::{SHORT, Scene, answered, failed, service};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case_with("nft", "forwarding", name, test);
    vec![
        case(
            "without_redirects_the_other_node_sees_this_one_and_the_stack_forwards",
            no_redirect,
        ),
        case(
            "without_redirects_fragments_and_errors_find_their_way",
            no_redirect_fragments,
        ),
    ]
}

/// Drops what is forwarded to the other node's pods.
const DROP_FORWARDED: &str = "table inet drops {
  chain forward {
    type filter hook forward priority 0;
    ip daddr 10.244.2.0/24 drop
    ip6 daddr fd00:244:2::/64 drop
  }
}
";

fn no_redirect(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), true, true)?;
    let agent = scene
        .node
        .agent(&["--no-redirect", "--cluster-cidr", CLUSTER_CIDR])?;
    for dial in scene.dials()? {
        let to = dial.to();
        let (client, node) = scene.family(to.ip());
        scene.check(&dial, to, &[("local", client), ("remote", node)])?;
    }
    scene.publish(service(), false, true)?;
    soon_who(&scene.outside, &scene.dials()?[0], 12, &["remote"])?;
    scene.node.host.netns.nft(DROP_FORWARDED)?;
    for dial in scene.dials()? {
        let failure = failed(&scene.outside, &dial.clone().within(SHORT))?;
        ensure!(
            failure.is(Errno::ETIMEDOUT),
            "{dial} was not forwarded: {failure}"
        );
    }
    ensure!(counted(&agent, "no_snat_port")? == 0 && counted(&agent, "flow_unknown")? == 0);
    Ok(())
}

/// Datagrams of 8 kB, and the errors of a backend that does not listen.
fn no_redirect_fragments(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.publish(service(), false, true)?;
    let agent = scene
        .node
        .agent(&["--no-redirect", "--cluster-cidr", CLUSTER_CIDR])?;
    let text = b"x".repeat(8_000);
    for dial in scene.dials()?.into_iter().filter(Dial::is_unconnected) {
        answered(&scene.outside, &dial.saying(&text))?;
    }
    scene.publish_at(8081, service(), false, true)?;
    for dial in scene.dials()? {
        if dial.is_unconnected() {
            continue;
        }
        eventually(SOON, || {
            let failure = failed(&scene.outside, &dial.clone().within(SHORT))?;
            ensure!(failure.is(Errno::ECONNREFUSED), "{dial}: {failure}");
            Ok(())
        })?;
    }
    ensure!(counted(&agent, "icmp_translated")? > 0);
    Ok(())
}
