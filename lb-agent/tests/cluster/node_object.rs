//! This node's own Node object: zone, addresses, and its coming late.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::node::{at, setup, vips};
use super::objects::{endpoint, node, node_addresses, service, slice};
use super::plane::Plane;

/// kube-proxy waits 30 s for its Node before it goes on.
const WITHOUT_NODE: Duration = Duration::from_secs(50);

pub(crate) const TESTS: &[super::Test] = tests![
    a_node_object_that_comes_late_is_picked_up,
    a_changed_zone_label_changes_the_endpoints_in_use,
    node_hints_win_over_zone_hints,
    changed_node_addresses_move_the_node_ports,
    load_balancers_are_told_that_a_node_leaves,
    in_the_mode_node_cidr_a_start_waits_for_pod_cidrs,
];

/// Rules 25, 26, 126 and 136.
fn a_changed_zone_label_changes_the_endpoints_in_use() {
    let plane = Plane::shared();
    let name = "zone-change";
    plane.namespace(name);
    let seat = setup(&plane, name).start();
    let [v4, _] = vips(&plane.apply(&service(name, "web")));
    let (a, b) = (
        endpoint("10.244.1.1").for_zone("zone-a"),
        endpoint("10.244.1.2").for_zone("zone-b"),
    );
    plane.apply(&slice(name, "web", "web", &[a.clone(), b.clone()]));
    seat.expect(v4, &["10.244.1.1"]);

    plane.apply(&node(name, "zone-b"));
    seat.expect(v4, &["10.244.1.2"]);
    plane.apply(&node(name, "zone-c"));
    seat.expect(v4, &["10.244.1.1", "10.244.1.2"]);
    plane.apply(&node(name, "zone-a"));
    seat.expect(v4, &["10.244.1.1"]);
    // An empty zone is no zone.
    plane.apply(&node(name, ""));
    seat.expect(v4, &["10.244.1.1", "10.244.1.2"]);
    plane.apply(&node(name, "zone-a").label("example.org/rack", "7"));
    seat.expect(v4, &["10.244.1.1"]);

    // One ready endpoint without a hint switches zones off (rule 25 c).
    plane.apply(&slice(name, "web", "web", &[a, b, endpoint("10.244.1.3")]));
    seat.expect(v4, &["10.244.1.1", "10.244.1.2", "10.244.1.3"]);
}

/// Rules 25 b and 27.
fn node_hints_win_over_zone_hints() {
    let plane = Plane::shared();
    let name = "node-hints";
    plane.namespace(name);
    let seat = setup(&plane, name).start();
    let [v4, _] = vips(&plane.apply(&service(name, "web")));
    let here = endpoint("10.244.1.1").for_zone("zone-a").for_node(name);
    let near = endpoint("10.244.1.2")
        .for_zone("zone-a")
        .for_node("another");
    let far = endpoint("10.244.1.3")
        .for_zone("zone-b")
        .for_node("a-third");
    plane.apply(&slice(
        name,
        "web",
        "web",
        &[here, near.clone(), far.clone()],
    ));
    seat.expect(v4, &["10.244.1.1"]);

    plane.apply(&slice(name, "web", "web", &[near, far.clone()]));
    seat.expect(v4, &["10.244.1.2"]);
    plane.apply(&slice(name, "web", "web", &[far]));
    seat.expect(v4, &["10.244.1.3"]);
}

/// Rule 133 as kube-proxy was seen to do it: on without the Node, and its zone and addresses are used when they come.
fn a_node_object_that_comes_late_is_picked_up() {
    let plane = Plane::shared();
    let name = "late-node";
    plane.namespace(name);
    let made = plane.apply(&service(name, "web").set("/spec/type", "NodePort"));
    let [v4, _] = vips(&made);
    let (a, b) = (
        endpoint("10.244.1.1").for_zone("zone-a"),
        endpoint("10.244.1.2").for_zone("zone-b"),
    );
    plane.apply(&slice(name, "web", "web", &[a, b]));
    let seat = setup(&plane, name).without_object().start_unready();
    seat.node
        .add_address("198.51.100.7".parse().unwrap())
        .unwrap();
    let address = at("198.51.100.7", node_port(&made));

    seat.expect_within(WITHOUT_NODE, v4, &["10.244.1.1", "10.244.1.2"]);
    seat.expect(address, &["ECONNREFUSED"]);

    plane.apply(&node(name, "zone-b"));
    plane.merge_status(&node_addresses(name, &["198.51.100.7"]));
    seat.expect(v4, &["10.244.1.2"]);
    seat.expect(address, &["10.244.1.2"]);
}

