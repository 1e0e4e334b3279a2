//! Services with hand-made EndpointSlices.

use serde_json::json;

use super::node::{at, setup, vips};
use super::objects::{endpoint, service, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    hand_made_slices_are_served_in_both_families,
    a_slice_before_its_service_takes_effect_when_the_service_comes,
    live_endpoint_changes_are_followed,
    a_deleted_service_frees_its_address_for_another,
    a_node_port_answers_on_the_node_addresses_of_the_api,
    a_load_balancer_ip_lives_and_dies_with_the_status,
    headless_and_external_name_services_are_left_alone,
    a_changed_internal_policy_takes_effect_live,
    a_service_that_gains_a_family_is_served_in_it_and_back,
    more_objects_than_a_page_of_a_list_are_all_served,
    a_bad_object_does_not_stop_the_others,
];

fn hand_made_slices_are_served_in_both_families() {
    let plane = Plane::shared();
    let ns = "hand-made";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let [v4, v6] = vips(&plane.apply(&service(ns, "web")));
    node.expect(v4, &["ECONNREFUSED"]);
    node.expect(v6, &["ECONNREFUSED"]);

    plane.apply(&slice(
        ns,
        "web-4",
        "web",
        &[endpoint("10.244.1.1"), endpoint("10.244.1.2")],
    ));
    plane.apply(&slice(
        ns,
        "web-4-more",
        "web",
        &[endpoint("10.244.1.3"), endpoint("10.244.1.4").not_ready()],
    ));
    plane.apply(&slice(ns, "web-6", "web", &[endpoint("fd00:244:1::1")]));

    node.expect(v4, &["10.244.1.1", "10.244.1.2", "10.244.1.3"]);
    node.expect(v6, &["fd00:244:1::1"]);
}

/// Rules 10 and 14: cached until the join, which is by port name and protocol.
fn a_slice_before_its_service_takes_effect_when_the_service_comes() {
    let plane = Plane::shared();
    let ns = "slice-first";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    plane.apply(&slice(ns, "web-x", "web", &[endpoint("10.244.1.1")]));
    plane
        .apply(&slice(ns, "web-y", "web", &[endpoint("10.244.1.2")]).set("/ports/0/name", "other"));
    let marker = vips(&plane.apply(&service(ns, "marker")));
    node.expect(marker[0], &["ECONNREFUSED"]);

    let [v4, _] = vips(&plane.apply(&service(ns, "web")));

    node.expect(v4, &["10.244.1.1"]);
}

fn live_endpoint_changes_are_followed() {
    let plane = Plane::shared();
    let ns = "live-changes";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    let (one, two, three) = (
        endpoint("10.244.1.1"),
        endpoint("10.244.1.2"),
        endpoint("10.244.1.3"),
    );
    plane.apply(&slice(ns, "web", "web", &[one.clone(), two.clone()]));
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);

    let dialling = node.keep_dialling(v4);
    plane.apply(&slice(
        ns,
        "web",
        "web",
        &[one.clone(), two.clone(), three.clone()],
    ));
    node.expect(v4, &["10.244.1.1", "10.244.1.2", "10.244.1.3"]);
    plane.apply(&slice(
        ns,
        "web",
        "web",
        &[one.clone().draining(), two, three],
    ));
    node.expect(v4, &["10.244.1.2", "10.244.1.3"]);
    plane.apply(&slice(ns, "web", "web", &[one.draining()]));
    node.expect(v4, &["10.244.1.1"]);
    let seen = dialling.finish(std::time::Duration::from_secs(5)).unwrap();
    assert!(
        seen.keys().all(|outcome| outcome.starts_with("10.244.1.")),
        "connections failed during the changes: {seen:?}"
    );

    plane.delete(&slice(ns, "web", "web", &[]));
    node.expect(v4, &["ECONNREFUSED"]);
}

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

/// Lists come in pages of some hundred objects, the rest under a token.
fn more_objects_than_a_page_of_a_list_are_all_served() {
    const COUNT: usize = 1_100;
    // Its own, so that the other tests' agents need not carry them.
    let plane = Plane::start();
    let ns = "many";
    plane.namespace(ns);
    let first: Vec<_> = (0..COUNT)
        .map(|number| {
            let name = format!("web-{number}");
            plane.apply(&slice(ns, &name, &name, &[endpoint(&backend(number))]));
            vips(&plane.apply(&service(ns, &name)))[0]
        })
        .collect();

    let node = setup(&plane, ns).start();

    for number in [0, 1, 499, 500, 501, 999, 1_000, COUNT - 1] {
        node.expect(first[number], &[&backend(number)]);
    }
    let text = node.json(&["service", "list", "-o", "json"]).to_string();
    let missing: Vec<usize> = (0..COUNT)
        .filter(|number| {
            let name = format!("web-{number}\"");
            !text.contains(&format!("\"{name}")) && !text.contains(&format!("/{name}"))
        })
        .collect();
    assert_eq!(missing, Vec::<usize>::new());
}

fn backend(number: usize) -> String {
    format!("10.244.1.{}", number % 250 + 1)
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

fn status_of(ns: &str, ingress: serde_json::Value) -> super::objects::Object {
    super::objects::Object(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": ns, "name": "web" },
        "status": { "loadBalancer": { "ingress": ingress } },
    }))
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
    let external = super::objects::Object(json!({
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

fn listed(node: &super::node::TestNode) -> String {
    String::from_utf8(node.node.cli(&["service", "list"]).unwrap().stdout).unwrap()
}

/// Objects as an older API server, or a hand in etcd, may have left them: each is skipped and named.
fn a_bad_object_does_not_stop_the_others() {
    // Its own: the controllers of the shared one would stumble over such objects, too.
    let plane = Plane::start();
    let ns = "bad-object";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    let bad_slice = slice(
        ns,
        "bad",
        "web",
        &[endpoint("no-address"), endpoint("010.244.001.002")],
    );
    let store = &plane.cluster;
    store
        .store_unchecked("endpointslices", ns, "bad", &bad_slice.0.to_string())
        .unwrap();
    let bad_service = service(ns, "bad-port")
        .set("/spec/clusterIP", "10.96.200.200")
        .set("/spec/clusterIPs", json!(["10.96.200.200"]))
        .set("/spec/ipFamilies", json!(["IPv4"]))
        .set("/spec/ipFamilyPolicy", "SingleStack")
        .set("/spec/ports/0/port", 70_000);
    store
        .store_unchecked("services/specs", ns, "bad-port", &bad_service.0.to_string())
        .unwrap();
    plane.apply(&slice(ns, "good", "web", &[endpoint("10.244.1.1")]));

    // Rules 7 and 119: leading zeros are read as decimal.
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);
    node.expect_log("no-address");
    node.expect_log("70000");
    let skipped = node.agent.metric("lb_agent_objects_skipped", &[]).unwrap();
    assert!(skipped >= 2.0, "only {skipped} objects counted as skipped");
}
