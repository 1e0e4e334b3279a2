//! Rules 2 and 3: either of two labels on a Service or on its slices hands them to somebody else, whatever the value,
//! and taking the label away brings them back.

use std::{collections::BTreeSet, time::Duration};

use xtask::cluster::User;

use super::node::{setup, vips};
use super::objects::{endpoint, service, slice};
use super::plane::Plane;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

pub(crate) const TESTS: &[super::Test] = tests![
    the_proxy_name_label_takes_a_service_down_and_back,
    the_headless_label_takes_a_service_down_and_back,
    the_proxy_name_label_takes_a_slice_down_and_back,
    the_headless_label_takes_a_slice_down_and_back,
    the_server_keeps_labelled_services_from_the_watch_of_ours,
];

fn the_proxy_name_label_takes_a_service_down_and_back() {
    service_label(PROXY_NAME, "other-proxy");
}

fn the_headless_label_takes_a_service_down_and_back() {
    service_label(HEADLESS, "");
}

fn the_proxy_name_label_takes_a_slice_down_and_back() {
    slice_label(PROXY_NAME, "");
}

fn the_headless_label_takes_a_slice_down_and_back() {
    slice_label(HEADLESS, "");
}

fn service_label(label: &str, value: &str) {
    let plane = Plane::shared();
    let ns = &format!("service-{}", label.rsplit('/').next().unwrap());
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let [v4, v6] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&slice(ns, "web-4", "web", &[endpoint("10.244.1.1")]));
    plane.apply(&slice(ns, "web-6", "web", &[endpoint("fd00:244:1::1")]));
    node.expect(v4, &["10.244.1.1"]);
    node.expect(v6, &["fd00:244:1::1"]);

    // Left alone, they find no route in this node: rule 84 would refuse them with EHOSTUNREACH.
    let dials = node.keep_dialling(v4);
    for _ in 0..3 {
        plane.apply(&service(ns, "web").label(label, value));
        node.expect(v4, &["ENETUNREACH"]);
        node.expect(v6, &["ENETUNREACH"]);

        plane.apply(&service(ns, "web"));
        node.expect(v4, &["10.244.1.1"]);
        node.expect(v6, &["fd00:244:1::1"]);
    }
    let seen = dials.finish(Duration::from_secs(10)).unwrap();
    let seen: BTreeSet<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(seen, BTreeSet::from(["10.244.1.1", "ENETUNREACH"]));

    plane.apply(&service(ns, "web").label(label, value));
    node.expect(v4, &["ENETUNREACH"]);
    plane.delete(&service(ns, "web"));
    node.expect(v4, &["EHOSTUNREACH"]);
}

fn slice_label(label: &str, value: &str) {
    let plane = Plane::shared();
    let ns = &format!("slice-{}", label.rsplit('/').next().unwrap());
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    let first = slice(ns, "web-a", "web", &[endpoint("10.244.1.1")]);
    let second = slice(ns, "web-b", "web", &[endpoint("10.244.1.2")]);
    plane.apply(&first);
    plane.apply(&second);
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);

    plane.apply(&second.clone().label(label, value));
    node.expect(v4, &["10.244.1.1"]);
    plane.apply(&first.clone().label(label, value));
    node.expect(v4, &["ECONNREFUSED"]);

    plane.apply(&first);
    plane.apply(&second);
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);
}

/// Rule 2: the server selects. Its audit log has the agent's selectors, and each is asked again for what it delivers.
fn the_server_keeps_labelled_services_from_the_watch_of_ours() {
    let plane = Plane::shared();
    let ns = "labelled-from-the-start";
    plane.namespace(ns);
    plane.apply(&service(ns, "ours"));
    let named = service(ns, "named").label(PROXY_NAME, "");
    let [v4, _] = vips(&plane.apply(&named));
    plane.apply(&service(ns, "headless").label(HEADLESS, "x"));
    plane.apply(
        &service(ns, "both")
            .label(HEADLESS, "")
            .label(PROXY_NAME, ""),
    );
    // Nobody but agents has this identity.
    let node = setup(&plane, ns).user(User::NodeProxier).start();
    node.expect(v4, &["ENETUNREACH"]);

    let asked = plane.cluster.requests().unwrap().into_iter();
    let selectors: BTreeSet<String> = asked
        .filter(|request| request.user == "system:kube-proxy")
        .filter_map(|request| Some(request.uri.strip_prefix("/api/v1/services?")?.to_owned()))
        .map(|query| selector(&query).to_owned())
        .collect();
    let delivered = selectors.iter().map(|selector| names(&plane, ns, selector));
    let expected = [vec!["both", "named"], vec!["headless"], vec!["ours"]];
    assert_eq!(
        delivered.collect::<BTreeSet<_>>(),
        expected
            .map(|names| names.into_iter().map(str::to_owned).collect())
            .into()
    );
    assert_eq!(selectors.len(), 3, "{selectors:?}");
}

fn selector(query: &str) -> &str {
    let mut words = query.split('&');
    words
        .find_map(|word| word.strip_prefix("labelSelector="))
        .unwrap_or("")
}

/// The Services of a namespace that a selector, as it stands in a URI, delivers.
fn names(plane: &Plane, ns: &str, selector: &str) -> Vec<String> {
    let uri = format!("/api/v1/namespaces/{ns}/services?labelSelector={selector}");
    let list = plane.cluster.kubectl(&["get", "--raw", &uri]).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}
