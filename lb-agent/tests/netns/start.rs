//! What a start does in which order, and what it does again when something was in its way.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lb_agent::maps::{
    pinned::{links_dir, maps_dir},
    sys::{Access, TypedMap, open_map},
};
use lb_common::net::Addr4;
use libtest_mimic::Trial;
use xtask::lab::manifest::{Document, slices, svc};
use xtask::lab::traffic::{Dial, peer_of};
use xtask::lab::{Lab, Node};

use crate::commands::text;
use crate::harness::{SOON, case, eventually, soon_who, who};
use crate::load::{VIP, Web, settle};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("start", name, test);
    vec![
        case(
            "a_first_start_links_nothing_before_maps_are_complete",
            links_last,
        ),
        case("a_first_start_without_its_lists_links_nothing", no_lists),
        case(
            "links_to_another_cgroup_serve_until_those_to_the_new_one_do",
            other_cgroup,
        ),
        case(
            "udp_sockets_are_ended_by_a_first_start_and_by_no_restart",
            ended_once,
        ),
        case(
            "addresses_that_could_not_be_written_are_tried_again",
            tried_again,
        ),
    ]
}

/// The links on the cgroup. Those on devices are in folders of their own beside them.
fn links(node: &Node) -> Vec<PathBuf> {
    let mut links = entries(&links_dir(&node.bpffs));
    links.retain(|path| !path.is_dir());
    links
}

