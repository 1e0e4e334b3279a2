//! Programs on the node's devices: clients outside reach Services, and devices come and go.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow, ensure};
use bytemuck::Zeroable;
use lb_agent::maps::{
    pinned::maps_dir,
    sys::{self, Access, Mmap},
};
use lb_common::{
    flow::{FlowFlags, FlowKey, FlowVal},
    net::{Addr4, BePort, Proto},
    socket::BOUND_BEFORE,
};
use libtest_mimic::Trial;
use nix::errno::Errno;
use serde_json::Value;
use std::os::fd::AsFd;
use xtask::lab::traffic::Dial;
use xtask::lab::{Agent, Lab, Node, Place, Task};

use crate::harness::{SOON, case, errno, eventually, servers, soon_who, who};
use crate::nodeport::{answers, publish, web};

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
        case(
            "a_device_is_served_once_it_has_an_address_and_until_it_goes",
            come_and_go,
        ),
        case("named_devices_alone_are_served", named),
        case("a_restart_keeps_links_and_replaces_programs", restarted),
        case("cleanup_leaves_no_link_no_lb0_and_no_port", cleaned),
        case("agents_of_two_nodes_do_not_disturb_each_other", two_agents),
        case("lb0_that_was_deleted_is_made_again", lb0_again),
        case(
            "without_tcx_filters_serve_and_are_made_again_when_deleted",
            clsact,
        ),
        case(
            "ports_that_host_sockets_are_bound_to_are_marked",
            bound_ports,
        ),
        case("flows_that_are_over_are_swept_with_both_halves", swept),
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
    publish(&node, &server)?;
    let outside = lab.outside("outside")?;
    let _agent = node.agent(&[])?;
    for address in node.host.addresses {
        answers(&outside, address)?;
        ensure!(seen(&outside, address)? == [address; 2]);
    }
    Ok(())
}

/// The entry of a device in `status`; null: it is not served.
fn device(agent: &Agent, name: &str) -> Result<Value> {
    let status = agent.status()?;
    let devices = status["devices"].as_array().context("no devices")?;
    let found = devices.iter().find(|device| device["device"] == name);
    Ok(found.cloned().unwrap_or_default())
}

/// Name, program id and link id of what runs on a device.
fn programs(agent: &Agent, name: &str) -> Result<Vec<(String, u64, Option<u64>)>> {
    let device = device(agent, name)?;
    let programs = device["programs"].as_array().cloned().unwrap_or_default();
    let read = |program: &Value| {
        let name = program["program"].as_str().unwrap_or_default().to_owned();
        let id = program["programId"].as_u64().unwrap_or_default();
        (name, id, program["linkId"].as_u64())
    };
    Ok(programs.iter().map(read).collect())
}

/// A second wire between a node and a client outside, both named `eth1`, up and without addresses.
fn second_wire(node: &Node, client: &Place) -> Result<()> {
    node.host.netns.ip(&format!(
        "link add eth1 type veth peer name eth1 netns {}\nlink set eth1 up\n",
        client.netns.path().display()
    ))?;
    client
        .netns
        .ip("link set eth1 up\naddr add 192.0.2.2/24 dev eth1\n")
}

fn come_and_go(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let outside = lab.outside("outside")?;
    let agent = web.node.agent(&["--nodeport-addresses", "all"])?;
    ensure!(device(&agent, "eth0")?["roles"] == serde_json::json!(["uplink"]));
    ensure!(device(&agent, "pod0")?.is_null(), "a pod's veth is served");
    second_wire(&web.node, &outside)?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    ensure!(
        device(&agent, "eth1")?.is_null(),
        "served without an address"
    );
    web.node.host.netns.ip("addr add 192.0.2.1/24 dev eth1\n")?;
    let dial = Dial::tcp("192.0.2.1:30080".parse()?);
    soon_who(&outside, &dial, 1, &["web"])?;
    let masquerade = device(&agent, "eth1")?["masquerade"][0].clone();
    ensure!(masquerade == "192.0.2.1", "{masquerade}");
    web.node.host.netns.ip("link del eth1\n")?;
    eventually(SOON, || {
        ensure!(device(&agent, "eth1")?.is_null(), "still there");
        Ok(())
    })?;
    // The other device is served on, and nothing is wrong.
    ensure!(agent.status()?["healthy"] == true);
    answers(&outside, web.node.host.addresses[0])
}

