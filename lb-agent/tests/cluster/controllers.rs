//! Slices that kube-controller-manager makes. There is no kubelet: a Pod's status is written by the test.

use serde_json::json;

use super::node::{BACKEND_PORT, setup, vips};
use super::objects::{Object, service};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    slices_made_from_pods_are_followed_until_a_pod_is_gone,
    slices_mirrored_from_hand_made_endpoints_are_served,
];

fn slices_made_from_pods_are_followed_until_a_pod_is_gone() {
    let plane = Plane::shared();
    let ns = "from-pods";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let web = service(ns, "web")
        .set("/spec/selector/app", "web")
        .set("/spec/ports/0/targetPort", BACKEND_PORT);
    let [v4, v6] = vips(&plane.apply(&web));
    node.expect(v4, &["ECONNREFUSED"]);

    for number in [1, 2] {
        plane.apply(&pod(ns, number));
        plane.merge_status(&pod_status(ns, number, "True"));
    }
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);
    node.expect(v6, &["fd00:244:1::1", "fd00:244:1::2"]);

    plane.merge_status(&pod_status(ns, 1, "False"));
    node.expect(v4, &["10.244.1.2"]);
    plane.merge_status(&pod_status(ns, 1, "True"));
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);

    // It has a node and so a grace period: terminating, but it serves until a kubelet says that it has ended.
    plane.delete(&pod(ns, 1));
    node.expect(v4, &["10.244.1.2"]);
    plane.delete(&pod(ns, 2));
    // Rule 28: where only terminating endpoints are left, they serve.
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);
    plane
        .cluster
        .kubectl(&[
            "delete",
            "pod",
            "--all",
            "-n",
            ns,
            "--grace-period=0",
            "--force",
        ])
        .unwrap();
    node.expect(v4, &["ECONNREFUSED"]);
}

/// Rule 11.
fn slices_mirrored_from_hand_made_endpoints_are_served() {
    let plane = Plane::shared();
    let ns = "mirrored";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&super::objects::endpoints(
        ns,
        "web",
        &["10.244.1.1", "10.244.1.2"],
    ));
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);
}

fn pod(ns: &str, number: u8) -> Object {
    Object(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": ns, "name": format!("web-{number}"), "labels": { "app": "web" } },
        "spec": { "nodeName": ns, "containers": [{ "name": "web", "image": "none" }] },
    }))
}

fn pod_status(ns: &str, number: u8, ready: &str) -> Object {
    let (v4, v6) = (
        format!("10.244.1.{number}"),
        format!("fd00:244:1::{number}"),
    );
    Object(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": ns, "name": format!("web-{number}") },
        "status": {
            "phase": "Running",
            "podIP": v4,
            "podIPs": [{ "ip": v4 }, { "ip": v6 }],
            "conditions": [{ "type": "Ready", "status": ready }],
        },
    }))
}
