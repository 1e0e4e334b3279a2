//! What one Service becomes on this node: rules 4 to 7, 22 to 24, 34 to 46, 59 to 65 and 83, and
//! the table of rule 82 as sockets of this node see it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    EndpointExt, NODE, OTHER, ROOMY, World, config, detecting, ep, ip, key, node, node_port_svc,
    port, slice, svc,
};
use lb_agent::{
    config::Config,
    maps::{fake::FakeMaps, faulty::Faulty},
    model::{Event, Object, Service, ServiceType, Slice},
    plan::{Facts, Family, PortImage, compile},
};
use lb_common::{
    decide::{Client, Decision, Dial, Fixed, decide},
    frontend::Class,
    net::{Addr4, Addr6, Address, BePort, Proto},
    reason::Reason,
};

fn facts(config: &Config) -> Facts {
    Facts::new(config, Some(&node()), &BTreeSet::new())
}

/// The dump of the ports of a Service.
fn dump<A: Family>(service: &Service, slices: &[&Slice], config: &Config) -> String {
    let ports = compile::<A>(service, slices, &facts(config));
    ports
        .iter()
        .map(|(key, image)| format!("{key}\n{image}"))
        .collect()
}

fn only_port<A: Family>(service: &Service, config: &Config) -> PortImage<A> {
    let mut ports = compile::<A>(service, &[], &facts(config));
    assert_eq!(ports.len(), 1);
    ports.pop_first().unwrap().1
}

/// Every kind of address, both policies Cluster.
fn full() -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        external_ips: vec![ip("198.51.100.7"), ip("2001:db8:7::7")],
        load_balancer_ips: vec![ip("203.0.113.1"), ip("2001:db8:1::1")],
        ..node_port_svc("shop/web", &["172.30.0.1", "fd30::1"], 30080)
    }
}

#[test]
fn a_service_answers_on_all_its_addresses() {
    let slice = slice(
        "s",
        "shop/web",
        vec![ep("10.0.0.1").on(NODE), ep("10.0.0.2").on(OTHER)],
    );
    let service = Service {
        affinity_timeout_s: Some(10),
        ..full()
    };
    assert_eq!(
        dump::<Addr4>(&service, &[&slice], &config()),
        "\
shop/web/TCP
  0.0.0.0:30080 NodePort pod=Cluster host=Cluster outside=Cluster
  172.30.0.1:80 ClusterIP pod=Cluster host=Cluster outside=Cluster
  198.51.100.7:80 ExternalIP pod=Cluster host=Cluster outside=Cluster
  203.0.113.1:80 LoadBalancer pod=Cluster host=Cluster outside=Cluster
  Cluster: 10.0.0.1:8080 10.0.0.2:8080
  Local: Drop
  endpoint 10.0.0.1:8080 ready serving on-node
  endpoint 10.0.0.2:8080 ready serving
  affinity 10 s
"
    );
}

#[test]
fn the_other_family_has_the_other_addresses() {
    let slice = slice("s", "shop/web", vec![ep("fd10::1").on(NODE)]);
    assert_eq!(
        dump::<Addr6>(&full(), &[&slice], &config()),
        "\
shop/web/TCP
  [::]:30080 NodePort pod=Cluster host=Cluster outside=Cluster
  [2001:db8:1::1]:80 LoadBalancer pod=Cluster host=Cluster outside=Cluster
  [2001:db8:7::7]:80 ExternalIP pod=Cluster host=Cluster outside=Cluster
  [fd30::1]:80 ClusterIP pod=Cluster host=Cluster outside=Cluster
  Cluster: [fd10::1]:8080
  Local: Drop
  endpoint [fd10::1]:8080 ready serving on-node
"
    );
}

#[test]
fn a_service_without_a_cluster_ip_of_a_family_serves_nothing_in_it() {
    let mut service = full();
    service.cluster_ips = vec![ip("fd30::1")];
    assert_eq!(
        compile::<Addr4>(&service, &[], &facts(&config())),
        BTreeMap::new(),
        "rule 6"
    );
}

#[test]
fn one_number_in_three_protocols_is_three_ports() {
    let mut service = svc("shop/dns", &["172.30.0.1"]);
    service.ports = vec![
        port("t", Proto::TCP, 53, 0),
        port("u", Proto::UDP, 53, 0),
        port("s", Proto::SCTP, 53, 0),
    ];
    let ports = compile::<Addr4>(&service, &[], &facts(&config()));
    let names: Vec<String> = ports.keys().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["shop/dns:s/SCTP", "shop/dns:t/TCP", "shop/dns:u/UDP"],
        "rule 15"
    );
}