/// Section 1.Y, rule 135: followed live, without an exit.
fn changed_node_addresses_move_the_node_ports() {
    let plane = Plane::shared();
    let name = "moved-node";
    plane.namespace(name);
    let seat = setup(&plane, name).start();
    let made = plane.apply(&service(name, "web").set("/spec/type", "NodePort"));
    plane.apply(&slice(name, "web", "web", &[endpoint("10.244.1.1")]));
    let port = node_port(&made);
    let before = seat.node.host.addresses[0];
    let after = "198.51.100.7".parse().unwrap();
    seat.node.add_address(after).unwrap();
    seat.expect((before, port).into(), &["10.244.1.1"]);
    seat.expect((after, port).into(), &["ECONNREFUSED"]);

    plane.merge_status(&node_addresses(name, &["198.51.100.7"]));

    seat.expect((after, port).into(), &["10.244.1.1"]);
    seat.expect((before, port).into(), &["ECONNREFUSED"]);
    assert!(seat.agent.is_running());
}

fn node_port(service: &serde_json::Value) -> u16 {
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    u16::try_from(port).unwrap()
}

/// Rule 117: told by `/healthz` alone, and nothing that is served changes.
fn load_balancers_are_told_that_a_node_leaves() {
    let plane = Plane::shared();
    let name = "leaving-node";
    plane.namespace(name);
    let seat = setup(&plane, name).start();
    let expect = |code: u16, eligible: bool| {
        let begun = Instant::now();
        loop {
            let (got, body) = seat.agent.get("127.0.0.1:10256", "/healthz").unwrap();
            let told: Value = serde_json::from_str(&body).unwrap();
            if got == code && told["nodeEligible"] == eligible && told["healthy"] == true {
                break;
            }
            assert!(begun.elapsed() < WITHOUT_NODE, "{got} {body}");
            thread::sleep(Duration::from_millis(100));
        }
        let (livez, _) = seat.agent.get("127.0.0.1:10256", "/livez").unwrap();
        assert_eq!(livez, 200);
    };
    expect(200, true);
    let tainted = |key: &str| {
        let taints = serde_json::json!([{ "key": key, "effect": "NoSchedule" }]);
        plane.apply(&node(name, "zone-a").set("/spec/taints", taints))
    };
    tainted("ToBeDeletedByClusterAutoscaler");
    expect(503, false);
    tainted("example.org/other");
    expect(200, true);
    plane.delete(&node(name, "zone-a"));
    expect(503, false);
    plane.apply(&node(name, "zone-a"));
    expect(200, true);
    let asked = seat
        .agent
        .metric(
            "rest_client_requests_total",
            &["code=\"200\"", "method=\"GET\""],
        )
        .unwrap();
    assert!(
        asked >= 12.0,
        "{asked} requests: lists and watches of six kinds"
    );
}

/// Rule 133: nothing is written without them.
fn in_the_mode_node_cidr_a_start_waits_for_pod_cidrs() {
    let plane = Plane::shared();
    let name = "no-cidrs";
    plane.namespace(name);
    let [v4, _] = vips(&plane.apply(&service(name, "web")));
    plane.apply(&slice(name, "web", "web", &[endpoint("10.244.1.1")]));
    let seat = setup(&plane, name)
        .arguments(&["--detect-local-mode=NodeCIDR"])
        .start_unready();
    // As long as any start waits for a Node's addresses.
    thread::sleep(Duration::from_secs(32));
    assert!(seat.agent.is_running(), "{}", seat.agent.log());
    assert_eq!(seat.agent.status().unwrap()["agent"]["synced"], false);
    plane.apply(
        &node(name, "zone-a")
            .set("/spec/podCIDRs", vec!["10.244.1.0/24"])
            .set("/spec/podCIDR", "10.244.1.0/24"),
    );
    seat.expect(v4, &["10.244.1.1"]);
}
