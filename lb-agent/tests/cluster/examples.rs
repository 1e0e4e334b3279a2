//! What else `deploy` holds: the dashboard and the example for plain hosts, against the running agent.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::deployed::DEPLOY;
use super::node::{at, setup};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    the_dashboard_asks_for_metrics_that_are_there,
    the_example_for_plain_hosts_is_served,
];

/// How names of metrics begin that the agent exports.
const PREFIXES: [&str; 3] = ["lb_", "kubeproxy_", "rest_client_"];

fn the_dashboard_asks_for_metrics_that_are_there() {
    let plane = Plane::shared();
    let ns = "dashboard";
    let node = setup(&plane, ns).start();
    let (_, metrics) = node.agent.get("127.0.0.1:10249", "/metrics").unwrap();
    let there: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard = fs::read_to_string(format!("{DEPLOY}/grafana/lb-agent.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<&str> = targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    for expression in &expressions {
        assert!(
            names(expression).next().is_some(),
            "{expression} asks for nothing of ours"
        );
    }
    let asked: BTreeSet<&str> = expressions.iter().flat_map(|text| names(text)).collect();
    let missing: Vec<&&str> = asked.difference(&there).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
}

/// The names of metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
}

fn the_example_for_plain_hosts_is_served() {
    let plane = Plane::shared();
    let folder = format!("{DEPLOY}/systemd/manifests");
    let node = setup(&plane, "plain-host").start_with(&["--manifests", &folder]);
    node.agent.wait_ready().unwrap();
    assert_eq!(node.agent.metric("lb_objects_skipped", &[]).unwrap(), 0.0);
    let listed = node.json(&["service", "list", "-o", "json"]);
    let backends = listed[0]["backends"].as_array().unwrap().iter();
    let backends: Vec<&str> = backends
        .map(|backend| backend["address"].as_str().unwrap())
        .collect();
    assert_eq!(backends, ["192.0.2.11", "192.0.2.12"]);
    assert_eq!(listed[0]["frontends"][0]["address"], "10.96.0.54");
    node.expect(at("10.96.0.54", 80), &["ECONNREFUSED"]);
}
