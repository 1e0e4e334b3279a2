//! loadBalancerSourceRanges (rules 62 to 65) for clients on this node.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, ServiceManifest, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Agent, Lab, Node, Pod};

use crate::harness::{
    SOON, Server, case, counted, eventually, expect_refusal, servers, soon_who, who,
};

const LB4: &str = "198.51.100.7:80";
const LB6: &str = "[2001:db8:7::7]:80";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("sources", name, test);
    vec![
        case("pods_and_host_inside_the_source_ranges_are_served", inside),
        case(
            "pods_and_host_outside_the_source_ranges_are_unreachable",
            outside,
        ),
        case("ranges_that_hold_some_pods_tell_them_apart", mixed),
        case(
            "ranges_of_the_other_family_leave_a_family_unfiltered",
            other_family,
        ),
        case(
            "source_ranges_bind_neither_cluster_ip_nor_node_port_nor_external_ip",
            only_load_balancers,
        ),
        case(
            "source_ranges_come_before_the_verdict_on_endpoints",
            before_endpoints,
        ),
        case("a_change_of_the_source_ranges_takes_effect", live_change),
    ]
}

struct Filtered {
    node: Node,
    agent: Agent,
    pods: [Pod; 2],
    _web: [Server; 1],
}

fn lb() -> ServiceManifest {
    svc("ns/web")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::a")
        .tcp(80)
        .node_port(30080)
        .ingress("198.51.100.7")
        .ingress("2001:db8:7::7")
        .external_ip("198.51.100.8")
}

fn scene(lab: &Lab, service: ServiceManifest) -> Result<Filtered> {
    let node = lab.node("node-a")?;
    let web = servers(&node, ["web"], 8080)?;
    let pods = [node.pod("pod-2")?, node.pod("pod-3")?];
    let listed = slices("ns/web").tcp(8080).endpoint(&web[0].pod);
    node.publish::<Document>("web", [service.into(), listed.into()])?;
    let agent = node.agent(&[])?;
    Ok(Filtered {
        node,
        agent,
        pods,
        _web: web,
    })
}

fn vips() -> [SocketAddr; 2] {
    [LB4, LB6].map(|vip| vip.parse().expect("an address"))
}

fn inside(lab: &Lab) -> Result<()> {
    let ranges = lb()
        .source_range("10.244.0.0/16")
        .source_range("172.18.0.0/24");
    let scene = scene(
        lab,
        ranges
            .source_range("fd00:244::/32")
            .source_range("fd00:18::/64"),
    )?;
    for vip in vips() {
        ensure!(who(&scene.pods[0], &Dial::tcp(vip), 3)? == ["web"]);
        ensure!(who(&scene.node.host, &Dial::tcp(vip), 3)? == ["web"]);
    }
    Ok(())
}

fn outside(lab: &Lab) -> Result<()> {
    let scene = scene(
        lab,
        lb().source_range("203.0.113.0/24")
            .source_range("2001:db8:ff::/48"),
    )?;
    for vip in vips() {
        for place in [&*scene.pods[0], &scene.node.host] {
            expect_refusal(place, &Dial::tcp(vip), Errno::EHOSTUNREACH)?;
        }
    }
    ensure!(counted(&scene.agent, "source_denied")? >= 4);
    Ok(())
}

/// The address of an unbound socket is found in its network namespace, which the first dial may have to introduce.
fn mixed(lab: &Lab) -> Result<()> {
    let ranges = lb()
        .source_range(" 10.244.1.2/32")
        .source_range("10.244.1.4/32")
        .source_range("fd00:244:1::2/128 ")
        .source_range("fd00:244:1::4/128");
    let scene = scene(lab, ranges)?;
    let [in_range, out_of_range] = &scene.pods;
    for vip in vips() {
        soon_who(in_range, &Dial::tcp(vip), 5, &["web"])?;
        for _ in 0..5 {
            expect_refusal(out_of_range, &Dial::tcp(vip), Errno::EHOSTUNREACH)?;
        }
        let index = usize::from(vip.is_ipv6());
        let bound = |pod: &Pod| Dial::tcp(vip).bound_to(pod.addresses[index]);
        ensure!(who(in_range, &bound(in_range), 1)? == ["web"]);
        expect_refusal(out_of_range, &bound(out_of_range), Errno::EHOSTUNREACH)?;
    }
    // Namespaces that are made while the agent runs are learnt as well, the first dial from them introduces them.
    let newcomers = [scene.node.pod("newcomer-4")?, scene.node.pod("newcomer-5")?];
    for vip in vips() {
        expect_refusal(&newcomers[1], &Dial::tcp(vip), Errno::EHOSTUNREACH)?;
        soon_who(&newcomers[0], &Dial::tcp(vip), 5, &["web"])?;
        expect_refusal(&newcomers[1], &Dial::tcp(vip), Errno::EHOSTUNREACH)?;
    }
    Ok(())
}

fn other_family(lab: &Lab) -> Result<()> {
    let scene = scene(lab, lb().source_range("2001:db8:ff::/48"))?;
    let [v4, v6] = vips();
    ensure!(
        who(&scene.pods[0], &Dial::tcp(v4), 3)? == ["web"],
        "rule 65"
    );
    expect_refusal(&scene.pods[0], &Dial::tcp(v6), Errno::EHOSTUNREACH)
}

fn only_load_balancers(lab: &Lab) -> Result<()> {
    let scene = scene(lab, lb().source_range("203.0.113.0/24"))?;
    let node_port = scene.node.host.v4(30080);
    for to in [
        "10.96.0.10:80".parse()?,
        node_port,
        "198.51.100.8:80".parse()?,
    ] {
        ensure!(who(&scene.pods[0], &Dial::tcp(to), 3)? == ["web"], "{to}");
    }
    expect_refusal(&scene.pods[0], &Dial::tcp(vips()[0]), Errno::EHOSTUNREACH)
}

fn before_endpoints(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let pod = node.pod("pod")?;
    let service = lb().source_range("203.0.113.0/24");
    node.publish("web", [service])?;
    let _agent = node.agent(&[])?;
    expect_refusal(&pod, &Dial::tcp(vips()[0]), Errno::EHOSTUNREACH)?;
    expect_refusal(
        &pod,
        &Dial::tcp("10.96.0.10:80".parse()?),
        Errno::ECONNREFUSED,
    )
}

fn live_change(lab: &Lab) -> Result<()> {
    let scene = scene(lab, lb().source_range("203.0.113.0/24"))?;
    let dial = Dial::tcp(vips()[0]);
    expect_refusal(&scene.pods[0], &dial, Errno::EHOSTUNREACH)?;
    let listed = || Document::from(slices("ns/web").tcp(8080).endpoint(&scene._web[0].pod));
    let publish = |range: &str| {
        scene
            .node
            .publish::<Document>("web", [lb().source_range(range).into(), listed()])
    };
    publish("10.244.0.0/16")?;
    soon_who(&scene.pods[0], &dial, 3, &["web"])?;
    publish("203.0.113.0/24")?;
    eventually(SOON, || {
        expect_refusal(&scene.pods[0], &dial, Errno::EHOSTUNREACH)
    })
}
