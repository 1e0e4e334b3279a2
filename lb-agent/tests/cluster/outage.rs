//! An API server that restarts, hangs, is gone for a while, or has forgotten the past. Each test breaks a control plane
//! of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::lab::Task;

use super::node::{BACKEND_PORT, TestNode, at, setup, vips};
use super::objects::{endpoint, service, service_cidr, slice};
use super::plane::Plane;

pub(crate) const TESTS: &[super::Test] = tests![
    an_api_server_outage_changes_nothing_and_later_changes_are_seen,
    a_hung_api_server_is_followed_again_when_it_wakes,
    an_agent_started_without_an_api_server_leaves_the_data_plane_alone,
    rights_that_are_lost_for_a_moment_change_nothing,
    an_agent_whose_watch_is_too_old_lists_again,
];

const NS: &str = "default";

/// A Service `web` with one backend, served.
fn serve_web(plane: &Plane, node: &TestNode) -> SocketAddr {
    let [v4, _] = vips(&plane.apply(&service(NS, "web")));
    plane.apply(&slice(NS, "web", "web", &[endpoint("10.244.1.1")]));
    node.expect(v4, &["10.244.1.1"]);
    v4
}

/// Clients of a Service and of an address that no Service owns, which must see the same all the time.
struct Clients {
    web: Task<BTreeMap<String, u64>>,
    nobody: Task<BTreeMap<String, u64>>,
}

impl Clients {
    fn of(node: &TestNode, web: SocketAddr) -> Self {
        Self {
            web: node.keep_dialling(web),
            nobody: node.keep_dialling(at("10.96.255.254", 80)),
        }
    }

    #[track_caller]
    fn expect_no_change(self) {
        let seen = [self.web, self.nobody].map(|task| task.finish(Duration::from_secs(5)).unwrap());
        let outcomes = seen
            .each_ref()
            .map(|counts| counts.keys().collect::<Vec<_>>());
        assert!(
            outcomes == [vec!["10.244.1.1"], vec!["EHOSTUNREACH"]],
            "connections to the Service, and to nobody: {seen:?}"
        );
    }
}

/// Rule 131.
fn an_api_server_outage_changes_nothing_and_later_changes_are_seen() {
    let mut plane = Plane::start();
    let node = setup(&plane, "node-a").start();
    let v4 = serve_web(&plane, &node);

    let clients = Clients::of(&node, v4);
    plane.cluster.stop_api_server().unwrap();
    thread::sleep(Duration::from_secs(5));
    assert!(
        node.agent.is_running(),
        "the agent ended:\n{}",
        node.agent.log()
    );
    plane.cluster.start_api_server().unwrap();
    // The first lists after the outage are the same objects: nothing may flicker.
    thread::sleep(Duration::from_secs(3));
    clients.expect_no_change();

    plane.apply(&slice(NS, "web", "web", &[endpoint("10.244.1.2")]));
    node.expect_within(Duration::from_secs(40), v4, &["10.244.1.2"]);
    let [fresh, _] = vips(&plane.apply(&service(NS, "fresh")));
    node.expect(fresh, &["ECONNREFUSED"]);
}

fn a_hung_api_server_is_followed_again_when_it_wakes() {
    let plane = Plane::start();
    let node = setup(&plane, "node-a").start();
    let v4 = serve_web(&plane, &node);

    let clients = Clients::of(&node, v4);
    plane.cluster.api_server().unwrap().pause().unwrap();
    thread::sleep(Duration::from_secs(5));
    plane.cluster.api_server().unwrap().resume().unwrap();
    clients.expect_no_change();

    plane.apply(&slice(NS, "web", "web", &[endpoint("10.244.1.2")]));
    node.expect_within(Duration::from_secs(40), v4, &["10.244.1.2"]);
}

/// Rule 96: an agent that has seen no list yet changes nothing, however long that takes.
fn an_agent_started_without_an_api_server_leaves_the_data_plane_alone() {
    let mut plane = Plane::start();
    let mut node = setup(&plane, "node-a").start();
    let v4 = serve_web(&plane, &node);
    plane.cluster.stop_api_server().unwrap();

    let clients = Clients::of(&node, v4);
    node.agent.kill9().unwrap();
    node.start_agent_again();
    thread::sleep(Duration::from_secs(5));
    assert!(
        node.agent.is_running(),
        "the agent ended:\n{}",
        node.agent.log()
    );
    plane.cluster.start_api_server().unwrap();
    thread::sleep(Duration::from_secs(3));
    clients.expect_no_change();

    plane.apply(&slice(NS, "web", "web", &[endpoint("10.244.1.2")]));
    node.expect_within(Duration::from_secs(40), v4, &["10.244.1.2"]);
}

/// As an API server does that has just started and does not know its roles yet.
fn rights_that_are_lost_for_a_moment_change_nothing() {
    let plane = Plane::start();
    let mut node = setup(&plane, "node-a").start();
    let v4 = serve_web(&plane, &node);
    let clients = Clients::of(&node, v4);
    node.agent.kill9().unwrap();
    plane
        .cluster
        .kubectl(&["delete", "clusterrolebinding", "lb-agent"])
        .unwrap();
    node.start_agent_again();
    thread::sleep(Duration::from_secs(2));
    plane
        .cluster
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "lb-agent",
            "--clusterrole=lb-agent",
            "--serviceaccount=kube-system:lb-agent",
        ])
        .unwrap();
    let [fresh, _] = vips(&plane.apply(&service(NS, "fresh")));
    node.expect(fresh, &["ECONNREFUSED"]);
    clients.expect_no_change();

    plane.apply(&service_cidr("more", "10.244.1.240/28"));
    node.expect(at("10.244.1.250", BACKEND_PORT), &["EHOSTUNREACH"]);
}

/// What was deleted while the watch was away is not in the stream any more: only a new list (410 Gone) shows it.
fn an_agent_whose_watch_is_too_old_lists_again() {
    let mut plane = Plane::start();
    let node = setup(&plane, "node-a").start();
    let v4 = serve_web(&plane, &node);
    let doomed = service(NS, "doomed");
    let [doomed_vip, _] = vips(&plane.apply(&doomed));
    node.expect(doomed_vip, &["ECONNREFUSED"]);

    let agent = Pid::from_raw(i32::try_from(node.agent.pid()).unwrap());
    kill(agent, Signal::SIGSTOP).unwrap();
    plane.cluster.stop_api_server().unwrap();
    plane.cluster.start_api_server().unwrap();
    plane.delete(&doomed);
    plane.apply(&slice(NS, "web", "web", &[endpoint("10.244.1.2")]));
    let [fresh, _] = vips(&plane.apply(&service(NS, "fresh")));
    plane.cluster.compact().unwrap();
    // What the API server remembers by itself goes with this.
    plane.cluster.stop_api_server().unwrap();
    plane.cluster.start_api_server().unwrap();
    kill(agent, Signal::SIGCONT).unwrap();

    node.expect_within(Duration::from_secs(40), v4, &["10.244.1.2"]);
    node.expect(fresh, &["ECONNREFUSED"]);
    node.expect(doomed_vip, &["EHOSTUNREACH"]);
    assert!(node.agent.is_running());
}
