//! Which endpoints answer: load balancers and externalIPs, traffic policies, draining, and topology hints.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, EndpointManifest, ServiceManifest, endpoint, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{CLUSTER_CIDR, Lab, Node, Pod};

use crate::harness::{Server, case, expect_refusal, servers, soon_who, who};

/// Dials enough to see both of two backends: one of them stays unseen once in 2^39.
pub const MANY: usize = 40;
pub const CLUSTER_IP: &str = "10.96.0.10:80";
pub const LB: &str = "198.51.100.7:80";
const EXTERNAL: &str = "198.51.100.8:80";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("policies", name, test);
    vec![
        case(
            "a_load_balancer_address_and_an_external_ip_are_served_on_the_node",
            load_balancer,
        ),
        case("a_closed_gate_leaves_external_ips_unserved", gated),
        case("an_ingress_with_ip_mode_proxy_is_not_served", proxy_mode),
        case("a_load_balancer_status_may_come_and_go", status_later),
        case(
            "other_ports_of_a_load_balancer_address_are_left_alone",
            other_ports,
        ),
        case(
            "external_local_still_lets_pod_and_host_reach_remote_endpoints",
            short_circuit,
        ),
        case(
            "external_local_without_a_detector_keeps_pods_to_local_endpoints",
            no_detector,
        ),
        case(
            "external_local_never_affects_the_cluster_ip",
            external_is_not_internal,
        ),
        case("internal_local_uses_local_endpoints_alone", internal_local),
        case(
            "internal_local_never_affects_external_addresses",
            internal_is_not_external,
        ),
        case("round_robin_takes_turns", round_robin),
    ]
}

/// A node with a client, a backend there and one on another node.
pub struct Two {
    pub node: Node,
    pub client: Pod,
    local: [Server; 1],
    remote: [Server; 1],
}

impl Two {
    pub fn new(lab: &Lab) -> Result<Self> {
        let (node, other) = (lab.node("node-a")?, lab.node("node-b")?);
        let client = node.pod("client")?;
        let (local, remote) = (
            servers(&node, ["local"], 8080)?,
            servers(&other, ["remote"], 8080)?,
        );
        Ok(Self {
            node,
            client,
            local,
            remote,
        })
    }

    pub fn local(&self) -> EndpointManifest {
        endpoint(&self.local[0].pod, "node-a")
    }

    pub fn remote(&self) -> EndpointManifest {
        endpoint(&self.remote[0].pod, "node-b")
    }

    pub fn publish<const N: usize>(
        &self,
        service: ServiceManifest,
        endpoints: [EndpointManifest; N],
    ) -> Result<()> {
        let listed = slices("ns/web").tcp(8080).endpoints(endpoints);
        self.node
            .publish::<Document>("web", [service.into(), listed.into()])
    }

    /// Who answers the client pod at `to`.
    pub fn see(&self, to: &str) -> Result<Vec<String>> {
        who(&self.client, &Dial::tcp(to.parse()?), MANY)
    }
}

pub fn external() -> ServiceManifest {
    svc("ns/web")
        .cluster_ip("10.96.0.10")
        .tcp(80)
        .node_port(30080)
        .ingress("198.51.100.7")
        .external_ip("198.51.100.8")
}

pub fn plain() -> ServiceManifest {
    svc("ns/web").cluster_ip("10.96.0.10").tcp(80)
}

/// Rule 69. Nothing is dialled: an address that nobody serves would leave the node.
fn gated(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(external(), [two.local()])?;
    let listed = |agent_args: &[&str]| -> Result<String> {
        let _agent = two.node.agent(agent_args)?;
        let output = two.node.cli(&["service", "get", "ns/web", "-o", "json"])?;
        Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(listed(&[])?.contains("198.51.100.8"));
    let closed = listed(&["--feature-gates", "AllowServiceExternalIPs=false"])?;
    ensure!(!closed.contains("198.51.100.8"), "{closed}");
    ensure!(closed.contains("198.51.100.7"), "{closed}");
    Ok(())
}

fn load_balancer(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let service = external()
        .cluster_ip("fd00:96::a")
        .ingress("2001:db8:7::7")
        .external_ip("2001:db8:7::8");
    two.publish(service, [two.local()])?;
    let _agent = two.node.agent(&[])?;
    for to in [LB, EXTERNAL, "[2001:db8:7::7]:80", "[2001:db8:7::8]:80"] {
        let to: SocketAddr = to.parse()?;
        for place in [&*two.client, &two.node.host] {
            let answer = place.ask(&Dial::tcp(to))??;
            ensure!(answer.by == "local" && answer.peer == to, "{answer:?}");
        }
    }
    Ok(())
}

/// Rule 59: the traffic goes to the real load balancer, here a pod that has the address.
fn proxy_mode(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let balancer = two.node.pod("balancer")?;
    balancer.netns.ip("addr add 198.51.100.9/32 dev lo\n")?;
    two.node.host.netns.ip(&format!(
        "route add 198.51.100.9/32 via {} dev pod2 onlink\n",
        balancer.addresses[0]
    ))?;
    let options = xtask::lab::ServeOptions::new(&["198.51.100.9:80".parse()?]);
    let _serve = balancer.serve_with(&options)?;
    two.publish(external().ingress_proxy("198.51.100.9"), [two.local()])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(LB)? == ["local"]);
    ensure!(two.see("198.51.100.9:80")? == ["balancer"]);
    Ok(())
}

