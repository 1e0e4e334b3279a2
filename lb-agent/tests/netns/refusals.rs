//! Who dials a Service that has nobody to answer is told so at once, by every call of every protocol.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use xtask::lab::manifest::{Document, endpoint, service_cidr, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Agent, Lab, Node, Pod, SERVICE_CIDRS, Serve, ServeOptions};

use crate::harness::{
    Scene, Server, case, counted, errno, expect_refusal, servers, soon_refused, soon_who, who,
};

/// Three Services: one without endpoints, one with endpoints on the other node alone and policy Local, one that serves.
struct Refusing {
    agent: Agent,
    node: Node,
    client: Pod,
    _remote: [Server; 1],
    _other: Node,
}

/// A Service of both families on TCP and UDP port 80, at `10.96.1.<number>` and `fd00:96::1<number>`.
fn service(name: &str, number: u8) -> xtask::lab::manifest::ServiceManifest {
    svc(name)
        .cluster_ip(&format!("10.96.1.{number}"))
        .cluster_ip(&format!("fd00:96::1{number:02}"))
        .port("tcp", "TCP", 80)
        .port("udp", "UDP", 80)
}

fn vips(number: u8, port: u16) -> [SocketAddr; 2] {
    let [v4, v6] = [
        format!("10.96.1.{number}"),
        format!("fd00:96::1{number:02}"),
    ];
    [v4, v6].map(|vip| SocketAddr::new(vip.parse().expect("an address"), port))
}

fn build(lab: &Lab) -> Result<Refusing> {
    let (node, other) = (lab.node("node-a")?, lab.node("node-b")?);
    let client = node.pod("client")?;
    let remote = servers(&other, ["remote"], 8080)?;
    let remote_slices = |name: &str| {
        let slices = slices(name)
            .port("tcp", "TCP", 8080)
            .port("udp", "UDP", 8080);
        Document::from(slices.endpoint(&remote[0].pod))
    };
    let gone = slices("ns/unready")
        .port("tcp", "TCP", 8080)
        .port("udp", "UDP", 8080);
    node.publish::<Document>(
        "services",
        [
            service("ns/empty", 1).into(),
            service("ns/local", 2).internal_local().into(),
            remote_slices("ns/local"),
            service("ns/serving", 3).into(),
            remote_slices("ns/serving"),
            service("ns/unready", 4).into(),
            gone.endpoint(endpoint(&remote[0].pod, "node-b").not_ready())
                .into(),
            service_cidr("services", &SERVICE_CIDRS),
        ],
    )?;
    let agent = node.agent(&[])?;
    Ok(Refusing {
        agent,
        node,
        client,
        _remote: remote,
        _other: other,
    })
}

pub fn trials() -> Vec<Trial> {
    let scene = Scene::new("refusals", build);
    let rows = [
        (
            "no_endpoints_refuse_at_once",
            "no_endpoints",
            1,
            80,
            Errno::ECONNREFUSED,
        ),
        (
            "unready_endpoints_refuse_at_once",
            "no_endpoints",
            4,
            80,
            Errno::ECONNREFUSED,
        ),
        (
            "an_unknown_port_of_a_cluster_ip_refuses_at_once",
            "unknown_port",
            3,
            81,
            Errno::ECONNREFUSED,
        ),
        (
            "internal_local_without_local_endpoint_is_unreachable_at_once",
            "no_local_endpoints",
            2,
            80,
            Errno::EHOSTUNREACH,
        ),
        (
            "an_unallocated_service_address_is_unreachable_at_once",
            "unallocated_address",
            99,
            80,
            Errno::EHOSTUNREACH,
        ),
    ];
    let mut trials: Vec<Trial> = rows
        .into_iter()
        .map(|(name, reason, number, port, errno)| {
            scene.case(name, move |scene| {
                refused_everywhere(scene, reason, vips(number, port), errno)
            })
        })
        .collect();
    trials.extend([
        scene.case("a_service_beside_refusing_ones_answers", |scene| {
            for vip in vips(3, 80) {
                ensure!(who(&scene.client, &Dial::tcp(vip), 1)? == ["remote"]);
            }
            Ok(())
        }),
        scene.case(
            "a_failed_datagram_leaves_the_socket_usable",
            usable_after_refusal,
        ),
        case(
            "refusals",
            "refusals_come_and_go_with_the_endpoints",
            come_and_go,
        ),
        case(
            "refusals",
            "a_service_cidr_takes_effect_when_it_comes_and_when_it_goes",
            cidr_changes,
        ),
        case(
            "refusals",
            "without_a_service_cidr_unknown_addresses_are_left_alone",
            no_cidr,
        ),
    ]);
    trials
}