#[test]
fn addresses_that_nobody_can_dial_from_elsewhere_are_not_served() {
    let mut service = full();
    service.external_ips = vec![ip("0.0.0.0"), ip("127.0.0.1")];
    let image = only_port::<Addr4>(&service, &config());
    assert!(image.frontends.keys().all(|key| !key.vip.is_loopback()));
    let node_port = BePort::new(30080);
    let unspecified = image
        .frontends
        .keys()
        .filter(|key| key.vip.is_unspecified());
    assert!(
        unspecified.map(|key| key.port).eq([node_port]),
        "the NodePort's alone"
    );
}

#[test]
fn an_address_named_twice_is_the_first_kind() {
    let mut service = full();
    service.external_ips = vec![ip("203.0.113.1"), ip("172.30.0.1")];
    let text = dump::<Addr4>(&service, &[], &config());
    assert!(text.contains("203.0.113.1:80 LoadBalancer"), "{text}");
    assert!(text.contains("172.30.0.1:80 ClusterIP"), "{text}");
}

#[test]
fn a_service_without_node_ports_keeps_its_load_balancer_address() {
    let mut service = full();
    service.ports[0].node_port = 0;
    let text = dump::<Addr4>(&service, &[], &config());
    assert!(!text.contains("NodePort"), "rule 56: {text}");
    assert!(text.contains("LoadBalancer"), "rule 56: {text}");
}

/// A world with one Service that has an endpoint here (10.0.0.1) and one elsewhere (10.0.0.2).
fn world(config: Config, service: Service, endpoints: &[(&str, &str)]) -> World<Addr4> {
    let mut world = World::new(config, Faulty::new(FakeMaps::new(ROOMY), 0, 0));
    world.apply(Event::Apply(Object::Node(node())));
    let endpoints = endpoints
        .iter()
        .map(|(addr, node)| ep(addr).on(node))
        .collect();
    world.put_slice(slice("s", "shop/web", endpoints));
    world.put_service(service);
    let maps = &mut world.maps.maps;
    maps.node_addrs
        .insert("192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap().into());
    maps.config.nodeport_lo = BePort::new(30000);
    maps.config.nodeport_hi = BePort::new(32767);
    world
}

/// Everywhere that a client of a class can get to, by many throws of the dice.
fn reached(world: &World<Addr4>, class: Class, to: &str) -> BTreeSet<String> {
    let to: std::net::SocketAddrV4 = to.parse().unwrap();
    let dial = Dial {
        addr: (*to.ip()).into(),
        port: BePort::new(to.port()),
        proto: Proto::TCP,
    };
    let client = Client {
        class,
        netns: 1,
        addr: None,
    };
    let throws = (0..16_u32).map(|i| Fixed {
        now_ns: 0,
        random: i << 28,
    });
    let decisions = throws.map(|dice| decide(&world.maps.maps, &dial, &client, &dice));
    let text = |decision| match decision {
        Decision::Pass => "pass".to_owned(),
        Decision::Dnat(dnat) => format!("{:?}", dnat.to.addr),
        Decision::Refuse { reason, .. } => format!("{reason:?}"),
    };
    decisions.map(text).collect()
}

const L: &str = "10.0.0.1";
const R: &str = "10.0.0.2";
const CLUSTER_IP: &str = "172.30.0.1:80";
const EXTERNAL: [&str; 3] = ["192.0.2.1:30080", "203.0.113.1:80", "198.51.100.7:80"];

#[test]
fn who_reaches_which_endpoint_is_as_in_the_table_of_rule_82() {
    let both = [(L, NODE), (R, OTHER)];
    // From, to, eTP Local, iTP Local, detector, reached.
    type Row<'a> = (&'a str, Class, bool, bool, bool, bool, &'a [&'a str]);
    let rows: [Row<'_>; 16] = [
        (
            "pod to clusterIP",
            Class::Pod,
            false,
            false,
            false,
            true,
            &[L, R],
        ),
        (
            "pod to clusterIP, eTP Local",
            Class::Pod,
            false,
            true,
            false,
            true,
            &[L, R],
        ),
        (
            "pod to clusterIP, iTP Local",
            Class::Pod,
            false,
            false,
            true,
            true,
            &[L],
        ),
        (
            "node to clusterIP",
            Class::Host,
            false,
            false,
            false,
            true,
            &[L, R],
        ),
        (
            "node to clusterIP, eTP Local",
            Class::Host,
            false,
            true,
            false,
            true,
            &[L, R],
        ),
        (
            "node to clusterIP, iTP Local",
            Class::Host,
            false,
            false,
            true,
            true,
            &[L],
        ),
        (
            "external to clusterIP",
            Class::Outside,
            false,
            true,
            false,
            true,
            &[L, R],
        ),
        (
            "external to clusterIP, iTP Local",
            Class::Outside,
            false,
            false,
            true,
            true,
            &[L],
        ),
        (
            "pod to external",
            Class::Pod,
            true,
            false,
            false,
            true,
            &[L, R],
        ),
        (
            "pod to external, eTP Local",
            Class::Pod,
            true,
            true,
            false,
            true,
            &[L, R],
        ),
        (
            "pod to external, eTP Local, no detector",
            Class::Pod,
            true,
            true,
            false,
            false,
            &[L],
        ),
        (
            "pod to external, iTP Local",
            Class::Pod,
            true,
            false,
            true,
            true,
            &[L, R],
        ),
        (
            "node to external, eTP Local",
            Class::Host,
            true,
            true,
            false,
            true,
            &[L, R],
        ),
        (
            "node to external, no detector",
            Class::Host,
            true,
            true,
            false,
            false,
            &[L, R],
        ),
        (
            "external to external, eTP Local",
            Class::Outside,
            true,
            true,
            false,
            true,
            &[L],
        ),
        (
            "external to external, iTP Local",
            Class::Outside,
            true,
            false,
            true,
            true,
            &[L, R],
        ),
    ];
    for (name, class, is_external, external_local, internal_local, detects, expected) in rows {
        let service = Service {
            external_local,
            internal_local,
            ..full()
        };
        let config = if detects { detecting() } else { config() };
        let world = world(config, service, &both);
        let dialled = if is_external {
            &EXTERNAL[..]
        } else {
            &[CLUSTER_IP]
        };
        for to in dialled {
            let expected = expected.iter().map(ToString::to_string).collect();
            assert_eq!(reached(&world, class, to), expected, "{name} at {to}");
        }
    }
}

