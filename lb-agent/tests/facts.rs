//! What this node is: rules 48 to 52, 81, 84 and 134, and where addresses may be a Service's.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{collections::BTreeSet, net::IpAddr};

use common::{NODE, config, ip, node, node_port_svc, svc};
use lb_agent::{
    config::{Config, DetectLocal, NodePortAddresses},
    model::{Event, Kind, Node, Object, ServiceCidr, Store},
    plan::{Facts, Family, ranges},
};
use lb_common::{
    config::{MAX_RANGES, OWNED},
    net::{Addr4, Addr6},
};

const HOST: [&str; 4] = ["192.0.2.1", "10.9.0.1", "2001:db8::1", "fe80::1"];

fn hosts() -> BTreeSet<IpAddr> {
    HOST.map(ip).into()
}

fn node_ports(primary: bool, cidrs: &[&str]) -> (Vec<String>, Vec<String>) {
    let config = Config {
        nodeport_addresses: NodePortAddresses {
            primary,
            cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        },
        ..config()
    };
    let facts = Facts::new(&config, Some(&node()), &hosts());
    let texts = |addrs: &BTreeSet<IpAddr>| addrs.iter().map(ToString::to_string).collect();
    (
        texts(&facts.family::<Addr4>().node_port_addrs),
        texts(&facts.family::<Addr6>().node_port_addrs),
    )
}

#[test]
fn node_ports_answer_where_the_list_says() {
    let all4 = &["10.9.0.1", "192.0.2.1"][..];
    let all6 = &["2001:db8::1", "fe80::1"][..];
    let (main4, main6) = (&["192.0.2.1"][..], &["2001:db8::1"][..]);
    type Row<'a> = (&'a str, bool, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let rows: [Row<'_>; 8] = [
        ("49: unset is primary", false, &[], main4, main6),
        ("48: primary", true, &[], main4, main6),
        (
            "48: primary beside a network",
            true,
            &["10.9.0.0/16"],
            all4,
            main6,
        ),
        ("50: all", false, &["0.0.0.0/0", "::/0"], all4, all6),
        (
            "50: a zero network overrides others",
            false,
            &["10.9.0.0/16", "0.0.0.0/0"],
            all4,
            all6,
        ),
        (
            "50: no entry for a family",
            false,
            &["10.9.0.0/16"],
            &["10.9.0.1"],
            all6,
        ),
        (
            "51: no address in the network",
            false,
            &["10.8.0.0/16", "::/0"],
            &[],
            all6,
        ),
        (
            "48: loopback is not for this list",
            false,
            &["127.0.0.0/8", "::1/128"],
            &[],
            &[],
        ),
    ];
    for (name, primary, cidrs, v4, v6) in rows {
        let found = node_ports(primary, cidrs);
        let texts = |addrs: &[&str]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found, (texts(v4), texts(v6)), "{name}");
    }
}

#[test]
fn a_bind_address_is_the_primary_one_of_its_family() {
    let config = Config {
        bind_address: Some(ip("192.0.2.77")),
        ..config()
    };
    let facts = Facts::new(&config, Some(&node()), &hosts());
    let primary4 = facts.family::<Addr4>().primary;
    assert_eq!(primary4, Some(ip("192.0.2.77")), "rule 134");
    let primary6 = facts.family::<Addr6>().primary;
    assert_eq!(primary6, Some(ip("2001:db8::1")), "of the other family");
}

#[test]
fn the_primary_address_is_the_nodes_then_the_hosts_then_none() {
    let primary = |node: Option<&Node>, hosts: &BTreeSet<IpAddr>| {
        let facts = Facts::new(&config(), node, hosts);
        (
            facts.family::<Addr4>().primary,
            facts.family::<Addr6>().primary,
        )
    };
    let both = |v4, v6| (Some(ip(v4)), Some(ip(v6)));
    assert_eq!(
        primary(Some(&node()), &hosts()),
        both("192.0.2.1", "2001:db8::1"),
        "rule 134"
    );
    assert_eq!(primary(None, &hosts()), both("10.9.0.1", "2001:db8::1"));
    assert_eq!(primary(None, &BTreeSet::new()), (None, None));
    let facts = Facts::new(&config(), None, &BTreeSet::new());
    assert_eq!(
        facts.family::<Addr6>().primary_or_loopback::<Addr6>(),
        ip("::1"),
        "rule 134"
    );
}

#[test]
fn pods_are_told_apart_where_the_mode_has_what_it_needs() {
    let detects = |mode, cluster: &[&str], pods: &[&str]| {
        let config = Config {
            detect_local: mode,
            cluster_cidrs: cluster.iter().map(|text| text.parse().unwrap()).collect(),
            ..config()
        };
        let node = Node {
            pod_cidrs: pods.iter().map(|text| text.parse().unwrap()).collect(),
            ..node()
        };
        let facts = Facts::new(&config, Some(&node), &BTreeSet::new());
        (
            facts.family::<Addr4>().has_detector,
            facts.family::<Addr6>().has_detector,
        )
    };
    use DetectLocal::{BridgeInterface, ClusterCidr, InterfaceNamePrefix, NodeCidr};
    assert_eq!(detects(ClusterCidr, &[], &["10.0.0.0/8"]), (false, false));
    assert_eq!(detects(ClusterCidr, &["10.0.0.0/8"], &[]), (true, false));
    assert_eq!(
        detects(NodeCidr, &["10.0.0.0/8"], &["fd00::/64"]),
        (false, true)
    );
    assert_eq!(
        detects(BridgeInterface("cni0".into()), &[], &[]),
        (true, true)
    );
    assert_eq!(
        detects(InterfaceNamePrefix("veth".into()), &[], &[]),
        (true, true)
    );
}