/// Rule 87: such an address may be shared with other software, here a pod that has it.
fn other_ports(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let sharer = two.node.pod("sharer")?;
    for (address, to) in [
        ("198.51.100.7", "198.51.100.7:81"),
        ("198.51.100.8", "198.51.100.8:81"),
    ] {
        sharer
            .netns
            .ip(&format!("addr add {address}/32 dev lo\n"))?;
        let via = sharer.addresses[0];
        two.node.host.netns.ip(&format!(
            "route add {address}/32 via {via} dev pod2 onlink\n"
        ))?;
        let _serve = sharer.serve_with(&xtask::lab::ServeOptions::new(&[to.parse()?]))?;
        two.publish(external(), [two.local()])?;
        let _agent = two.node.agent(&[])?;
        ensure!(two.see(to)? == ["sharer"], "{to}");
        ensure!(two.see(&to.replace(":81", ":80"))? == ["local"]);
    }
    Ok(())
}

fn status_later(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let balancer = two.node.pod("balancer")?;
    balancer.netns.ip("addr add 198.51.100.7/32 dev lo\n")?;
    two.node.host.netns.ip(&format!(
        "route add 198.51.100.7/32 via {} dev pod2 onlink\n",
        balancer.addresses[0]
    ))?;
    let _serve = balancer.serve_with(&xtask::lab::ServeOptions::new(&[LB.parse()?]))?;
    two.publish(plain(), [two.local()])?;
    let _agent = two.node.agent(&[])?;
    let dial = Dial::tcp(LB.parse()?);
    soon_who(&two.client, &dial, 3, &["balancer"])?;
    two.publish(external(), [two.local()])?;
    soon_who(&two.client, &dial, 3, &["local"])?;
    two.publish(plain(), [two.local()])?;
    soon_who(&two.client, &dial, 3, &["balancer"])
}

/// Rules 39 and 40: with and without a local endpoint.
fn short_circuit(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(external().external_local(), [two.local(), two.remote()])?;
    let _agent = two.node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
    let node_port = two.node.host.v4(30080).to_string();
    for to in [LB, EXTERNAL, &node_port] {
        for place in [&*two.client, &two.node.host] {
            ensure!(
                who(place, &Dial::tcp(to.parse()?), MANY)? == ["local", "remote"],
                "{} {to}",
                place.name
            );
        }
    }
    two.publish(external().external_local(), [two.remote()])?;
    for to in [LB, EXTERNAL, &node_port] {
        for place in [&*two.client, &two.node.host] {
            soon_who(place, &Dial::tcp(to.parse()?), MANY, &["remote"])?;
        }
    }
    Ok(())
}

/// Rule 42: a pod counts as outside where nothing tells pods apart; the host's own sockets never do.
fn no_detector(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(external().external_local(), [two.local(), two.remote()])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(LB)? == ["local"]);
    ensure!(who(&two.node.host, &Dial::tcp(LB.parse()?), MANY)? == ["local", "remote"]);
    two.publish(external().external_local(), [two.remote()])?;
    soon_who(&two.node.host, &Dial::tcp(LB.parse()?), MANY, &["remote"])?;
    expect_refusal(&two.client, &Dial::tcp(LB.parse()?), Errno::EHOSTUNREACH)
}

fn external_is_not_internal(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(external().external_local(), [two.local(), two.remote()])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["local", "remote"], "rule 34");
    Ok(())
}

fn internal_local(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(plain().internal_local(), [two.local(), two.remote()])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(CLUSTER_IP)? == ["local"]);
    ensure!(
        who(&two.node.host, &Dial::tcp(CLUSTER_IP.parse()?), MANY)? == ["local"],
        "rule 37"
    );
    Ok(())
}

fn internal_is_not_external(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    two.publish(external().internal_local(), [two.remote()])?;
    let _agent = two.node.agent(&[])?;
    ensure!(two.see(LB)? == ["remote"], "rule 35");
    expect_refusal(
        &two.client,
        &Dial::tcp(CLUSTER_IP.parse()?),
        Errno::EHOSTUNREACH,
    )
}

/// Two backends, one client at a time: the answers alternate.
fn round_robin(lab: &Lab) -> Result<()> {
    let two = Two::new(lab)?;
    let service = plain().annotation("service.lb-agent.io/algorithm", "round-robin");
    two.publish(service, [two.local(), two.remote()])?;
    let _agent = two.node.agent(&[])?;
    let asked = two.client.ask_many(&Dial::tcp(CLUSTER_IP.parse()?), 20)?;
    let names: Vec<String> = asked
        .into_iter()
        .map(|asked| Ok(asked?.by))
        .collect::<Result<_>>()?;
    ensure!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    Ok(())
}