/// The links of all kinds.
fn all_links(node: &Node) -> Vec<PathBuf> {
    let (folders, mut links): (Vec<PathBuf>, Vec<PathBuf>) =
        (entries(&links_dir(&node.bpffs)).into_iter()).partition(|path| path.is_dir());
    links.extend(folders.iter().flat_map(|folder| entries(folder)));
    links
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The agent is killed at the sight of its first link: whatever is missing then was missing when that link was made.
fn links_last(lab: &Lab) -> Result<()> {
    const SERVICES: u8 = 250;
    let node = lab.node("node-a")?;
    let service = |i| {
        svc(&format!("ns/s{i}"))
            .cluster_ip(&format!("10.96.1.{i}"))
            .tcp(80)
    };
    node.publish("services", (0..SERVICES).map(service))?;
    let mut agent = node.start_agent(&[])?;
    let given_up = Instant::now() + SOON;
    let mut has_maps = false;
    while all_links(&node).is_empty() {
        has_maps |= maps_dir(&node.bpffs).join("LB4_FRONTENDS").exists();
        ensure!(Instant::now() < given_up, "no link: {}", agent.log());
    }
    agent.kill9()?;
    ensure!(has_maps, "the first link was there before any map");
    let listed = node.cli(&["service", "list", "-o", "json"])?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
    let count = listed.as_array().map(Vec::len);
    ensure!(
        count == Some(SERVICES.into()),
        "{count:?} at the first link"
    );
    Ok(())
}

/// Nobody answers at the API server's address.
fn no_lists(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    let mut agent = web.node.start_agent(&["--master", "http://127.0.0.1:9"])?;
    eventually(SOON, || agent.status().map(drop))?;
    thread::sleep(Duration::from_secs(1));
    ensure!(agent.is_running(), "{}", agent.log());
    ensure!(links(&web.node).is_empty());
    let status = agent.status()?;
    ensure!(
        status["healthy"] == false && status["agent"]["synced"] == false,
        "{status}"
    );
    // A source that has its lists completes what this one began.
    agent.kill9()?;
    web.publish_numbers([0])?;
    let _agent = web.node.agent(&[])?;
    soon_who(&web.client, &Dial::tcp(VIP.parse()?), 3, &["web-0"])
}

/// Served is the client's pod alone at first, then the node: the client never goes without.
fn other_cgroup(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let other = web.node.pod("other")?;
    let vip = Dial::tcp(VIP.parse()?);
    let pods = web.client.cgroup.display().to_string();
    let mut first = web.node.start_agent(&["--cgroup-root", &pods])?;
    soon_who(&web.client, &vip, 3, &["web-0"])?;
    ensure!(other.ask(&vip)?.is_err(), "served outside of its cgroup");
    let status = web.node.cli(&["status"])?;
    ensure!(
        !status.status.success() && text(&status).contains("attached to another cgroup"),
        "{}",
        text(&status)
    );

    let load = web.load()?;
    first.kill9()?;
    let agent = web.node.agent(&[])?;
    ensure!(agent.log().contains("attaching anew"), "{}", agent.log());
    ensure!(links(&web.node).len() == 11);
    settle(load)?;
    ensure!(who(&other, &vip, 3)? == ["web-0"]);
    Ok(())
}

/// A socket that dialled a VIP before it was one looks like those from before the first start. It is the owner's to
/// notice; a restart must not (rule 95).
fn ended_once(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let early = |to: SocketAddr| {
        web.client.spawn("early", move |control| {
            let socket = Dial::udp(to).open()?;
            control.say(&true)?;
            while control
                .hear::<Option<bool>>(Duration::from_secs(60))?
                .is_some()
            {
                control.say(&peer_of(&socket).is_ok())?;
            }
            Ok(())
        })
    };
    let ended = early(VIP.parse()?)?;
    ensure!(ended.hear::<bool>(SOON)?);
    let mut agent = web.node.agent(&[])?;
    eventually(SOON, || {
        ended.tell(&true)?;
        ensure!(!ended.hear::<bool>(SOON)?, "still connected to the VIP");
        Ok(())
    })?;

    let late: SocketAddr = "10.96.0.50:80".parse()?;
    let kept = early(late)?;
    ensure!(kept.hear::<bool>(SOON)?);
    let service = svc("ns/late").cluster_ip("10.96.0.50").udp(80);
    let listed = slices("ns/late").udp(8080).endpoint(&web.pods[1].pod);
    web.node
        .publish::<Document>("late", [service.into(), listed.into()])?;
    soon_who(&web.client, &Dial::udp(late), 1, &["web-1"])?;
    for _ in 0..2 {
        agent.kill9()?;
        agent.restart()?;
        thread::sleep(Duration::from_millis(300));
        kept.tell(&true)?;
        ensure!(kept.hear::<bool>(SOON)?, "ended by a restart");
    }
    Ok(())
}

/// Somebody fills the map; when there is room again, no news is needed.
fn tried_again(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    let service = svc("ns/np")
        .cluster_ip("10.96.0.60")
        .tcp(80)
        .node_port(30080);
    let listed = slices("ns/np").tcp(8080).endpoint(&web.pods[0].pod);
    web.node
        .publish::<Document>("np", [service.into(), listed.into()])?;
    let agent = web.node.agent(&["--nodeport-addresses", "all"])?;
    let map = open_map(
        &maps_dir(&web.node.bpffs).join("LB4_NODE_ADDRS"),
        Access::Write,
    )?;
    let map = TypedMap::<Addr4, u32>::new(map)?;
    let strangers: Vec<Addr4> = (0..map.capacity())
        .map(|i| Ipv4Addr::from_bits(0x0b00_0000 + i).into())
        .collect();
    let Err((filled, _)) = map.update(&strangers, &vec![1; strangers.len()]) else {
        bail!("the map holds more than its capacity");
    };
    let added: IpAddr = "172.18.1.1".parse()?;
    web.node.add_address(added)?;
    eventually(SOON, || {
        ensure!(agent.log().contains("not every address"), "nothing is said");
        Ok(())
    })?;
    let to = Dial::tcp(SocketAddr::new(added, 30080));
    ensure!(web.client.ask(&to)?.is_err(), "no room, but it answers");
    let filled = strangers.get(..filled).context("as many as given")?;
    map.delete(filled).map_err(|(_, error)| error)?;
    soon_who(&web.client, &to, 1, &["web-0"])
}
