//! What the agent shows of itself: status, metrics, health, and names in the kernel.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use xtask::lab::Lab;
use xtask::lab::manifest::{Document, slices, svc};
use xtask::lab::traffic::Dial;

use crate::commands::{json, text, web};
use crate::harness::{SOON, case, eventually, told, who};
use crate::load::{VIP, Web};

pub fn trials() -> Vec<Trial> {
    let case = |name, test: fn(&Lab) -> Result<()>| case("observe", name, test);
    vec![
        case("counters_by_reason_rise_on_the_metrics_page", metrics),
        case("health_and_metrics_pages_answer_as_kube_proxys_do", pages),
        case("a_change_is_counted_and_timed_as_kube_proxy_does", counted),
        case("logs_can_be_json", json_logs),
        case("bpftool_prints_the_names_of_fields", bpftool),
        case("map_and_program_names_read_like_the_architecture", names),
        case("status_tells_a_healthy_agent_from_one_that_is_gone", status),
        case("status_notices_a_hook_that_was_detached", detached),
    ]
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
    eventually(SOON, || {
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

fn metrics(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&[])?;
    let page = |reason: &str| -> Result<f64> {
        agent.metric("lb_socket_events_total", &[&format!("reason=\"{reason}\"")])
    };
    let refused = Dial::tcp("10.96.0.11:80".parse()?);
    ensure!(page("no_endpoints")? == 0.0);
    ensure!(web.client.ask_many(&refused, 7)?.iter().all(Result::is_err));
    ensure!(page("no_endpoints")? == 7.0);
    let before = page("hit_chosen")?;
    who(&web.client, &Dial::tcp(VIP.parse()?), 10)?;
    let hits = page("hit_chosen")? - before;
    ensure!(hits == 10.0, "{hits} hits for 10 dials");
    ensure!(page("peer_translated")? >= 10.0);
    ensure!(agent.metric("lb_map_entries", &["LB4_FRONTENDS"])? >= 3.0);
    ensure!(agent.metric("lb_map_capacity", &["LB4_FRONTENDS"])? == 8192.0);
    ensure!(agent.metric("lb_apply_duration_seconds_count", &[])? >= 1.0);
    ensure!(told(&agent, "skippedObjects")? == 0);
    for name in ["lb_objects_skipped", "lb_services_failed"] {
        ensure!(agent.metric(name, &[])? == 0.0, "{name}");
    }
    Ok(())
}

/// Rules 124 to 130.
fn counted(lab: &Lab) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers([0])?;
    let agent = web.node.agent(&["--iptables-sync-period=20s"])?;
    let proxy = |name: &str, labels: &[&str]| -> Result<f64> {
        agent.metric(&format!("kubeproxy_{name}"), labels)
    };
    let v4 = ["ip_family=\"IPv4\""];
    let full = proxy("sync_full_proxy_rules_duration_seconds_count", &v4)?;
    ensure!(full >= 1.0, "{full}");
    let partial = proxy("sync_partial_proxy_rules_duration_seconds_count", &v4)?;
    let (services_before, slices_before) = (
        proxy("sync_proxy_rules_service_changes_total", &[])?,
        proxy("sync_proxy_rules_endpoint_changes_total", &[])?,
    );
    let here = web.endpoint(0);
    let there = xtask::lab::manifest::endpoint(&web.pods[1].pod, "node-b");
    let local = svc("ns/local")
        .cluster_ip("10.96.0.20")
        .cluster_ip("fd00:96::14")
        .tcp(80)
        .internal_local();
    let now = jiff::Timestamp::now().to_string();
    let slices_of = |endpoint| {
        let listed = slices("ns/local").tcp(8080).endpoints([endpoint]);
        listed.annotation("endpoints.kubernetes.io/last-change-trigger-time", &now)
    };
    web.node
        .publish::<Document>("local", [local.clone().into(), slices_of(there).into()])?;
    let internal = ["traffic_policy=\"internal\"", v4[0]];
    eventually(SOON, || {
        let dropped = proxy("sync_proxy_rules_no_local_endpoints_total", &internal)?;
        ensure!(dropped == 1.0, "{dropped} ports without a local endpoint");
        Ok(())
    })?;
    let more = proxy("sync_partial_proxy_rules_duration_seconds_count", &v4)?;
    ensure!(more > partial, "{more} after {partial}");
    let more = proxy("sync_proxy_rules_service_changes_total", &[])?;
    ensure!(
        more == services_before + 2.0,
        "{more} after {services_before}"
    );
    let more = proxy("sync_proxy_rules_endpoint_changes_total", &[])?;
    ensure!(
        more == slices_before + 2.0,
        "{more} after {slices_before}: a slice for each family"
    );
    for name in ["service", "endpoint"] {
        let pending = proxy(&format!("sync_proxy_rules_{name}_changes_pending"), &[])?;
        ensure!(pending == 0.0, "{pending} pending {name} changes");
    }
    for family in ["ip_family=\"IPv4\"", "ip_family=\"IPv6\""] {
        let (last, queued) = (
            proxy("sync_proxy_rules_last_timestamp_seconds", &[family])?,
            proxy("sync_proxy_rules_last_queued_timestamp_seconds", &[family])?,
        );
        ensure!(last >= queued && queued > 0.0, "{family}: {last} {queued}");
    }
    web.node
        .publish::<Document>("local", [local.into(), slices_of(here).into()])?;
    eventually(SOON, || {
        for family in ["ip_family=\"IPv4\"", "ip_family=\"IPv6\""] {
            let waited = proxy("network_programming_duration_seconds_count", &[family])?;
            ensure!(waited >= 1.0, "{family}: {waited} changes timed");
        }
        let dropped = proxy("sync_proxy_rules_no_local_endpoints_total", &internal)?;
        ensure!(dropped == 0.0, "{dropped} ports without a local endpoint");
        Ok(())
    })?;
    let (_, config) = agent.get("127.0.0.1:10249", "/configz")?;
    let config: Value = serde_json::from_str(&config)?;
    let period = &config["kubeproxy.config.k8s.io"]["iptables"]["syncPeriod"];
    ensure!(period == "20s", "{config}");
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
        "devices",
        "filters",
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

fn json_logs(lab: &Lab) -> Result<()> {
    let web = web(lab)?;
    let agent = web.node.agent(&["--log-format", "json"])?;
    let log = agent.log();
    ensure!(!log.trim().is_empty(), "nothing was logged");
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(object.get("level").is_some(), "{line}");
    }
    Ok(())
}
