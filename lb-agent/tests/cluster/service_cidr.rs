//! Rule 84: what ServiceCIDR objects span is refused where no Service owns it, live.

use serde_json::json;

use super::node::{BACKEND_PORT, at, setup, vips};
use super::objects::{endpoint, service, service_cidr, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    service_cidrs_come_and_go_live,
    a_cluster_ip_of_an_added_service_cidr_is_served,
];

/// The ranges are among the backends' own addresses, so that it shows when they are left alone.
fn service_cidrs_come_and_go_live() {
    let plane = Plane::shared();
    let ns = "service-cidr";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    // Of the range that the API server was started with.
    node.expect(at("10.96.255.254", 80), &["EHOSTUNREACH"]);
    node.expect(at("fd00:10:96::ffff", 80), &["EHOSTUNREACH"]);
    let (inside, inside6) = (
        at("10.244.1.250", BACKEND_PORT),
        at("fd00:244:1::fff0", BACKEND_PORT),
    );
    let outside = at("10.244.1.1", BACKEND_PORT);
    node.expect(inside, &["10.244.1.250"]);

    let (more, more6) = (
        service_cidr("more", "10.244.1.240/28"),
        service_cidr("more6", "fd00:244:1::fff0/124"),
    );
    plane.apply(&more);
    plane.apply(&more6);
    node.expect(inside, &["EHOSTUNREACH"]);
    node.expect(inside6, &["EHOSTUNREACH"]);
    node.expect(outside, &["10.244.1.1"]);

    plane.delete(&more);
    plane.delete(&more6);
    plane.wait_until_gone(&more);
    plane.wait_until_gone(&more6);
    node.expect(inside, &["10.244.1.250"]);
    node.expect(inside6, &["fd00:244:1::fff0"]);
}

fn a_cluster_ip_of_an_added_service_cidr_is_served() {
    let plane = Plane::shared();
    let ns = "added-cidr";
    plane.namespace(ns);
    let node = setup(&plane, ns).start();
    let vip = at("10.97.0.10", 80);
    node.expect(vip, &["ENETUNREACH"]);
    plane.apply(&service_cidr("added", "10.97.0.0/24"));
    node.expect(vip, &["EHOSTUNREACH"]);

    let web = service(ns, "web")
        .set("/spec/ipFamilyPolicy", "SingleStack")
        .set("/spec/ipFamilies", json!(["IPv4"]))
        .set("/spec/clusterIP", "10.97.0.10")
        .set("/spec/clusterIPs", json!(["10.97.0.10"]));
    plane.apply_when_possible(&web);
    plane.apply(&slice(ns, "web", "web", &[endpoint("10.244.1.1")]));
    node.expect(vip, &["10.244.1.1"]);

    // An address of the range that the API server was started with is served as before.
    let [other, _] = vips(&plane.apply(&service(ns, "other")));
    plane.apply(&slice(ns, "other", "other", &[endpoint("10.244.1.2")]));
    node.expect(other, &["10.244.1.2"]);
}