fn named(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let outside = lab.outside("outside")?;
    let _agent = web.node.agent(&["--devices", "eth1,wg*"])?;
    let dial = Dial::tcp(web.node.host.v4(30080));
    ensure!(
        errno(&outside, &dial)? == Errno::ECONNREFUSED,
        "eth0 is served"
    );
    second_wire(&web.node, &outside)?;
    // It has no address of its own, and is served for being named.
    outside.netns.ip("route add 172.18.0.1/32 dev eth1\n")?;
    web.node
        .host
        .netns
        .ip("route add 192.0.2.2/32 dev eth1\naddr add 192.0.2.1/32 dev eth1\n")?;
    let dial = dial.bound_to("192.0.2.2".parse()?);
    soon_who(&outside, &dial, 1, &["web"])
}

fn restarted(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let outside = lab.outside("outside")?;
    let mut agent = web.node.agent(&[])?;
    let before = [programs(&agent, "eth0")?, programs(&agent, "lb0")?].concat();
    ensure!(before.len() == 3, "{before:?}");
    agent.kill9()?;
    answers(&outside, web.node.host.addresses[0])?;
    agent.restart()?;
    answers(&outside, web.node.host.addresses[0])?;
    let after = [programs(&agent, "eth0")?, programs(&agent, "lb0")?].concat();
    ensure!(after.len() == before.len(), "{after:?}");
    for (old, new) in before.iter().zip(&after) {
        ensure!(
            old.2 == new.2 && old.2.is_some(),
            "another link: {old:?}, {new:?}"
        );
        ensure!(old.1 != new.1, "the old program: {old:?}");
    }
    Ok(())
}

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

fn reserved(node: &Node) -> Result<String> {
    let text = (node.host.netns).within(|| Ok(std::fs::read_to_string(RESERVED)?))?;
    Ok(text.trim().to_owned())
}

fn cleaned(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let outside = lab.outside("outside")?;
    let before = "8080,45000-45001";
    web.node
        .host
        .netns
        .sysctl("net.ipv4.ip_local_reserved_ports", before)?;
    let mut agent = web.node.agent(&[])?;
    ensure!(reserved(&web.node)? == "8080,40000-60999");
    agent.kill9()?;
    agent.restart()?;
    agent.term()?;
    let links = || web.node.host.netns.show(&["-o", "link"]);
    ensure!(links()?.contains("lb0"));
    answers(&outside, web.node.host.addresses[0])?;
    let output = web.node.cli(&["cleanup"])?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!links()?.contains("lb0"), "{}", links()?);
    ensure!(reserved(&web.node)? == before, "{}", reserved(&web.node)?);
    let dial = Dial::tcp(web.node.host.v4(30080));
    ensure!(errno(&outside, &dial)? == Errno::ECONNREFUSED);
    let left = web.node.host.netns.within(|| {
        let index = nix::net::if_::if_nametoindex("eth0")?;
        Ok(sys::device_links(
            index,
            sys::bpf_attach_type::BPF_TCX_INGRESS,
        )?)
    })?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn two_agents(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let other = lab.node("node-b")?;
    let server = servers(&other, ["web"], 8080)?;
    publish(&other, &server)?;
    let outside = lab.outside("outside")?;
    let mut agent = web.node.agent(&[])?;
    let beside = other.agent(&[])?;
    let before = programs(&beside, "eth0")?;
    for node in [&web.node, &other] {
        answers(&outside, node.host.addresses[0])?;
    }
    agent.kill9()?;
    agent.restart()?;
    agent.term()?;
    let output = web.node.cli(&["cleanup"])?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(programs(&beside, "eth0")? == before);
    ensure!(!device(&beside, "lb0")?.is_null());
    answers(&outside, other.host.addresses[0])
}

fn lb0_again(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[])?;
    let before = device(&agent, "lb0")?["index"].clone();
    web.node.host.netns.ip("link del lb0\n")?;
    eventually(SOON, || {
        let now = device(&agent, "lb0")?;
        ensure!(now["index"] != before && now["problem"].is_null(), "{now}");
        Ok(())
    })?;
    let routes = web.node.host.netns.show(&["route", "show", "dev", "lb0"])?;
    ensure!(routes.contains("169.254.42.1"), "{routes}");
    Ok(())
}

