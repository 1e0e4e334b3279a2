//! `--endpoints-source endpoints`: for clusters and tools that write core/v1 Endpoints alone.

use serde_json::json;

use super::node::{BACKEND_PORT, setup, vips};
use super::objects::{endpoint, endpoints, service, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    the_endpoints_switch_reads_endpoints_and_not_slices,
    without_the_switch_endpoints_are_not_read,
];

/// Keeps the mirroring controller from making slices of the Endpoints.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

fn the_endpoints_switch_reads_endpoints_and_not_slices() {
    let plane = Plane::shared();
    let ns = "endpoints-switch";
    plane.namespace(ns);
    let node = setup(&plane, ns)
        .arguments(&["--endpoints-source", "endpoints"])
        .start();
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&slice(ns, "web", "web", &[endpoint("10.244.1.9")]));
    let two = endpoints(ns, "web", &["10.244.1.1", "10.244.1.2"]).label(SKIP_MIRROR, "true");
    plane.apply(&two);
    node.expect(v4, &["10.244.1.1", "10.244.1.2"]);

    let one_not_ready = two.clone().set(
        "/subsets",
        json!([{
            "addresses": [{ "ip": "10.244.1.2" }],
            "notReadyAddresses": [{ "ip": "10.244.1.1" }],
            "ports": [{ "name": "http", "port": BACKEND_PORT, "protocol": "TCP" }],
        }]),
    );
    plane.apply(&one_not_ready);
    node.expect(v4, &["10.244.1.2"]);

    plane.delete(&two);
    node.expect(v4, &["ECONNREFUSED"]);
}

fn without_the_switch_endpoints_are_not_read() {
    let plane = Plane::shared();
    let ns = "no-endpoints-switch";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let [v4, _] = vips(&plane.apply(&service(ns, "web")));
    plane.apply(&endpoints(ns, "web", &["10.244.1.9"]).label(SKIP_MIRROR, "true"));
    plane.apply(&slice(ns, "web", "web", &[endpoint("10.244.1.1")]));
    node.expect(v4, &["10.244.1.1"]);
}
