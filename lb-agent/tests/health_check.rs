//! What healthCheckNodePorts count, and where they answer (rules 103, 104, 109 and 110).

mod common;

use std::collections::BTreeSet;

use common::{EndpointExt as _, NODE, OTHER, config, ep, ip, key, node, slice, svc};
use lb_agent::{
    config::{Config, NodePortAddresses},
    model::{Endpoint, Service, ServiceType, SlicePort},
    plan::{Facts, HealthCheck, HealthChecks},
};
use lb_common::net::Proto;

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

fn asked(cluster_ips: &[&str]) -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        external_local: true,
        health_check_node_port: 30999,
        ..svc("shop/web", cluster_ips)
    }
}

fn facts() -> Facts {
    Facts::new(&config(), Some(&node()), &BTreeSet::new())
}

#[test]
fn only_a_load_balancer_with_a_local_policy_and_a_port_is_asked_for() {
    let good = asked(&["10.96.0.1"]);
    for (name, service, is_asked) in [
        ("all of it", good.clone(), true),
        (
            "node port",
            Service {
                service_type: ServiceType::NodePort,
                ..good.clone()
            },
            false,
        ),
        (
            "cluster policy",
            Service {
                external_local: false,
                ..good.clone()
            },
            false,
        ),
        (
            "no port",
            Service {
                health_check_node_port: 0,
                ..good
            },
            false,
        ),
    ] {
        let found = HealthCheck::of(&service, &[], &facts());
        assert_eq!(found.is_some(), is_asked, "{name}");
    }
}

#[test]
fn distinct_addresses_of_ready_endpoints_of_this_node_count() {
    let here = |addr: &str| ep(addr).on(NODE);
    let rows: [(&str, Vec<Endpoint>, usize); 6] = [
        ("none", vec![], 0),
        ("two here", vec![here("10.0.0.1"), here("10.0.0.2")], 2),
        (
            "one elsewhere, one nowhere",
            vec![here("10.0.0.1"), ep("10.0.0.2").on(OTHER), ep("10.0.0.3")],
            1,
        ),
        (
            "draining and unready ones",
            vec![here("10.0.0.1").draining(), here("10.0.0.2").unready()],
            0,
        ),
        ("one twice", vec![here("10.0.0.1"), here("10.0.0.1")], 1),
        (
            "of the other family",
            vec![here("10.0.0.1"), here("fd00::1"), here("fd00::2")],
            1,
        ),
    ];
    for (name, endpoints, want) in rows {
        let first = slice("a", "shop/web", endpoints);
        let mut second = first.clone();
        second.ports = vec![SlicePort {
            name: "tls".into(),
            proto: Proto::TCP,
            port: 8443,
        }];
        let mut portless = slice("c", "shop/web", vec![here("10.0.0.9")]);
        portless.ports.clear();
        let slices = [&first, &second, &portless];
        let service = asked(&["10.96.0.1", "fd00:96::1"]);
        let check = HealthCheck::of(&service, &slices, &facts()).expect("it is asked for");
        assert_eq!(check.local_endpoints(ip(V4)), want, "{name}");
        assert_eq!((check.service, check.port), (key("shop/web"), 30999));
    }
}

#[test]
fn a_service_of_one_family_is_answered_for_in_the_other() {
    let endpoints = vec![
        ep("10.0.0.1").on(NODE),
        ep("fd00::1").on(NODE),
        ep("fd00::2").on(NODE),
    ];
    let slice = slice("a", "shop/web", endpoints);
    for (cluster_ips, want4, want6) in [
        (&["10.96.0.1", "fd00:96::1"][..], 1, 2),
        (&["10.96.0.1"], 1, 1),
        (&["fd00:96::1"], 2, 2),
    ] {
        let check = HealthCheck::of(&asked(cluster_ips), &[&slice], &facts()).expect("asked for");
        let got = [V4, V6].map(|addr| check.local_endpoints(ip(addr)));
        assert_eq!(got, [want4, want6], "{cluster_ips:?}");
    }
}

#[test]
fn checks_are_answered_where_node_ports_are() {
    let host = || [V4, V6, "198.51.100.1"].map(ip).into();
    let ranges = |primary, ranges: &[&str]| NodePortAddresses {
        primary,
        cidrs: ranges
            .iter()
            .map(|range| range.parse().expect("a range"))
            .collect(),
    };
    let rows = [
        ("primary", ranges(true, &[]), host(), vec![V4, V6]),
        (
            "all",
            ranges(false, &["0.0.0.0/0", "::/0"]),
            host(),
            vec!["0.0.0.0", "::"],
        ),
        (
            "a family without a range matches all of it",
            ranges(false, &["198.51.100.0/24"]),
            host(),
            vec!["198.51.100.1", "::"],
        ),
        (
            "loopback where it is listed",
            ranges(true, &["127.0.0.0/8"]),
            host(),
            vec!["127.0.0.1", V4, V6],
        ),
        (
            "all, of a node with IPv4 alone",
            ranges(false, &["0.0.0.0/0", "::/0"]),
            [ip(V4)].into(),
            vec!["0.0.0.0"],
        ),
    ];
    for (name, nodeport_addresses, host, want) in rows {
        let config = Config {
            nodeport_addresses,
            ..config()
        };
        let facts = Facts::new(&config, Some(&node()), &host);
        let want: BTreeSet<_> = want.into_iter().map(ip).collect();
        assert_eq!(facts.health_check_addrs(), want, "{name}");
    }
}

#[test]
fn of_two_services_that_want_one_port_the_older_has_it() {
    let check = |name: &str, created_s, port| {
        let service = Service {
            key: key(name),
            created_s,
            health_check_node_port: port,
            ..asked(&["10.96.0.1"])
        };
        HealthCheck::of(&service, &[], &facts()).expect("it is asked for")
    };
    let all = [
        check("a/young", 9, 30001),
        check("b/old", 5, 30001),
        check("c/other", 9, 30002),
    ];
    let checks = HealthChecks::new([V4, V6].map(ip).into(), &all);
    let has: Vec<_> = checks
        .checks
        .values()
        .map(|c| c.service.to_string())
        .collect();
    assert_eq!(has, ["b/old", "c/other"]);
    let taken = (30001, key("b/old"));
    assert_eq!(checks.taken, [(key("a/young"), taken)].into());
    let places: Vec<String> = checks.places().iter().map(ToString::to_string).collect();
    let want = [
        "192.0.2.1:30001",
        "192.0.2.1:30002",
        "[2001:db8::1]:30001",
        "[2001:db8::1]:30002",
    ];
    assert_eq!(places, want);
}
