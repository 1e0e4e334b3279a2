//! Which endpoints are used at all: draining ones, and those that hints name for this node or zone.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::Lab;
use xtask::lab::traffic::Dial;

use crate::harness::{case, errno, soon_who};
use crate::policies::{CLUSTER_IP, LB, MANY, Two, external, plain};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("topology", name, test);
    vec![
        case(
            "draining_endpoints_serve_only_where_nobody_is_ready",
            draining,
        ),
        case(
            "internal_local_falls_back_to_a_local_draining_endpoint",
            draining_local,
        ),
        case(
            "an_endpoint_that_neither_serves_nor_is_ready_is_never_used",
            never_used,
        ),
        case("zone_hints_keep_traffic_in_the_zone", zone_hints),
        case("node_hints_come_before_zone_hints", node_hints),
        case(
            "hints_that_are_not_on_every_endpoint_are_ignored",
            partial_hints,
        ),
        case("a_node_without_a_zone_ignores_zone_hints", no_zone),
        case("a_changed_node_label_changes_the_choice", label_change),
    ]
}

/// Rule 28.
fn draining(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(plain(), [two.local().terminating(true), two.remote()])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["remote"]);
    two.publish(
        plain(),
        [two.local().terminating(true), two.remote().not_ready()],
    )?;
    soon_who(&two.client, &Dial::tcp(CLUSTER_IP.parse()?), 5, &["local"])
}

/// Rules 29 and 31: each list falls back for itself.
fn draining_local(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let service = external().internal_local();
    two.publish(service, [two.local().terminating(true), two.remote()])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["local"]);
    ensure!(two.see(LB)? == ["remote"]);
    Ok(())
}

/// Rule 30.
fn never_used(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(
        plain(),
        [two.local().terminating(false), two.remote().not_ready()],
    )?;
    let _agent = two.node.agent(&[])?;
    ensure!(errno(&two.client, &Dial::tcp(CLUSTER_IP.parse()?))? == Errno::ECONNREFUSED);
    Ok(())
}

fn zone_hints(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(
        plain(),
        [
            two.local().for_zone("zone-2"),
            two.remote().for_zone("zone-1"),
        ],
    )?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["remote"], "rule 25c");
    Ok(())
}

fn node_hints(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let local = two.local().for_zone("zone-1").for_node("node-b");
    let remote = two.remote().for_zone("zone-1").for_node("node-a");
    two.publish(plain(), [local, remote])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["remote"], "rule 25b");
    Ok(())
}

fn partial_hints(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(plain(), [two.local(), two.remote().for_zone("zone-1")])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["local", "remote"]);
    Ok(())
}

fn no_zone(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.node.publish("node", [two.node.manifest().zone("")])?;
    two.publish(
        plain(),
        [
            two.local().for_zone("zone-2"),
            two.remote().for_zone("zone-1"),
        ],
    )?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["local", "remote"], "rule 26");
    Ok(())
}

fn label_change(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(
        plain(),
        [
            two.local().for_zone("zone-2"),
            two.remote().for_zone("zone-1"),
        ],
    )?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["remote"]);
    two.node
        .publish("node", [two.node.manifest().zone("zone-2")])?;
    soon_who(
        &two.client,
        &Dial::tcp(CLUSTER_IP.parse()?),
        MANY,
        &["local"],
    )
}