fn clsact(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let outside = lab.outside("outside")?;
    let tc = |arguments: &[&str]| -> Result<String> {
        let output = (web.node.host.netns)
            .within(|| Ok(std::process::Command::new("tc").args(arguments).output()?))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let filters = || tc(&["filter", "show", "dev", "eth0", "ingress"]);
    let mut agent = web.node.agent(&["--packet-hook", "clsact"])?;
    let address = web.node.host.addresses[0];
    answers(&outside, address)?;
    ensure!(filters()?.contains("lb_tc_in"), "{}", filters()?);
    tc(&["qdisc", "del", "dev", "eth0", "clsact"])?;
    let dial = Dial::tcp(SocketAddr::new(address, 30080));
    soon_who(&outside, &dial, 1, &["web"])?;
    answers(&outside, address)?;
    agent.kill9()?;
    ensure!(who(&outside, &dial, 1)? == ["web"]);
    agent.restart()?;
    answers(&outside, address)?;
    ensure!(
        filters()?.matches("handle 0x6c62").count() == 1,
        "{}",
        filters()?
    );
    agent.term()?;
    let output = web.node.cli(&["cleanup"])?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!filters()?.contains("lb_tc_in"), "{}", filters()?);
    Ok(())
}

/// A UDP socket of the host that is bound to `port` until it is finished.
fn holder(node: &Node, port: u16) -> Result<Task<()>> {
    let task = node.host.spawn("holder", move |control| {
        let _held = std::net::UdpSocket::bind(("0.0.0.0", port))?;
        control.say(&true)?;
        control.wait_for_stop(std::time::Duration::from_secs(60));
        Ok(())
    })?;
    task.hear::<bool>(SOON)?;
    Ok(task)
}

fn bound_ports(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let older = holder(&web.node, 45_001)?;
    let _agent = web.node.agent(&[])?;
    let later = holder(&web.node, 45_002)?;
    let _beside = holder(&web.node, 30_001)?;
    let map = sys::open_map(
        &maps_dir(&web.node.bpffs).join("LB_HOST_PORTS"),
        Access::Write,
    )?;
    let map = Mmap::new(map.as_fd(), 8, Access::Read)?;
    let mark = |port: u32| map.load(port, 0).context("no such port");
    eventually(SOON, || {
        ensure!(mark(45_001)? == BOUND_BEFORE, "{:x}", mark(45_001)?);
        Ok(())
    })?;
    ensure!(mark(45_002)? == 1 && mark(30_001)? == 0);
    later.finish(SOON)?;
    eventually(SOON, || {
        ensure!(mark(45_002)? == 0, "{:x}", mark(45_002)?);
        Ok(())
    })?;
    older.finish(SOON)?;
    // Its mark is taken back by the agent, which looks again from time to time.
    eventually(std::time::Duration::from_secs(45), || {
        ensure!(mark(45_001)? == 0);
        Ok(())
    })
}

/// Flows made up: one whose halves are both old, one of which a half was seen just now.
fn swept(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[])?;
    let map = sys::open_map(&maps_dir(&web.node.bpffs).join("LB4_FLOWS"), Access::Write)?;
    let addr = |last| Addr4 {
        ip4: [192, 0, 2, last],
    };
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let now = u32::try_from(now.tv_sec())?;
    let put = |sport: u16, seen_s: [u32; 2]| -> Result<[FlowKey<Addr4>; 2]> {
        let key = FlowKey::new(
            Proto::UDP,
            addr(1),
            BePort::new(sport),
            addr(2),
            BePort::new(80),
        );
        let val = FlowVal {
            src: addr(3),
            dst: addr(4),
            sport: BePort::new(sport),
            dport: BePort::new(8080),
            flags: FlowFlags::default(),
            seen_s: seen_s[0],
            ..FlowVal::zeroed()
        };
        let other = val.other_key(Proto::UDP);
        let answers = FlowVal {
            seen_s: seen_s[1],
            ..val.other_val(&key, 0)
        };
        let flows = sys::TypedMap::new(map.try_clone()?)?;
        let written = flows.update(&[key, other], &[val, answers]);
        written.map_err(|(_, error)| error)?;
        Ok([key, other])
    };
    let old = now.saturating_sub(1000);
    let over = put(1111, [old; 2])?;
    let alive = put(2222, [old, now])?;
    let is_there = |key: &FlowKey<Addr4>| -> Result<bool> {
        Ok(sys::lookup::<_, FlowVal<Addr4>>(map.as_fd(), key)?.is_some())
    };
    eventually(SOON, || {
        ensure!(!is_there(&over[0])? && !is_there(&over[1])?, "not swept");
        Ok(())
    })?;
    ensure!(is_there(&alive[0])? && is_there(&alive[1])?);
    ensure!(agent.metric("lb_flow_entries_swept_total", &["ip_family=\"IPv4\""])? >= 2.0);
    Ok(())
}