fn store(cidrs: &[&str], cluster_ips: &[&str]) -> Store {
    let mut store = Store::new(NODE, [Kind::Service]);
    let cidr = ServiceCidr {
        name: "kubernetes".into(),
        cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
    };
    store.apply(Event::Apply(Object::ServiceCidr(cidr)));
    for (i, addr) in cluster_ips.iter().enumerate() {
        let service = svc(&format!("shop/s{i}"), &[addr]);
        store.apply(Event::Apply(Object::Service(service)));
    }
    store
}

fn ranges_of<A: Family>(store: &Store, facts: &Facts) -> Vec<String> {
    let found = ranges::service_ranges::<A>(store, facts).ranges;
    let text = |r: &lb_common::config::AddrRange<A>| {
        let owned = if r.flags & OWNED != 0 { " owned" } else { "" };
        format!("{:?}-{:?}{owned}", r.lo, r.hi)
    };
    found
        .ranges
        .iter()
        .take(found.len as usize)
        .map(text)
        .collect()
}

fn plain() -> Facts {
    Facts::new(&config(), Some(&node()), &hosts())
}

#[test]
fn service_cidrs_are_owned_and_cluster_ips_outside_are_only_spanned() {
    let store = store(
        &["172.30.0.0/16", "fd30::/112"],
        &[
            "172.30.0.1",
            "172.31.0.9",
            "10.0.0.5",
            "172.30.255.1",
            "fd30::1",
        ],
    );
    assert_eq!(
        ranges_of::<Addr4>(&store, &plain()),
        ["172.30.0.0-172.30.255.255 owned", "10.0.0.5-172.31.0.9"]
    );
    assert_eq!(
        ranges_of::<Addr6>(&store, &plain()),
        ["fd30::-fd30::ffff owned"]
    );
}

#[test]
fn without_service_cidrs_the_cluster_ips_are_spanned() {
    let store = store(&[], &["172.30.0.9", "172.30.0.1"]);
    assert_eq!(
        ranges_of::<Addr4>(&store, &plain()),
        ["172.30.0.1-172.30.0.9"]
    );
    assert_eq!(ranges_of::<Addr6>(&store, &plain()), [""; 0]);
}

#[test]
fn nodes_and_pods_inside_a_service_cidr_are_never_refused() {
    let config = Config {
        cluster_cidrs: vec!["10.9.1.0/24".parse().unwrap()],
        ..config()
    };
    let facts = Facts::new(&config, Some(&node()), &hosts());
    assert_eq!(
        ranges_of::<Addr4>(&store(&["10.9.0.0/22"], &[]), &facts),
        [
            "10.9.0.0-10.9.0.0 owned",
            "10.9.0.2-10.9.0.255 owned",
            "10.9.2.0-10.9.3.255 owned",
        ],
        "trap 12"
    );
}

#[test]
fn overlapping_service_cidrs_become_one_range() {
    let store = store(&["172.30.0.0/17", "172.30.128.0/17", "172.30.7.0/24"], &[]);
    assert_eq!(
        ranges_of::<Addr4>(&store, &plain()),
        ["172.30.0.0-172.30.255.255 owned"]
    );
}

#[test]
fn a_service_cidr_of_everything_is_not_too_large() {
    let store = store(&["::/0"], &["fd30::1"]);
    let facts = Facts::new(&config(), None, &BTreeSet::new());
    let all = "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff owned";
    assert_eq!(ranges_of::<Addr6>(&store, &facts), [all]);
}

#[test]
fn too_many_ranges_keep_the_widest_and_span_the_addresses_of_the_rest() {
    let cidrs: Vec<String> = (1..=9).map(|i| format!("172.{i}.0.0/{}", 16 + i)).collect();
    let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
    let store = store(&cidrs, &["172.8.0.1", "172.9.0.1", "172.1.0.1"]);
    let found = ranges::service_ranges::<Addr4>(&store, &plain());
    assert_eq!(found.ranges.len as usize, MAX_RANGES);
    let texts = ranges_of::<Addr4>(&store, &plain());
    assert_eq!(texts[0], "172.1.0.0-172.1.127.255 owned");
    assert_eq!(texts[MAX_RANGES - 1], "172.8.0.1-172.9.0.1");
    let lost: Vec<String> = found.disowned.iter().map(ToString::to_string).collect();
    assert_eq!(lost.len(), 2);
    assert!(
        lost[0].starts_with("unknown addresses from 172.8.0.0 to 172.8.0.255"),
        "{lost:?}"
    );
}

#[test]
fn node_ports_in_use_widen_the_default_range() {
    let of = |ports: &[u16]| {
        let mut store = store(&[], &[]);
        for port in ports {
            let service = node_port_svc(&format!("shop/p{port}"), &["172.30.0.1"], *port);
            store.apply(Event::Apply(Object::Service(service)));
        }
        let (lo, hi) = ranges::node_ports(store.node_ports());
        (lo.host(), hi.host())
    };
    assert_eq!(of(&[]), (30000, 32767));
    assert_eq!(of(&[31000]), (30000, 32767));
    assert_eq!(of(&[80, 40000]), (80, 40000));
}

#[test]
fn settings_carry_flags_namespace_and_both_families() {
    let store = store(&["172.30.0.0/16", "fd30::/112"], &[]);
    let (made, warnings) = ranges::compile(
        &store,
        &plain(),
        &lb_common::config::Config {
            flags: 5,
            host_netns: 77,
            ..Default::default()
        },
    );
    assert_eq!(
        (made.flags, made.host_netns, warnings),
        (5, 77, Vec::<String>::new())
    );
    assert_eq!((made.ranges4.len, made.ranges6.len), (1, 1));
}
