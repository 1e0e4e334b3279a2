//! Beside netfilter: what the stack forwards for us meets the rules of the node, and rules of CNI plugins change
//! nothing of what clients and backends see.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::traffic::Dial;
use xtask::lab::{CLUSTER_CIDR, Lab};

use crate::harness::{SOON, case_with, counted, eventually, soon_who};
use crate::packets::{HIDDEN, SHORT, Scene, addresses, answered, failed, service};

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
        case(
            "masquerade_rules_of_a_plugin_change_no_result",
            beside_masquerade,
        ),
        case(
            "masquerade_rules_of_a_plugin_change_no_result_without_redirects",
            beside_masquerade_forwarded,
        ),
        case(
            "masquerade_rules_of_a_plugin_change_no_result_through_lb0",
            beside_masquerade_hidden,
        ),
        case(
            "a_network_policy_holds_for_clients_of_services",
            beside_policy,
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

/// flannel's rules, and kube-router's for what leaves the cluster; both drop what conntrack cannot place.
const PLUGIN: &str = "table inet plugin {
  chain forward {
    type filter hook forward priority 0;
    ct state invalid drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 return
    ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade random,fully-random
    ip saddr != 10.244.0.0/16 ip daddr 10.244.1.0/24 return
    ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade random,fully-random
    ip6 saddr fd00:244::/32 ip6 daddr fd00:244::/32 return
    ip6 saddr fd00:244::/32 ip6 daddr != ff00::/8 masquerade random,fully-random
    ip6 saddr != fd00:244::/32 ip6 daddr fd00:244:1::/64 return
    ip6 saddr != fd00:244::/32 ip6 daddr fd00:244::/32 masquerade random,fully-random
  }
}
";

fn beside_masquerade(lab: &Lab) -> Result<()> {
    unchanged(lab, &[], false)
}

fn beside_masquerade_forwarded(lab: &Lab) -> Result<()> {
    unchanged(lab, &["--no-redirect"], false)
}

fn beside_masquerade_hidden(lab: &Lab) -> Result<()> {
    unchanged(lab, &["--masquerade-local-backends"], true)
}

fn unchanged(lab: &Lab, flags: &[&str], is_hidden: bool) -> Result<()> {
    let scene = Scene::new(lab)?;
    scene.node.host.netns.nft(PLUGIN)?;
    scene.publish(service(), true, true)?;
    let flags = [&["--cluster-cidr", CLUSTER_CIDR], flags].concat();
    let _agent = scene.node.agent(&flags)?;
    for dial in scene.dials()? {
        let to = dial.to();
        let (client, node) = scene.family(to.ip());
        let hidden = addresses(HIDDEN)?[usize::from(to.is_ipv6())];
        let local = if is_hidden { hidden } else { client };
        scene.check(&dial, to, &[("local", local), ("remote", node)])?;
    }
    Ok(())
}

/// The pod here takes packets from one client, as a policy would have it, and answers.
fn policy(scene: &Scene) -> String {
    let [pod4, pod6] = scene.local[0].pod.addresses;
    let [client4, client6] = scene.outside.addresses;
    format!(
        "table inet policies {{
  chain forward {{
    type filter hook forward priority 0;
    ct state invalid drop
    ct state established,related accept
    ip daddr {pod4} ip saddr {client4} tcp dport 8080 accept
    ip daddr {pod4} ip saddr {client4} udp dport 8080 accept
    ip daddr {pod4} drop
    ip6 daddr {pod6} ip6 saddr {client6} tcp dport 8080 accept
    ip6 daddr {pod6} ip6 saddr {client6} udp dport 8080 accept
    ip6 daddr {pod6} drop
  }}
}}
"
    )
}

/// Whoever may not reach the pod does not reach it by a Service either; the pod's own node is where that is decided.
fn beside_policy(lab: &Lab) -> Result<()> {
    let scene = Scene::new(lab)?;
    let stranger = lab.outside("stranger")?;
    scene.node.host.netns.nft(&policy(&scene))?;
    scene.publish(service().external_local(), true, true)?;
    let _agent = scene.node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
    for dial in scene.dials()? {
        let to = dial.to();
        let (client, _) = scene.family(to.ip());
        scene.check(&dial, to, &[("local", client)])?;
    }
    for node in scene.node.host.addresses {
        for dial in [
            Dial::tcp(SocketAddr::new(node, 30080)),
            Dial::udp(SocketAddr::new(node, 30081)),
        ] {
            let failure = failed(&stranger, &dial.clone().within(SHORT))?;
            ensure!(failure.is(Errno::ETIMEDOUT), "{dial}: {failure}");
        }
    }
    scene.publish(service(), false, true)?;
    for node in scene.node.host.addresses {
        let dial = Dial::tcp(SocketAddr::new(node, 30080)).within(SHORT);
        eventually(SOON, || answered(&stranger, &dial)).context("the other node's pod")?;
    }
    Ok(())
}
