//! Which objects count and how they are joined (rules 1 to 20).

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{
    Document, EndpointManifest, ServiceManifest, SliceManifest, endpoint, service_cidr, slices, svc,
};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, Node, Place, Pod, SERVICE_CIDRS, Serve, ServeOptions, Task};

use crate::commands::text;
use crate::harness::{
    SOON, Server, case, counted, expect_refusal, servers, soon_refused, soon_who, tally, told, who,
};

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("objects", name, test);
    vec![
        case(
            "a_service_of_another_proxy_reaches_that_proxy_and_comes_back",
            other_proxy,
        ),
        case(
            "an_address_of_another_proxy_stays_its_own_through_a_restart",
            other_proxy_restart,
        ),
        case(
            "a_slice_of_another_proxy_brings_no_endpoints",
            other_proxys_slice,
        ),
        case(
            "a_service_serves_only_the_families_of_its_cluster_ips",
            families_gated,
        ),
        case(
            "a_family_without_endpoints_refuses_alone",
            families_independent,
        ),
        case("ports_are_joined_by_name_and_protocol", joined),
        case(
            "the_endpoints_of_several_slices_are_one_list_without_duplicates",
            several_slices,
        ),
        case("slices_may_come_before_their_service", slices_first),
        case(
            "two_services_with_one_external_ip_disturb_nobody_else",
            same_external_ip,
        ),
        case("core_endpoints_are_as_good_as_slices", core_endpoints),
        case(
            "headless_and_external_name_services_are_passed_over",
            passed_over,
        ),
        case(
            "a_service_addresses_pods_through_several_ports_of_one_ip",
            several_ports,
        ),
    ]
}

struct One {
    node: Node,
    client: Pod,
    web: [Server; 1],
}

impl One {
    fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("node-a")?;
        let client = node.pod("client")?;
        let web = servers(&node, ["web"], 8080)?;
        node.publish("cidr", [service_cidr("services", &SERVICE_CIDRS)])?;
        Ok(Self { node, client, web })
    }

    /// A pod that has the ClusterIP itself, and a server on each of the ports.
    fn other_proxy<const N: usize>(&self, ports: [u16; N]) -> Result<(Pod, Serve)> {
        let pod = self.node.pod("other")?;
        pod.netns.ip("addr add 10.96.0.10/32 dev lo\n")?;
        // The third of this node.
        (self.node.host.netns).ip("route add 10.96.0.10/32 dev pod2\n")?;
        let vip: IpAddr = "10.96.0.10".parse()?;
        let options = ServeOptions::new(&ports.map(|port| SocketAddr::new(vip, port)));
        let serve = pod.serve_with(&options.named("other"))?;
        Ok((pod, serve))
    }

    fn listed(&self) -> SliceManifest {
        slices("ns/web").tcp(8080).endpoint(&self.web[0].pod)
    }

    fn publish(&self, service: ServiceManifest, slices: SliceManifest) -> Result<()> {
        self.node
            .publish::<Document>("web", [service.into(), slices.into()])
    }
}

fn service() -> ServiceManifest {
    svc("ns/web")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::a")
        .tcp(80)
}

fn tcp(to: &str) -> Dial {
    Dial::tcp(to.parse().expect("an address"))
}

/// Rules 2 and 3: the label's presence counts, an empty value included. What we do not serve reaches whoever does: a
/// pod with the address itself stands for the other proxy.
fn other_proxy(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let _other = one.other_proxy([80])?;
    one.publish(service(), one.listed())?;
    let agent = one.node.agent(&[])?;
    let dial = tcp("10.96.0.10:80");
    let dials = keep_dialling(&one.client, &dial)?;
    for (label, value) in [(PROXY_NAME, "other"), (HEADLESS, ""), (PROXY_NAME, "")] {
        soon_who(&one.client, &dial, 1, &["web"])?;
        one.publish(service().label(label, value), one.listed())?;
        soon_who(&one.client, &dial, 1, &["other"])?;
        let said = one.node.cli(&["explain", "--to", "10.96.0.10:80"])?;
        ensure!(text(&said).contains("another proxy"), "{}", text(&said));
        one.publish(service(), one.listed())?;
    }
    soon_who(&one.client, &dial, 1, &["web"])?;
    let failed = dials.finish(SOON)?;
    ensure!(failed.is_empty(), "refused in between: {failed:?}");
    ensure!(counted(&agent, "unallocated_address")? == 0);

    one.node.withdraw("web")?;
    soon_refused(&one.client, &dial, Errno::EHOSTUNREACH)
}