/// Refused from pod and host, by connect, by send and by sendto, in both families, and counted by its reason.
fn refused_everywhere(
    scene: &Refusing,
    reason: &str,
    vips: [SocketAddr; 2],
    expected: Errno,
) -> Result<()> {
    let before = counted(&scene.agent, reason)?;
    let mut refusals = 0;
    for place in [&*scene.client, &scene.node.host] {
        for vip in vips {
            for dial in dials(vip) {
                expect_refusal(place, &dial, expected)?;
                refusals += 1;
            }
        }
    }
    let counted = counted(&scene.agent, reason)? - before;
    ensure!(
        counted >= refusals,
        "{refusals} refusals, but {reason} rose by {counted}"
    );
    Ok(())
}

fn dials(vip: SocketAddr) -> Vec<Dial> {
    let mut dials = vec![
        Dial::tcp(vip),
        Dial::udp(vip),
        Dial::udp(vip).unconnected(),
        Dial::tcp(vip).fast_open(),
    ];
    if vip.is_ipv4() {
        let mapped: Vec<Dial> = dials.iter().map(|dial| dial.clone().mapped()).collect();
        dials.extend(mapped);
    }
    dials
}

fn usable_after_refusal(scene: &Refusing) -> Result<()> {
    let ([empty, _], [serving, _]) = (vips(1, 80), vips(3, 80));
    scene.client.exec(|| {
        let socket = Dial::udp(empty).unconnected().open()?;
        for _ in 0..3 {
            let refused = xtask::lab::traffic::exchange(&socket, empty);
            ensure!(refused.is_err_and(|failure| failure.is(Errno::ECONNREFUSED)));
            ensure!(xtask::lab::traffic::exchange(&socket, serving)?.by == "remote");
        }
        Ok(())
    })
}

/// Rules 43 and 45: the refusal is for as long as nobody serves, and for new connections alone.
fn come_and_go(lab: &Lab) -> Result<()> {
    let node = lab.node("node-a")?;
    let client = node.pod("client")?;
    let pods = servers(&node, ["web"], 8080)?;
    let web = || Document::from(svc("ns/web").cluster_ip("10.96.1.1").tcp(80));
    let listed = || Document::from(slices("ns/web").tcp(8080).endpoint(&pods[0].pod));
    let dial = Dial::tcp("10.96.1.1:80".parse()?);
    node.publish("web", [web()])?;
    let _agent = node.agent(&[])?;
    ensure!(errno(&client, &dial)? == Errno::ECONNREFUSED);
    for _ in 0..3 {
        node.publish("web", [web(), listed()])?;
        soon_who(&client, &dial, 1, &["web"])?;
        node.publish("web", [web()])?;
        soon_refused(&client, &dial, Errno::ECONNREFUSED)?;
    }
    Ok(())
}

/// A pod that answers at 10.96.1.5, an address between those of two Services.
fn stranger(lab: &Lab) -> Result<(Node, Pod, Pod, Serve)> {
    let node = lab.node("node-a")?;
    let (client, stranger) = (node.pod("client")?, node.pod("stranger")?);
    node.publish(
        "web",
        [
            svc("ns/web").cluster_ip("10.96.1.1").tcp(80),
            svc("ns/web2").cluster_ip("10.96.1.9").tcp(80),
        ],
    )?;
    stranger.netns.ip("addr add 10.96.1.5/32 dev lo\n")?;
    node.host.netns.ip(&format!(
        "route add 10.96.1.5/32 via {} dev pod1 onlink\n",
        stranger.addresses[0]
    ))?;
    let serve = stranger.serve_with(&ServeOptions::new(&["10.96.1.5:80".parse()?]))?;
    Ok((node, client, stranger, serve))
}

/// Rule 84 needs a ServiceCIDR; without one an address that no Service has is somebody else's.
fn no_cidr(lab: &Lab) -> Result<()> {
    let (node, client, _stranger, _serve) = stranger(lab)?;
    let _agent = node.agent(&[])?;
    ensure!(who(&client, &Dial::tcp("10.96.1.5:80".parse()?), 1)? == ["stranger"]);
    expect_refusal(
        &client,
        &Dial::tcp("10.96.1.9:80".parse()?),
        Errno::ECONNREFUSED,
    )
}

fn cidr_changes(lab: &Lab) -> Result<()> {
    let (node, client, _stranger, _serve) = stranger(lab)?;
    let _agent = node.agent(&[])?;
    let dial = Dial::tcp("10.96.1.5:80".parse()?);
    for _ in 0..2 {
        soon_who(&client, &dial, 1, &["stranger"])?;
        node.publish("cidr", [service_cidr("services", &SERVICE_CIDRS)])?;
        soon_refused(&client, &dial, Errno::EHOSTUNREACH)?;
        node.withdraw("cidr")?;
    }
    soon_who(&client, &dial, 1, &["stranger"])
}