#[test]
fn refusals_are_as_in_the_table_of_empty_lists() {
    let elsewhere = [(R, OTHER)];
    let (reject, drop) = (
        format!("{:?}", Reason::NoEndpoints),
        format!("{:?}", Reason::NoLocalEndpoints),
    );
    let rows: [(&str, bool, bool, bool, [&str; 3]); 5] = [
        (
            "nothing anywhere",
            true,
            true,
            false,
            [&reject, &reject, &reject],
        ),
        ("both Cluster", false, false, true, [R, R, R]),
        ("iTP Local", true, false, true, [&drop, R, R]),
        ("eTP Local", false, true, true, [R, &drop, R]),
        ("both Local", true, true, true, [&drop, &drop, R]),
    ];
    for (name, internal_local, external_local, has_remote, expected) in rows {
        let service = Service {
            external_local,
            internal_local,
            ..full()
        };
        let endpoints = if has_remote { &elsewhere[..] } else { &[] };
        let world = world(detecting(), service, endpoints);
        let [cluster_ip, outside, inside] = expected.map(|text| BTreeSet::from([text.to_owned()]));
        for class in [Class::Pod, Class::Host, Class::Outside] {
            assert_eq!(
                reached(&world, class, CLUSTER_IP),
                cluster_ip,
                "{name}, {class:?}"
            );
        }
        for to in EXTERNAL {
            assert_eq!(reached(&world, Class::Outside, to), outside, "{name}, {to}");
            assert_eq!(
                reached(&world, Class::Pod, to),
                inside,
                "{name}, pod to {to}"
            );
            assert_eq!(
                reached(&world, Class::Host, to),
                inside,
                "{name}, host to {to}"
            );
        }
    }
}

#[test]
fn the_external_policy_of_a_purely_internal_service_says_nothing() {
    let service = Service {
        external_local: true,
        ..svc("shop/web", &["172.30.0.1"])
    };
    let slice = slice("s", "shop/web", vec![ep(L).on(NODE)]);
    let text = dump::<Addr4>(&service, &[&slice], &config());
    assert!(text.contains("Local: Drop"), "rule 24: {text}");
}

/// What source ranges compile to, as the dump shows it.
fn rules(ranges: &[&str], config: &Config) -> String {
    let mut service = full();
    service.source_ranges = ranges.iter().map(|text| text.parse().unwrap()).collect();
    let text = dump::<Addr4>(&service, &[], config);
    let filtered: Vec<&str> = text.lines().filter(|line| line.contains(':')).collect();
    for line in &filtered {
        let is_filtered = line.contains("Outside:");
        assert!(
            !is_filtered || line.contains("LoadBalancer"),
            "rule 62: {line}"
        );
    }
    let line = filtered
        .iter()
        .find(|line| line.contains("LoadBalancer"))
        .unwrap();
    line.split_once("outside=Cluster")
        .unwrap()
        .1
        .trim()
        .to_owned()
}