/// Dials until it is told to finish, and tells what failed.
fn keep_dialling(place: &Place, dial: &Dial) -> Result<Task<Vec<String>>> {
    let dial = dial.clone();
    place.spawn("dials", move |control| {
        let mut failed = Vec::new();
        while !control.stop_asked() {
            failed.extend(dial.ask().err().map(|failure| failure.to_string()));
        }
        Ok(failed)
    })
}

/// A restart keeps another proxy's address as it is, and a port that we would refuse is not ours to refuse.
fn other_proxy_restart(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let _other = one.other_proxy([80, 8081])?;
    one.publish(service().label(PROXY_NAME, "other"), one.listed())?;
    let mut agent = one.node.agent(&[])?;
    for port in [80, 8081] {
        soon_who(
            &one.client,
            &tcp(&format!("10.96.0.10:{port}")),
            1,
            &["other"],
        )?;
    }
    let dials = keep_dialling(&one.client, &tcp("10.96.0.10:80"))?;
    agent.kill9()?;
    agent.restart()?;
    let failed = dials.finish(SOON)?;
    ensure!(failed.is_empty(), "refused in between: {failed:?}");
    soon_refused(&one.client, &tcp("10.96.0.11:80"), Errno::EHOSTUNREACH)
}

fn other_proxys_slice(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    one.publish(service(), one.listed().label(PROXY_NAME, "other"))?;
    let _agent = one.node.agent(&[])?;
    expect_refusal(&one.client, &tcp("10.96.0.10:80"), Errno::ECONNREFUSED)?;
    one.publish(service(), one.listed())?;
    soon_who(&one.client, &tcp("10.96.0.10:80"), 1, &["web"])
}

/// Rule 6: no IPv6 ClusterIP, so the IPv6 externalIP and the node port on IPv6 belong to nobody.
fn families_gated(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let external = "2001:db8:7::8";
    let service = svc("ns/web")
        .cluster_ip("10.96.0.10")
        .tcp(80)
        .node_port(30080);
    one.publish(
        service.external_ip(external).external_ip("198.51.100.8"),
        one.listed(),
    )?;
    let _agent = one.node.agent(&[])?;
    // The address is the client's own, so that an untranslated dial meets a closed port there.
    one.client
        .netns
        .ip(&format!("addr add {external}/128 dev lo nodad\n"))?;
    let node_v6 = one.node.host.v6(30080).to_string();
    ensure!(who(&one.client, &tcp("198.51.100.8:80"), 1)? == ["web"]);
    ensure!(who(&one.client, &tcp(&one.node.host.v4(30080).to_string()), 1)? == ["web"]);
    for to in [format!("[{external}]:80"), node_v6] {
        let refused = one.client.ask(&tcp(&to))?;
        ensure!(
            refused
                .as_ref()
                .is_err_and(|failure| failure.is(Errno::ECONNREFUSED)),
            "{to}: {refused:?}"
        );
    }
    Ok(())
}

fn families_independent(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let v4_alone = endpoint(&one.web[0].pod, "node-a").at(Some(one.web[0].pod.addresses[0]), None);
    one.publish(service(), slices("ns/web").tcp(8080).endpoint(v4_alone))?;
    let _agent = one.node.agent(&[])?;
    ensure!(who(&one.client, &tcp("10.96.0.10:80"), 1)? == ["web"]);
    expect_refusal(&one.client, &tcp("[fd00:96::a]:80"), Errno::ECONNREFUSED)
}

/// Rules 13 to 15: name and protocol join, the slice's number is dialled, TCP and UDP have their own endpoints.
fn joined(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let udp = servers(&one.node, ["udp"], 9053)?;
    let service = svc("ns/web")
        .cluster_ip("10.96.0.10")
        .port("a", "TCP", 80)
        .port("a-udp", "UDP", 80)
        .port("b", "TCP", 81);
    let tcp_slices = slices("ns/web")
        .port("a", "TCP", 8080)
        .port("b", "UDP", 8080)
        .endpoint(&one.web[0].pod);
    let udp_slices = slices("ns/web")
        .port("a-udp", "UDP", 9053)
        .endpoint(&udp[0].pod)
        .part("udp");
    one.node.publish::<Document>(
        "web",
        [service.into(), tcp_slices.into(), udp_slices.into()],
    )?;
    let _agent = one.node.agent(&[])?;
    ensure!(who(&one.client, &tcp("10.96.0.10:80"), 5)? == ["web"]);
    ensure!(who(&one.client, &Dial::udp("10.96.0.10:80".parse()?), 5)? == ["udp"]);
    expect_refusal(&one.client, &tcp("10.96.0.10:81"), Errno::ECONNREFUSED)
}

