//! Services of every kind, and what changes of their fields do.

use serde_json::json;

use super::node::{TestNode, at, setup, vips};
use super::objects::{Object, endpoint, service, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    a_deleted_service_frees_its_address_for_another,
    a_node_port_answers_on_the_node_addresses_of_the_api,
    a_load_balancer_ip_lives_and_dies_with_the_status,
    headless_and_external_name_services_are_left_alone,
    a_changed_internal_policy_takes_effect_live,
    a_service_that_gains_a_family_is_served_in_it_and_back,
];

/// Rules 83 and 84: an address that no Service owns is dropped, and the next owner is served.
fn a_deleted_service_frees_its_address_for_another() {
    let plane = Plane::shared();
    let ns = "made-again";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let first = service(ns, "first");
    let made = plane.apply(&first);
    let [v4, v6] = vips(&made);
    plane.apply(&slice(ns, "first", "first", &[endpoint("10.244.1.1")]));
    node.expect(v4, &["10.244.1.1"]);
    node.expect((v4.ip(), 81).into(), &["ECONNREFUSED"]);

    plane.delete(&first);
    node.expect(v4, &["EHOSTUNREACH"]);

    let second = service(ns, "second")
        .set("/spec/clusterIP", v4.ip().to_string())
        .set("/spec/clusterIPs", json!([v4.ip(), v6.ip()]))
        .set("/spec/ipFamilies", json!(["IPv4", "IPv6"]));
    plane.apply(&second);
    plane.apply(&slice(ns, "second", "second", &[endpoint("10.244.1.2")]));
    node.expect(v4, &["10.244.1.2"]);
}

fn a_node_port_answers_on_the_node_addresses_of_the_api() {
    let plane = Plane::shared();
    let ns = "node-port";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let made = plane.apply(&service(ns, "web").set("/spec/type", "NodePort"));
    plane.apply(&slice(ns, "web-4", "web", &[endpoint("10.244.1.1")]));
    plane.apply(&slice(ns, "web-6", "web", &[endpoint("fd00:244:1::1")]));
    let port = u16::try_from(made["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).unwrap();
    let [node4, node6] = node.node.host.addresses;

    node.expect((node4, port).into(), &["10.244.1.1"]);
    node.expect((node6, port).into(), &["fd00:244:1::1"]);
    node.expect(at("127.0.0.1", port), &["10.244.1.1"]);
}

/// Rules 59, 66 and 67.
fn a_load_balancer_ip_lives_and_dies_with_the_status() {
    let plane = Plane::shared();
    let ns = "lb-status";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let web = service(ns, "web").set("/spec/type", "LoadBalancer");
    let [v4, _] = vips(&plane.apply(&web));
    plane.apply(&slice(ns, "web", "web", &[endpoint("10.244.1.1")]));
    node.expect(v4, &["10.244.1.1"]);
    let (vip, proxied) = (at("192.0.2.10", 80), at("192.0.2.11", 80));
    node.expect(vip, &["ENETUNREACH"]);

    let ingress =
        json!([{ "ip": "192.0.2.10", "ipMode": "VIP" }, { "ip": "192.0.2.11", "ipMode": "Proxy" }]);
    plane.merge_status(&status_of(ns, ingress));
    node.expect(vip, &["10.244.1.1"]);
    node.expect(proxied, &["ENETUNREACH"]);

    plane.merge_status(&status_of(ns, json!([])));
    node.expect(vip, &["ENETUNREACH"]);
    node.expect(v4, &["10.244.1.1"]);
}

/// Rules 4 and 5, and that a Service which turns into one of ours is served from then on.
fn headless_and_external_name_services_are_left_alone() {
    let plane = Plane::shared();
    let ns = "not-ours";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    plane.apply(&service(ns, "headless").set("/spec/clusterIP", "None"));
    plane.apply(&slice(
        ns,
        "headless",
        "headless",
        &[endpoint("10.244.1.9")],
    ));
    let external = Object(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": ns, "name": "web" },
        "spec": { "type": "ExternalName", "externalName": "example.org" },
    }));
    plane.apply(&external);
    plane.apply(&slice(ns, "web", "web", &[endpoint("10.244.1.1")]));
    let marker = vips(&plane.apply(&service(ns, "marker")));
    node.expect(marker[0], &["ECONNREFUSED"]);
    for name in ["not-ours/headless", "not-ours/web"] {
        assert!(!listed(&node).contains(name), "{name} is served");
    }

    let [v4, _] = vips(&plane.apply(&service(ns, "web").set("/spec/type", "ClusterIP")));
    node.expect(v4, &["10.244.1.1"]);
    assert!(listed(&node).contains("not-ours/web"));
}

/// Rules 34 and 36.
fn a_changed_internal_policy_takes_effect_live() {
    let plane = Plane::shared();
    let ns = "internal-policy";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let local = service(ns, "web").set("/spec/internalTrafficPolicy", "Local");
    let (here, elsewhere) = (
        endpoint("10.244.1.1").on(ns),
        endpoint("10.244.1.2").on("another"),
    );
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&slice(ns, "web", "web", &[here, elsewhere.clone()]));
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);

    plane.apply(&local);
    node.expect(v4, &["10.244.1.1"]);
    plane.apply(&slice(ns, "web", "web", &[elsewhere]));
    node.expect(v4, &["EHOSTUNREACH"]);
    plane.apply(&service(ns, "web").set("/spec/internalTrafficPolicy", "Cluster"));
    node.expect(v4, &["10.244.1.2"]);
}

/// Rule 6.
fn a_service_that_gains_a_family_is_served_in_it_and_back() {
    let plane = Plane::shared();
    let ns = "second-family";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let single = service(ns, "web").set("/spec/ipFamilyPolicy", "SingleStack");
    let made = plane.apply(&single);
    let v4 = at(made["spec"]["clusterIP"].as_str().unwrap(), 80);
    plane.apply(&slice(ns, "web-4", "web", &[endpoint("10.244.1.1")]));
    plane.apply(&slice(ns, "web-6", "web", &[endpoint("fd00:244:1::1")]));
    node.expect(v4, &["10.244.1.1"]);

    let [_, v6] = vips(&plane.apply(&service(ns, "web")));
    node.expect(v6, &["fd00:244:1::1"]);
    node.expect(v4, &["10.244.1.1"]);

    plane.apply(&single);
    // The range of the API server holds it, and no Service any more (rule 84).
    node.expect(v6, &["EHOSTUNREACH"]);
    node.expect(v4, &["10.244.1.1"]);
}

fn status_of(ns: &str, ingress: serde_json::Value) -> Object {
    Object(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": ns, "name": "web" },
        "status": { "loadBalancer": { "ingress": ingress } },
    }))
}

fn listed(node: &TestNode) -> String {
    String::from_utf8(node.node.cli(&["service", "list"]).unwrap().stdout).unwrap()
}
