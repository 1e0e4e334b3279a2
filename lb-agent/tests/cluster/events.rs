//! Events as an operator finds them in the API (section 1.V of the behaviour list).

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::cluster::User;

use super::node::setup;
use super::objects::{Object, service};
use super::plane::Plane;

const SOON: Duration = Duration::from_secs(20);

pub(crate) const TESTS: &[super::Test] = tests![
    a_start_is_told_once_on_the_node,
    a_health_check_port_that_is_taken_is_told_on_the_service,
    a_server_that_cannot_listen_ends_the_agent_only_if_told_so,
    without_the_right_to_write_events_the_agent_serves,
];

/// Events of `namespace` about the object `name`.
fn events(plane: &Plane, namespace: &str, name: &str) -> Vec<Value> {
    let namespace = format!("--namespace={namespace}");
    let listed = plane
        .cluster
        .kubectl(&["get", "events.events.k8s.io", &namespace, "-o", "json"])
        .unwrap();
    let mut listed: Value = serde_json::from_str(&listed).unwrap();
    let Some(Value::Array(items)) = listed.get_mut("items").map(Value::take) else {
        panic!("{listed}");
    };
    let about = |event: &Value| event["regarding"]["name"] == name;
    items.into_iter().filter(about).collect()
}

/// Waits for an event with this reason.
#[track_caller]
fn expect(plane: &Plane, namespace: &str, name: &str, reason: &str) -> Value {
    let begun = Instant::now();
    loop {
        let found = events(plane, namespace, name);
        if let Some(event) = found.iter().find(|event| event["reason"] == reason) {
            return event.clone();
        }
        assert!(begun.elapsed() < SOON, "no {reason} in {found:#?}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn words(event: &Value) -> [&str; 5] {
    [
        &event["type"],
        &event["action"],
        &event["reportingController"],
        &event["regarding"]["kind"],
        &event["regarding"]["uid"],
    ]
    .map(|word| word.as_str().unwrap())
}

fn a_start_is_told_once_on_the_node() {
    let plane = Plane::shared();
    let name = "event-start";
    plane.namespace(name);
    let _node = setup(&plane, name).start();
    let event = expect(&plane, "default", name, "Starting");
    assert_eq!(
        words(&event),
        ["Normal", "StartKubeProxy", "kube-proxy", "Node", name]
    );
    plane.apply(&service(name, "web"));
    thread::sleep(Duration::from_secs(1));
    let events = events(&plane, "default", name);
    assert_eq!(events.len(), 1, "{events:#?}");
}

/// Rule 112.
fn a_health_check_port_that_is_taken_is_told_on_the_service() {
    let plane = Plane::shared();
    let name = "event-check";
    plane.namespace(name);
    let seat = setup(&plane, name).start();
    let squatter = seat.node.host.serve(31999).unwrap();
    let balanced = service(name, "web")
        .set("/spec/type", "LoadBalancer")
        .set("/spec/externalTrafficPolicy", "Local")
        .set("/spec/healthCheckNodePort", 31999);
    plane.apply(&balanced);
    let event = expect(&plane, name, "web", "FailedToStartServiceHealthcheck");
    let uid = format!("{name}/web");
    assert_eq!(
        words(&event),
        ["Warning", "Listen", "kube-proxy", "Service", &uid]
    );
    let [v4, _] = seat.node.host.addresses;
    let note = event["note"].as_str().unwrap();
    assert!(note.contains(&format!("{v4}:31999")), "{note}");
    drop(squatter);
    let begun = Instant::now();
    loop {
        match seat.agent.get(&format!("{v4}:31999"), "/healthz") {
            Ok((503, _)) => break,
            said => assert!(begun.elapsed() < SOON, "{said:?}"),
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Rules 120 and 123.
fn a_server_that_cannot_listen_ends_the_agent_only_if_told_so() {
    let plane = Plane::shared();
    for (name, flag, reason) in [
        (
            "event-healthz",
            "--healthz-bind-address",
            "FailedToStartProxierHealthcheck",
        ),
        (
            "event-metrics",
            "--metrics-bind-address",
            "FailedToStartMetricServer",
        ),
    ] {
        plane.namespace(name);
        // An address that no node has.
        let mut seat = setup(&plane, name)
            .arguments(&[flag, "203.0.113.77:1", "--bind-address-hard-fail"])
            .start_unready();
        let status = seat.agent.wait_end().unwrap();
        assert_eq!(status.code(), Some(1), "{}", seat.agent.log());
        assert!(seat.agent.log().contains("203.0.113.77:1"));
        let event = expect(&plane, "default", name, reason);
        assert_eq!(
            words(&event),
            ["Warning", "StartKubeProxy", "kube-proxy", "Node", name]
        );
    }
    let name = "event-soft";
    plane.namespace(name);
    let seat = setup(&plane, name)
        .arguments(&["--metrics-bind-address", "203.0.113.77:1"])
        .start();
    seat.expect_log("cannot listen");
    assert!(seat.agent.is_running());
}

/// An older role, say: the data plane does not depend on events.
fn without_the_right_to_write_events_the_agent_serves() {
    let plane = Plane::start();
    let role = plane
        .cluster
        .kubectl(&["get", "clusterrole", "lb-agent", "-o", "json"])
        .unwrap();
    let mut role: Value = serde_json::from_str(&role).unwrap();
    let rules = role["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"][0] != "events");
    role["metadata"] = serde_json::json!({ "name": "lb-agent" });
    plane.apply(&Object(role));
    let name = "event-forbidden";
    let seat = setup(&plane, name).user(User::Agent).start();
    seat.expect_log("events cannot be written");
    assert!(events(&plane, "default", name).is_empty());
    assert!(seat.agent.is_running());
}
