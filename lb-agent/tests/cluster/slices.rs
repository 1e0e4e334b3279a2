//! Services with hand-made EndpointSlices.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::node::{setup, vips};
use super::objects::{self, endpoint, service, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    hand_made_slices_are_served_in_both_families,
    a_slice_before_its_service_takes_effect_when_the_service_comes,
    live_endpoint_changes_are_followed,
    more_objects_than_a_page_of_a_list_are_all_served,
    changes_without_meaning_write_nothing,
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
    let views = node.json(&["service", "get", "hand-made/web", "-o", "json"]);
    assert_eq!(
        backends(&views, "IPv4"),
        ["10.244.1.1", "10.244.1.2", "10.244.1.3"]
    );
    assert_eq!(backends(&views, "IPv6"), ["fd00:244:1::1"]);
}

/// The backends in use that `service get` shows for one family.
fn backends<'a>(views: &'a Value, family: &str) -> Vec<&'a str> {
    let views = views.as_array().unwrap().iter();
    views
        .filter(|view| view["family"] == family)
        .flat_map(|view| view["backends"].as_array().unwrap())
        .filter(|backend| backend["inCluster"] == true)
        .filter_map(|backend| backend["address"].as_str())
        .collect()
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
    let views = node.json(&["service", "list", "-o", "json"]);
    let names: BTreeSet<&str> = views
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|view| view["name"].as_str())
        .collect();
    let missing: Vec<usize> = (0..COUNT)
        .filter(|number| !names.contains(format!("web-{number}").as_str()))
        .collect();
    assert_eq!(missing, Vec::<usize>::new());
}

fn backend(number: usize) -> String {
    format!("10.244.1.{}", number % 250 + 1)
}

/// Rules 21 and 136.
fn changes_without_meaning_write_nothing() {
    // Its own: nothing else may change meanwhile.
    let plane = Plane::start();
    let name = "no-meaning";
    plane.namespace(name);
    let node = setup(&plane, name).start();
    let (web, endpoints) = (
        service(name, "web"),
        slice(
            name,
            "web",
            "web",
            &[endpoint("10.244.1.1").for_zone("zone-a")],
        ),
    );
    let [v4, _] = vips(&plane.apply(&web));
    plane.apply(&endpoints);
    node.expect(v4, &["10.244.1.1"]);
    let writes = || {
        node.agent
            .metric("lb_apply_duration_seconds_count", &[])
            .unwrap()
    };
    let before = writes();

    plane.apply(
        &web.set("/metadata/annotations/note", "x")
            .set("/spec/selector/app", "web"),
    );
    plane.apply(&endpoints.label("example.org/note", "x"));
    plane.apply(&objects::node(name, "zone-a").label("example.org/rack", "7"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(writes(), before);

    // A watch keeps the order, so this comes after all of the above.
    let [marker, _] = vips(&plane.apply(&service(name, "marker")));
    plane.apply(&slice(name, "marker", "marker", &[endpoint("10.244.1.2")]));
    plane.apply(&objects::node(name, "zone-b"));
    node.expect(marker, &["10.244.1.2"]);
    assert!(writes() > before);
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
    let skipped = node.agent.metric("lb_objects_skipped", &[]).unwrap();
    assert!(skipped >= 2.0, "only {skipped} objects counted as skipped");
}
