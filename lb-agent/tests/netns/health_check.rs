//! healthCheckNodePorts over HTTP (rules 103 to 112), asked from a pod of the node.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use xtask::lab::manifest::{Document, EndpointManifest, ServiceManifest, endpoint, slices, svc};
use xtask::lab::{Lab, Place};

use crate::commands::text;
use crate::harness::{SOON, case, eventually};
use crate::load::Web;

const PORT: u16 = 30999;

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("health_check", name, test);
    vec![
        case(
            "a_load_balancer_is_told_how_many_endpoints_are_here",
            counted,
        ),
        case(
            "a_service_of_one_family_is_answered_for_in_both",
            both_families,
        ),
        case("a_check_follows_its_service", followed),
        case(
            "a_port_that_is_taken_is_answered_once_it_is_free",
            taken_port,
        ),
        case("checks_are_answered_on_listed_addresses_alone", listed),
    ]
}

/// Status, head in small letters, and body.
fn ask(place: &Place, to: SocketAddr, path: &str) -> Result<(u16, String, String)> {
    let path = path.to_owned();
    let answer = place.exec(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((code, head.to_lowercase(), body.to_owned()))
}

fn balanced(name: &str, ips: &[&str]) -> ServiceManifest {
    let service = svc(name).tcp(80).ingress("203.0.113.9").external_local();
    ips.iter()
        .fold(service, |service, ip| service.cluster_ip(ip))
        .health_check(PORT)
}

fn publish(web: &Web, service: ServiceManifest, endpoints: Vec<EndpointManifest>) -> Result<()> {
    let listed = slices("ns/web").tcp(8080).endpoints(endpoints);
    web.node
        .publish::<Document>("web", [service.into(), listed.into()])
}

/// Waits for an answer, and looks at all of it.
fn soon(web: &Web, address: IpAddr, code: u16, local: usize) -> Result<()> {
    eventually(SOON, || {
        let (got, head, body) = ask(&web.client, SocketAddr::new(address, PORT), "/any/path")?;
        ensure!(got == code, "{address}: {got} {body}");
        for header in [
            "content-type: application/json".to_owned(),
            "x-content-type-options: nosniff".to_owned(),
            format!("x-load-balancing-endpoint-weight: {local}"),
        ] {
            ensure!(
                head.lines().any(|line| line == header),
                "no {header} in {head}"
            );
        }
        let want = json!({
            "service": { "namespace": "ns", "name": "web" },
            "localEndpoints": local,
            "serviceProxyHealthy": true,
        });
        ensure!(serde_json::from_str::<Value>(&body)? == want, "{body}");
        ensure!(body.contains("\n\t\"localEndpoints\": "), "{body}");
        Ok(())
    })
}

fn counted(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    let service = || balanced("ns/web", &["10.96.0.10", "fd00:96::a"]);
    let elsewhere = || endpoint(&web.pods[3].pod, "node-b");
    publish(
        &web,
        service(),
        vec![web.endpoint(0), web.endpoint(1), elsewhere()],
    )?;
    let _agent = web.node.agent(&[])?;
    for address in web.node.host.addresses {
        soon(&web, address, 200, 2)?;
    }
    publish(
        &web,
        service(),
        vec![web.endpoint(0).terminating(true), elsewhere()],
    )?;
    for address in web.node.host.addresses {
        soon(&web, address, 503, 0)?;
    }
    Ok(())
}

fn both_families(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    publish(
        &web,
        balanced("ns/web", &["10.96.0.10"]),
        vec![web.endpoint(0)],
    )?;
    let _agent = web.node.agent(&[])?;
    for address in web.node.host.addresses {
        soon(&web, address, 200, 1)?;
    }
    Ok(())
}

/// Rule 111.
fn followed(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    let service = || balanced("ns/web", &["10.96.0.10", "fd00:96::a"]);
    publish(&web, service(), vec![web.endpoint(0)])?;
    let _agent = web.node.agent(&[])?;
    let [v4, _] = web.node.host.addresses;
    soon(&web, v4, 200, 1)?;
    let is_refused = |port: u16| {
        eventually(SOON, || {
            for address in web.node.host.addresses {
                let said = ask(&web.client, SocketAddr::new(address, port), "/");
                ensure!(said.is_err(), "{address}:{port} still answers: {said:?}");
            }
            Ok(())
        })
    };
    publish(&web, service().health_check(30998), vec![web.endpoint(0)])?;
    is_refused(PORT)?;
    let moved = ask(&web.client, SocketAddr::new(v4, 30998), "/")?;
    ensure!(moved.0 == 200, "{moved:?}");
    publish(&web, service(), vec![web.endpoint(0)])?;
    is_refused(30998)?;
    soon(&web, v4, 200, 1)?;
    publish(&web, service().external_cluster(), vec![web.endpoint(0)])?;
    is_refused(PORT)?;
    publish(&web, service(), vec![web.endpoint(0)])?;
    soon(&web, v4, 200, 1)?;
    web.node.withdraw("web")?;
    is_refused(PORT)
}

/// Rule 112.
fn taken_port(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    let [v4, v6] = web.node.host.addresses;
    let squatter = web.node.host.serve(PORT)?;
    let other = svc("ns/other")
        .tcp(81)
        .cluster_ip("10.96.0.11")
        .ingress("203.0.113.8")
        .external_local()
        .health_check(30998);
    web.node.publish("other", [other])?;
    publish(
        &web,
        balanced("ns/web", &["10.96.0.10", "fd00:96::a"]),
        vec![web.endpoint(0)],
    )?;
    let agent = web.node.agent(&[])?;
    let others = ask(&web.client, SocketAddr::new(v4, 30998), "/")?;
    ensure!(
        others.0 == 503,
        "the other Service is not served: {others:?}"
    );
    let log = agent.log();
    ensure!(
        log.contains(&format!("not answered on {v4}:{PORT}")) && log.contains("ns/web"),
        "{log}"
    );
    drop(squatter);
    soon(&web, v4, 200, 1)?;
    soon(&web, v6, 200, 1)
}

/// Rule 104.
fn listed(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    publish(
        &web,
        balanced("ns/web", &["10.96.0.10", "fd00:96::a"]),
        vec![web.endpoint(0)],
    )?;
    let second: IpAddr = "198.51.100.7".parse()?;
    web.node.add_address(second)?;
    let [v4, v6] = web.node.host.addresses;
    let (mut agent, at_second) = (web.node.agent(&[])?, SocketAddr::new(second, PORT));
    soon(&web, v4, 200, 1)?;
    soon(&web, v6, 200, 1)?;
    let said = ask(&web.node.host, at_second, "/");
    ensure!(
        said.is_err(),
        "answered beside the primary address: {said:?}"
    );
    agent.kill9()?;
    let _agent = web.node.agent(&["--nodeport-addresses", "all"])?;
    soon(&web, v6, 200, 1)?;
    let (code, _, body) = ask(&web.node.host, at_second, "/")?;
    ensure!(code == 200, "{body}");
    let listening = web.node.cli(&["status"])?;
    ensure!(listening.status.success(), "{}", text(&listening));
    Ok(())
}