/// Rule 16: an endpoint that is in two slices has one share, not two. Of 600 dials a share of half is 300, of two
/// thirds 400; ten standard deviations are 122.
fn several_slices(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let second = servers(&one.node, ["web-2"], 8080)?;
    let both = one.listed().part("second").endpoint(&second[0].pod);
    one.node
        .publish::<Document>("web", [service().into(), one.listed().into(), both.into()])?;
    let _agent = one.node.agent(&[])?;
    let tally = tally(one.client.ask_many(&tcp("10.96.0.10:80"), 600)?)?;
    let share = tally.get("web").copied().unwrap_or(0);
    ensure!((240..=360).contains(&share), "{tally:?}");
    Ok(())
}

fn slices_first(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    one.node.publish("slices", [one.listed()])?;
    let _agent = one.node.agent(&[])?;
    expect_refusal(&one.client, &tcp("10.96.0.10:80"), Errno::EHOSTUNREACH)?;
    one.node.publish("web", [service()])?;
    soon_who(&one.client, &tcp("10.96.0.10:80"), 1, &["web"])
}

/// Rule 20: one of the two answers, always the same, and the rest of both works.
fn same_external_ip(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let second = servers(&one.node, ["second"], 8080)?;
    let external = "198.51.100.8";
    let other = svc("ns/zweb")
        .cluster_ip("10.96.0.11")
        .tcp(80)
        .external_ip(external);
    let documents: [Document; 4] = [
        service().external_ip(external).into(),
        one.listed().into(),
        other.into(),
        slices("ns/zweb").tcp(8080).endpoint(&second[0].pod).into(),
    ];
    one.node.publish("web", documents)?;
    let mut agent = one.node.agent(&[])?;
    ensure!(who(&one.client, &tcp("10.96.0.10:80"), 3)? == ["web"]);
    ensure!(who(&one.client, &tcp("10.96.0.11:80"), 3)? == ["second"]);
    let winner = who(&one.client, &tcp("198.51.100.8:80"), 20)?;
    ensure!(winner.len() == 1, "{winner:?}");
    agent.kill9()?;
    agent.restart()?;
    ensure!(
        who(&one.client, &tcp("198.51.100.8:80"), 20)? == winner,
        "a restart changed the winner"
    );
    Ok(())
}

fn core_endpoints(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let [v4, v6] = one.web[0].pod.addresses;
    let endpoints = format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web, namespace: ns}}\nsubsets:\n\
         - addresses: [{{ip: {v4}, nodeName: node-a}}, {{ip: '{v6}', nodeName: node-a}}]\n  \
         ports: [{{port: 8080, protocol: TCP}}]\n"
    );
    one.node.publish("web", [service().internal_local()])?;
    one.node.publish_text("endpoints", &endpoints)?;
    let _agent = one.node.agent(&[])?;
    for to in ["10.96.0.10:80", "[fd00:96::a]:80"] {
        ensure!(who(&one.client, &tcp(to), 3)? == ["web"], "{to}");
    }
    Ok(())
}

/// Rules 4 and 5. They are ordinary objects, so nothing is skipped loudly either.
fn passed_over(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    one.publish(service(), one.listed())?;
    let others = "apiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: ns}\n\
                  spec: {clusterIP: None, ports: [{port: 80}]}\n---\n\
                  apiVersion: v1\nkind: Service\nmetadata: {name: external, namespace: ns}\n\
                  spec: {type: ExternalName, externalName: example.org, clusterIP: 10.96.0.77, ports: [{port: 80}]}\n";
    one.node.publish_text("others", others)?;
    let agent = one.node.agent(&[])?;
    ensure!(who(&one.client, &tcp("10.96.0.10:80"), 1)? == ["web"]);
    expect_refusal(&one.client, &tcp("10.96.0.77:80"), Errno::EHOSTUNREACH)?;
    ensure!(told(&agent, "skippedObjects")? == 0);
    Ok(())
}

/// Rule 17: one address with two ports is two endpoints.
fn several_ports(lab: &Lab) -> Result<()> {
    let one = One::new(lab)?;
    let pod = &one.web[0].pod;
    let options = xtask::lab::ServeOptions::new(&[pod.v4(8081), pod.v6(8081)]).named("second-port");
    let _second = pod.serve_with(&options)?;
    let second = slices("ns/web")
        .tcp(8081)
        .endpoint(EndpointManifest::from(pod))
        .part("second");
    one.node.publish::<Document>(
        "web",
        [service().into(), one.listed().into(), second.into()],
    )?;
    let _agent = one.node.agent(&[])?;
    let vip: SocketAddr = "10.96.0.10:80".parse()?;
    ensure!(who(&one.client, &Dial::tcp(vip), 40)? == ["second-port", "web"]);
    Ok(())
}
