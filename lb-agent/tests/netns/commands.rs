//! The command line and what the agent shows of itself: while it runs and after it has gone.

use std::process::Output;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use xtask::lab::manifest::{Document, endpoint, slices, svc};
use xtask::lab::{Lab, Place};

use crate::harness::case;
use crate::load::{VIP, Web};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("commands", name, test);
    vec![
        case(
            "service_list_and_get_work_with_and_without_the_agent",
            list_and_get,
        ),
        case(
            "explain_tells_backends_and_refusals_with_their_reasons",
            explain,
        ),
        case("explain_knows_the_caller_by_its_process", explain_pid),
        case("explain_tells_the_way_of_packets", explain_packets),
        case("check_lists_what_the_kernel_has", check),
    ]
}

pub fn web(lab: &Lab) -> Result<Web> {
    let web = Web::new(lab)?;
    web.publish([
        web.endpoint(0),
        web.endpoint(1),
        web.endpoint(2).not_ready(),
        web.endpoint(3).terminating(true),
    ])?;
    web.node
        .publish("empty", [svc("ns/empty").cluster_ip("10.96.0.11").tcp(80)])?;
    Ok(web)
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn run(web: &Web, arguments: &[&str]) -> Result<String> {
    let output = web.node.cli(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

pub fn json(web: &Web, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&run(web, arguments)?)?)
}

fn list_and_get(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let mut agent = web.node.agent(&[])?;
    let look = || -> Result<Vec<String>> {
        let table = run(&web, &["service", "list"])?;
        for word in ["ns/web", "10.96.0.10", "fd00:96::a", "ns/empty"] {
            ensure!(table.contains(word), "no {word} in\n{table}");
        }
        let one = run(&web, &["service", "get", "ns/web"])?;
        let [ready, ..] = &web.pods;
        ensure!(one.contains(&ready.pod.addresses[0].to_string()), "{one}");
        ensure!(!one.contains("10.96.0.11"), "{one}");
        let object = json(&web, &["service", "get", "ns/web", "-o", "json"])?;
        ensure!(object.to_string().contains("10.96.0.10"));
        let yaml = run(&web, &["service", "get", "ns/web", "-o", "yaml"])?;
        let of_yaml: Value = serde_yaml_ng::from_str(&yaml)?;
        ensure!(of_yaml == object, "YAML and JSON differ");
        Ok(vec![table, one, yaml])
    };
    let running = look()?;
    agent.kill9()?;
    ensure!(look()? == running, "the agent's end changed the picture");
    let output = web.node.cli(&["service", "get", "ns/nowhere"])?;
    ensure!(
        !output.status.success() && text(&output).contains("ns/nowhere"),
        "{}",
        text(&output)
    );
    Ok(())
}

fn explain(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let mut agent = web.node.agent(&[])?;
    for _ in 0..2 {
        let said = run(&web, &["explain", "--to", VIP])?;
        for word in [
            "ns/web",
            "10.244.1.2:8080",
            "10.244.1.3:8080",
            "10.244.1.4:8080",
            "not ready",
            "terminating",
        ] {
            ensure!(said.contains(word), "no {word:?} in\n{said}");
        }
        let refused = run(&web, &["explain", "--to", "10.96.0.11:80/TCP"])?;
        ensure!(
            refused.contains("ECONNREFUSED") && refused.contains("ns/empty"),
            "{refused}"
        );
        let unknown_port = run(&web, &["explain", "--to", "10.96.0.10:81"])?;
        ensure!(
            unknown_port.contains("ECONNREFUSED") && unknown_port.contains("83"),
            "{unknown_port}"
        );
        let v6 = run(&web, &["explain", "--to", "[fd00:96::a]:80/udp"])?;
        ensure!(v6.contains("[fd00:244:1::2]:8080"), "{v6}");
        let plain = run(&web, &["explain", "--to", "192.0.2.1:80"])?;
        ensure!(plain.to_lowercase().contains("not a service"), "{plain}");
        if agent.is_running() {
            agent.kill9()?;
        }
    }
    Ok(())
}

/// To this node's endpoint as the client sent it, to the other node's from an address of this one (rules 77, 79).
fn explain_packets(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let other = lab.node("node-b")?;
    let (here, there) = (web.node.pod("here")?, other.pod("there")?);
    let far = svc("ns/far")
        .cluster_ip("10.96.0.12")
        .cluster_ip("fd00:96::c");
    let listed = slices("ns/far")
        .tcp(8080)
        .endpoint(endpoint(&here, &web.node.name))
        .endpoint(endpoint(&there, &other.name));
    let service = far.tcp(80).node_port(30082);
    (web.node).publish::<Document>("far", [service.into(), listed.into()])?;
    let outside = lab.outside("outside")?;
    let _agent = web.node.agent(&[])?;
    for (family, node) in web.node.host.addresses.into_iter().enumerate() {
        let from = outside.addresses[family].to_string();
        let to = std::net::SocketAddr::new(node, 30082).to_string();
        let asked = [
            "explain", "--from", &from, "--dev", "eth0", "--to", &to, "-o", "json",
        ];
        let told = json(&web, &asked)?;
        ensure!(told["client"]["class"] == "outside", "{told:#}");
        ensure!(told["verdict"]["kind"] == "dnat", "{told:#}");
        let way = |pod: &Place| {
            let address = pod.addresses[family].to_string();
            let all = told["candidates"].as_array()?;
            let one = all.iter().find(|one| one["address"] == address)?;
            one["way"].as_str()
        };
        let masqueraded = format!("out of eth0, masqueraded as {node} (rule 79)");
        ensure!(way(&there) == Some(&masqueraded), "{told:#}");
        let kept = format!("up the stack from {from}, as the client sent it");
        ensure!(way(&here) == Some(&kept), "{told:#}");
    }
    let wrong = web.node.cli(&[
        "explain",
        "--from",
        "192.0.2.7",
        "--dev",
        "eth7",
        "--to",
        VIP,
    ])?;
    ensure!(
        !wrong.status.success() && text(&wrong).contains("--dev eth7: no such device"),
        "{}",
        text(&wrong)
    );
    Ok(())
}

/// A pod may not reach it, the host may: the ranges hold the node's addresses alone.
fn explain_pid(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let lb = svc("ns/lb")
        .cluster_ip("10.96.0.30")
        .tcp(80)
        .ingress("198.51.100.7");
    web.node.publish::<xtask::lab::manifest::Document>(
        "lb",
        [
            lb.source_range("172.18.0.0/24").into(),
            slices("ns/lb").tcp(8080).endpoint(&web.pods[0].pod).into(),
        ],
    )?;
    let agent = web.node.agent(&[])?;
    let to = "198.51.100.7:80";
    let pod = run(
        &web,
        &[
            "explain",
            "--pid",
            &web.client.pid().to_string(),
            "--to",
            to,
        ],
    )?;
    ensure!(pod.contains("EHOSTUNREACH") && pod.contains("63"), "{pod}");
    let host = run(
        &web,
        &["explain", "--pid", &agent.pid().to_string(), "--to", to],
    )?;
    ensure!(
        host.contains("10.244.1.2:8080") && !host.contains("EHOSTUNREACH"),
        "{host}"
    );
    Ok(())
}

fn check(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    // It is for the time before the first agent as well.
    for _ in 0..2 {
        let said = run(&web, &["check"])?.to_lowercase();
        for word in ["btf", "cgroup", "connect4", "ring", "storage"] {
            ensure!(said.contains(word), "no {word} in\n{said}");
        }
        json(&web, &["check", "-o", "json"])?;
        drop(web.node.agent(&[])?);
    }
    Ok(())
}
