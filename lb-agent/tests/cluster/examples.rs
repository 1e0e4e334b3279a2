//! What else `deploy` holds: the example for plain hosts, served by the real agent.

use super::deployed::DEPLOY;
use super::node::{at, setup};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![the_example_for_plain_hosts_is_served,];

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