#[test]
fn source_ranges_are_decided_ahead_for_pods_and_the_node() {
    let all_pods_in = "Host:Deny Outside:Check";
    assert_eq!(rules(&["10.0.0.0/8"], &detecting()), all_pods_in);
    assert_eq!(
        rules(&["10.0.0.0/9", "10.128.0.0/9"], &detecting()),
        all_pods_in,
        "in two halves"
    );
    assert_eq!(
        rules(&["192.0.2.1/32"], &detecting()),
        "Pod:Deny Outside:Check"
    );
    assert_eq!(
        rules(&["10.3.0.0/16"], &detecting()),
        "Pod:Check Host:Deny Outside:Check"
    );
    let unknown_pods = "Pod:Check Host:Deny Outside:Check";
    assert_eq!(rules(&["10.0.0.0/8"], &config()), unknown_pods);
    assert_eq!(rules(&["0.0.0.0/0"], &detecting()), "Outside:Check");
    assert_eq!(rules(&[], &detecting()), "");
    assert_eq!(rules(&["2001:db8::/32"], &detecting()), "", "rule 65");
}

#[test]
fn this_nodes_pod_ranges_go_before_the_clusters_where_the_mode_vouches_for_them() {
    let node = lb_agent::model::Node {
        pod_cidrs: vec!["10.3.0.0/24".parse().unwrap()],
        ..node()
    };
    let mut service = full();
    service.source_ranges = vec!["10.3.0.0/16".parse().unwrap()];
    let image = |mode| {
        let config = lb_agent::config::Config {
            detect_local: mode,
            ..detecting()
        };
        let facts = Facts::new(&config, Some(&node), &BTreeSet::new());
        let mut ports = compile::<Addr4>(&service, &[], &facts);
        ports.pop_first().unwrap().1.to_string()
    };
    use lb_agent::config::DetectLocal::{ClusterCidr, NodeCidr};
    assert!(!image(NodeCidr).contains("Pod:"), "{}", image(NodeCidr));
    assert!(
        image(ClusterCidr).contains("Pod:Check"),
        "{}",
        image(ClusterCidr)
    );
}

#[test]
fn a_node_with_addresses_in_and_out_of_the_ranges_is_asked_each_time() {
    let hosts = BTreeSet::from([ip("172.17.0.1"), ip("192.0.2.1")]);
    let facts = Facts::new(&detecting(), Some(&node()), &hosts);
    let mut service = full();
    service.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    let image = compile::<Addr4>(&service, &[], &facts)
        .pop_first()
        .unwrap()
        .1;
    assert!(image.to_string().contains("Host:Check"), "{image}");
}

#[test]
fn where_the_node_may_dial_a_vip_the_vip_itself_is_a_source() {
    let mut service = full();
    service.source_ranges = vec!["192.0.2.7/24".parse().unwrap()];
    let text = dump::<Addr4>(&service, &[], &config());
    let sources: Vec<&str> = text.lines().filter(|l| l.contains("source")).collect();
    assert_eq!(
        sources,
        ["  source 192.0.2.0/24", "  source 203.0.113.1/32"],
        "rule 64"
    );
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let text = dump::<Addr4>(&service, &[], &config());
    let sources: Vec<&str> = text.lines().filter(|l| l.contains("source")).collect();
    assert_eq!(sources, ["  source 198.51.100.0/24"], "rule 64");
}

#[test]
fn endpoints_on_this_host_come_first_in_a_list() {
    let hosts = BTreeSet::from([ip("192.0.2.1")]);
    let facts = Facts::new(&config(), Some(&node()), &hosts);
    let endpoints = vec![ep("10.0.0.1"), ep("192.0.2.1"), ep("10.0.0.2")];
    let slice = slice("s", "shop/web", endpoints);
    let ports = compile::<Addr4>(&svc("shop/web", &["172.30.0.1"]), &[&slice], &facts);
    let text = ports.values().next().unwrap().to_string();
    assert!(
        text.contains("Cluster: 192.0.2.1:8080 10.0.0.1:8080 10.0.0.2:8080"),
        "{text}"
    );
}

#[test]
fn other_ports_of_a_cluster_ip_are_refused_and_those_of_other_addresses_are_not() {
    let mut world = world(config(), full(), &[(L, NODE)]);
    let ranges = &mut world.maps.maps.config.ranges4;
    ranges.len = 1;
    ranges.ranges[0].lo = std::net::Ipv4Addr::new(172, 30, 0, 0).into();
    ranges.ranges[0].hi = std::net::Ipv4Addr::new(172, 30, 255, 255).into();
    let refused = BTreeSet::from([format!("{:?}", Reason::UnknownPort)]);
    assert_eq!(
        reached(&world, Class::Pod, "172.30.0.1:81"),
        refused,
        "rule 83"
    );
    let pass = BTreeSet::from(["pass".to_owned()]);
    assert_eq!(
        reached(&world, Class::Pod, "203.0.113.1:81"),
        pass,
        "rule 87"
    );
    world.apply(Event::Delete(lb_agent::model::ObjectRef::Service(key(
        "shop/web",
    ))));
    assert_eq!(reached(&world, Class::Pod, "172.30.0.1:81"), pass);
}
