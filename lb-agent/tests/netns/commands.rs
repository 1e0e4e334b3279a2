//! The command line and what the agent shows of itself: while it runs and after it has gone.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use xtask::lab::Lab;
use xtask::lab::manifest::{slices, svc};
use xtask::lab::traffic::Dial;

use crate::changes::Web;
use crate::harness::{case, counted, who};

const VIP: &str = "10.96.0.10:80";

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
        case("status_tells_a_healthy_agent_from_one_that_is_gone", status),
        case("status_notices_a_hook_that_was_detached", detached),
        case("check_lists_what_the_kernel_has", check),
        case("counters_by_reason_rise_on_the_metrics_page", metrics),
        case("health_and_metrics_pages_answer_as_kube_proxys_do", pages),
        case("bpftool_prints_the_names_of_fields", bpftool),
        case("map_and_program_names_read_like_the_architecture", names),
    ]
}

fn web(lab: &Lab) -> Result<Web> {
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

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

fn run(web: &Web, arguments: &[&str]) -> Result<String> {
    let output = web.node.cli(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

fn json(web: &Web, arguments: &[&str]) -> Result<Value> {
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

fn status(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let before = web.node.cli(&["status"])?;
    ensure!(
        !before.status.success(),
        "healthy before any agent: {}",
        text(&before)
    );
    let mut agent = web.node.agent(&[])?;
    let healthy = json(&web, &["status", "-o", "json"])?;
    ensure!(healthy.to_string().contains("LB4_FRONTENDS"), "{healthy}");
    agent.kill9()?;
    let gone = web.node.cli(&["status"])?;
    ensure!(
        !gone.status.success(),
        "healthy without an agent: {}",
        text(&gone)
    );
    Ok(())
}

/// The link's pin goes, and with it the hook: nothing else tells.
fn detached(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[])?;
    std::fs::remove_file(web.node.bpffs.join("v1/links/lb_connect4"))
        .context("the pin of lb_connect4")?;
    crate::harness::eventually(crate::harness::SOON, || {
        let output = web.node.cli(&["status"])?;
        // Either it is noticed, or it is repaired.
        let is_repaired =
            output.status.success() && who(&web.client, &Dial::tcp(VIP.parse()?), 1).is_ok();
        ensure!(
            is_repaired || text(&output).contains("lb_connect4"),
            "{}",
            text(&output)
        );
        Ok(())
    })?;
    ensure!(agent.is_running());
    Ok(())
}

fn check(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let said = run(&web, &["check"])?.to_lowercase();
    for word in ["btf", "cgroup", "connect4", "ring", "storage"] {
        ensure!(said.contains(word), "no {word} in\n{said}");
    }
    json(&web, &["check", "-o", "json"])?;
    Ok(())
}

fn metrics(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[])?;
    let refused = Dial::tcp("10.96.0.11:80".parse()?);
    ensure!(counted(&agent, "no_endpoints")? == 0.0);
    ensure!(web.client.ask_many(&refused, 7)?.iter().all(Result::is_err));
    ensure!(counted(&agent, "no_endpoints")? == 7.0);
    let before = counted(&agent, "hit_chosen")?;
    who(&web.client, &Dial::tcp(VIP.parse()?), 10)?;
    let hits = counted(&agent, "hit_chosen")? - before;
    ensure!((10.0..20.0).contains(&hits), "{hits} hits for 10 dials");
    ensure!(counted(&agent, "peer_translated")? >= 10.0);
    ensure!(agent.metric("lb_map_entries", &["LB4_FRONTENDS"])? >= 3.0);
    ensure!(agent.metric("lb_map_capacity", &["LB4_FRONTENDS"])? >= 65536.0);
    ensure!(agent.metric("lb_apply_duration_seconds_count", &[])? >= 1.0);
    Ok(())
}

/// Rules 114 to 121.
fn pages(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[])?;
    for path in ["/healthz", "/livez"] {
        let (code, body) = agent.get("127.0.0.1:10256", path)?;
        ensure!(code == 200, "{path} answers {code}: {body}");
        let object: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(object.get("lastUpdated").is_some(), "{body}");
    }
    ensure!(agent.get("127.0.0.1:10249", "/healthz")? == (200, "ok".to_owned()));
    ensure!(agent.get("127.0.0.1:10249", "/proxyMode")?.0 == 200);
    Ok(())
}

fn bpftool(lab: &Lab) -> Result<()> {
    if which().is_none() {
        anyhow::bail!("needs the program bpftool (Debian package bpftool)");
    }
    let web = web(lab)?;
    let _agent = web.node.agent(&[])?;
    let fields = [
        ("LB4_FRONTENDS", "\"service\""),
        ("LB4_SERVICES", "\"affinity_timeout_s\""),
        ("LB6_BACKENDS", "\"generation\""),
    ];
    for (map, field) in fields {
        let pin = web.node.bpffs.join("v1/maps").join(map);
        let output = Command::new("bpftool")
            .args(["-j", "map", "dump", "pinned"])
            .arg(pin)
            .output()?;
        ensure!(
            output.status.success() && text(&output).contains(field),
            "no {field} in the dump of {map}"
        );
    }
    Ok(())
}

fn which() -> Option<std::path::PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|path| path.join("bpftool"))
        .find(|path| path.exists())
}

fn names(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let _agent = web.node.agent(&[])?;
    let list = |folder: &str| -> Result<Vec<String>> {
        let entries = std::fs::read_dir(web.node.bpffs.join("v1").join(folder))?;
        let mut names: Vec<String> = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    };
    let links = [
        "lb_connect4",
        "lb_connect6",
        "lb_getpeer4",
        "lb_getpeer6",
        "lb_post_bind4",
        "lb_post_bind6",
        "lb_recvmsg4",
        "lb_recvmsg6",
        "lb_sendmsg4",
        "lb_sendmsg6",
        "lb_sock_release",
    ];
    ensure!(list("links")? == links, "{:?}", list("links")?);
    let maps = list("maps")?;
    for map in [
        "LB4_FRONTENDS",
        "LB6_FRONTENDS",
        "LB4_SERVICES",
        "LB4_SLOTS",
        "LB4_BACKENDS",
        "LB_COUNTERS",
    ] {
        ensure!(maps.iter().any(|name| name == map), "no {map} in {maps:?}");
    }
    Ok(())
}
