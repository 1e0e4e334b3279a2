use lb_common::net::Proto;
use serde_json::{Value, json};

use super::*;
use crate::{
    k8s::convert::tests::{object, texts},
    model::{ObjectKey, ServicePort},
};

/// A Service `shop/web` on 10.96.0.1:80; `patch` is laid over it, as a JSON merge patch.
fn read(patch: Value) -> Converted<Service> {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"], "ports": [{"port": 80}],
        },
    });
    merge(&mut value, patch);
    service(&object::<api::Service>(value))
}

fn merge(value: &mut Value, patch: Value) {
    let (Value::Object(fields), Value::Object(patch)) = (&mut *value, &patch) else {
        *value = patch;
        return;
    };
    for (name, patch) in patch {
        merge(fields.entry(name).or_insert(Value::Null), patch.clone());
    }
}

fn ours(patch: Value) -> Service {
    let found = read(patch);
    assert_eq!(texts(&found.faults), [] as [&str; 0]);
    found.object.expect("it is ours")
}

/// The object, and what is wrong with it.
fn faulty(patch: Value) -> (Service, Vec<String>) {
    let found = read(patch);
    (found.object.expect("it is ours"), texts(&found.faults))
}

fn ips<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
    texts.map(|t| t.parse().unwrap()).into()
}

fn plain() -> Service {
    Service {
        key: ObjectKey::new("shop", "web"),
        cluster_ips: ips(["10.96.0.1"]),
        ports: vec![ServicePort {
            name: String::new(),
            proto: Proto::TCP,
            port: 80,
            node_port: 0,
        }],
        ..Service::default()
    }
}

#[test]
fn a_plain_service_has_the_defaults() {
    assert_eq!(ours(json!({})), plain());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let label = |name: &str, value: &str| json!({"metadata": {"labels": {name: value}}});
    let table = [
        (
            "rule 2: another proxy",
            label("service.kubernetes.io/service-proxy-name", "x"),
        ),
        (
            "rule 2: presence counts",
            label("service.kubernetes.io/service-proxy-name", ""),
        ),
        (
            "rule 2: headless",
            label("service.kubernetes.io/headless", ""),
        ),
        (
            "rule 4: None",
            json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}),
        ),
        (
            "rule 4: empty",
            json!({"spec": {"clusterIP": "", "clusterIPs": null}}),
        ),
        (
            "rule 4: missing",
            json!({"spec": {"clusterIP": null, "clusterIPs": null}}),
        ),
        (
            "rule 5: ExternalName",
            json!({"spec": {"type": "ExternalName"}}),
        ),
        ("no spec", json!({"spec": null})),
    ];
    for (name, patch) in table {
        assert_eq!(read(patch), Converted::not_ours(), "{name}");
    }
}

#[test]
fn a_service_exists_in_the_families_of_its_cluster_ips() {
    let table = [
        (
            "both, in the order of ipFamilies",
            json!({"clusterIPs": ["fd00::1", "10.96.0.1"], "ipFamilies": ["IPv6", "IPv4"]}),
            ips(["fd00::1", "10.96.0.1"]),
        ),
        (
            "ipFamilies selects",
            json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4"]}),
            ips(["10.96.0.1"]),
        ),
        (
            "from before dual stack",
            json!({"clusterIPs": null, "ipFamilies": null}),
            ips(["10.96.0.1"]),
        ),
        (
            "families without list",
            json!({"clusterIPs": null, "ipFamilies": ["IPv4"]}),
            ips(["10.96.0.1"]),
        ),
        (
            "rule 7: leading zeros",
            json!({"clusterIPs": ["010.096.000.001"]}),
            ips(["10.96.0.1"]),
        ),
    ];
    for (name, spec, expected) in table {
        assert_eq!(ours(json!({"spec": spec})).cluster_ips, expected, "{name}");
    }
}

#[test]
fn every_address_list_is_read() {
    let found = ours(json!({
        "spec": {
            "type": "LoadBalancer",
            "externalIPs": ["192.0.2.1", "2001:db8::1", "192.0.2.1"],
            "loadBalancerIP": "203.0.113.99",
            "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "2001:db8::/32"],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "203.0.113.1"},
            {"ip": "203.0.113.2", "ipMode": "VIP"},
            {"ip": "203.0.113.3", "ipMode": "Proxy"},
            {"hostname": "lb.example.org"},
            {"ip": "2001:db8::2"},
        ]}},
    }));
    let expected = Service {
        service_type: ServiceType::LoadBalancer,
        // rule 68
        external_ips: ips(["192.0.2.1", "2001:db8::1"]),
        // rules 59 to 61
        load_balancer_ips: ips(["203.0.113.1", "203.0.113.2", "2001:db8::2"]),
        // rule 7
        source_ranges: ["10.0.0.0/8", "2001:db8::/32"]
            .map(|r| r.parse().unwrap())
            .into(),
        ..plain()
    };
    assert_eq!(found, expected);
}

#[test]
fn external_policy_counts_only_where_something_external_is() {
    let local = "Local";
    let table = [
        ("ClusterIP", json!({"externalTrafficPolicy": local}), false),
        (
            "ClusterIP with externalIPs",
            json!({"externalTrafficPolicy": local, "externalIPs": ["192.0.2.1"]}),
            true,
        ),
        (
            "NodePort",
            json!({"externalTrafficPolicy": local, "type": "NodePort"}),
            true,
        ),
        (
            "LoadBalancer",
            json!({"externalTrafficPolicy": local, "type": "LoadBalancer"}),
            true,
        ),
        (
            "Cluster",
            json!({"externalTrafficPolicy": "Cluster", "type": "NodePort"}),
            false,
        ),
    ];
    for (name, spec, expected) in table {
        assert_eq!(
            ours(json!({"spec": spec})).external_local,
            expected,
            "rule 24: {name}"
        );
    }
}

#[test]
fn internal_policy_is_cluster_unless_said_otherwise() {
    let table = [
        (json!({}), false),
        (json!({"internalTrafficPolicy": "Cluster"}), false),
        (json!({"internalTrafficPolicy": "Local"}), true),
    ];
    for (spec, expected) in table {
        assert_eq!(ours(json!({"spec": spec})).internal_local, expected);
    }
}

#[test]
fn affinity_has_a_timeout() {
    let timeout = |seconds: i32| json!({"clientIP": {"timeoutSeconds": seconds}});
    let table = [
        ("none", json!({"sessionAffinity": "None"}), None),
        (
            "none, with timeout",
            json!({"sessionAffinityConfig": timeout(5)}),
            None,
        ),
        (
            "default",
            json!({"sessionAffinity": "ClientIP"}),
            Some(10_800),
        ),
        (
            "given",
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": timeout(5)}),
            Some(5),
        ),
    ];
    for (name, spec, expected) in table {
        let found = ours(json!({"spec": spec})).affinity_timeout_s;
        assert_eq!(found, expected, "rules 70, 71: {name}");
    }
}

#[test]
fn an_annotation_chooses_the_algorithm() {
    let read = |value: &str| json!({"metadata": {"annotations": {ALGORITHM: value}}});
    assert_eq!(ours(read("random")).algorithm, Algorithm::RANDOM);
    assert_eq!(ours(read("round-robin")).algorithm, Algorithm::ROUND_ROBIN);
    let (found, faults) = faulty(read("least-connection"));
    assert_eq!(found.algorithm, Algorithm::RANDOM);
    let expected = "metadata.annotations[service.lb-agent.io/algorithm]: \"least-connection\" is no \
                    algorithm; write random or round-robin; it counts as random";
    assert_eq!(faults, [expected]);
}

#[test]
fn the_health_check_port_belongs_to_local_load_balancers() {
    let spec = |kind: &str, policy: &str| json!({"spec": {"type": kind, "externalTrafficPolicy": policy, "healthCheckNodePort": 30999}});
    assert_eq!(
        ours(spec("LoadBalancer", "Local")).health_check_node_port,
        30_999
    );
    assert_eq!(
        ours(spec("LoadBalancer", "Cluster")).health_check_node_port,
        0
    );
    assert_eq!(ours(spec("NodePort", "Local")).health_check_node_port, 0);
}

#[test]
fn ports_of_all_protocols_are_independent() {
    let found = ours(json!({"spec": {"type": "NodePort", "ports": [
        {"name": "a", "port": 80, "nodePort": 30080},
        {"name": "b", "port": 80, "nodePort": 30080, "protocol": "UDP", "targetPort": "x"},
        {"name": "c", "port": 80, "protocol": "SCTP", "nodePort": 0},
    ]}}));
    let port = |name: &str, proto, node_port| ServicePort {
        name: name.into(),
        proto,
        port: 80,
        node_port,
    };
    // rules 15, 56 and 57
    let expected = [
        port("a", Proto::TCP, 30_080),
        port("b", Proto::UDP, 30_080),
        port("c", Proto::SCTP, 0),
    ];
    assert_eq!(found.ports, expected);
}

#[test]
fn the_time_of_creation_is_kept() {
    let found = ours(json!({"metadata": {"creationTimestamp": "1970-01-02T00:00:00Z"}}));
    assert_eq!(found.created_s, 86_400);
}

#[test]
fn a_bad_part_is_told_and_leaves_the_rest() {
    let ingress = |entry: Value| json!({"status": {"loadBalancer": {"ingress": [entry]}}});
    let no_ip =
        "is not an IP address; write an IPv4 or IPv6 address without prefix length and zone";
    let no_range = "is not an address range; write it as address/length, such as 192.0.2.0/24";
    let loopback = "belongs to every host itself; write an address outside 127.0.0.0/8 and ::1";
    let table = [
        (
            "type",
            json!({"spec": {"type": "Magic"}}),
            "spec.type: \"Magic\" is no type of a Service; write ClusterIP, NodePort or LoadBalancer; it \
             is served as ClusterIP"
                .to_owned(),
        ),
        (
            "externalIP",
            json!({"spec": {"externalIPs": ["192.0.2"]}}),
            format!("spec.externalIPs[0]: \"192.0.2\" {no_ip}"),
        ),
        (
            "loopback externalIP",
            json!({"spec": {"externalIPs": ["127.0.0.1"]}}),
            format!("spec.externalIPs[0]: \"127.0.0.1\" {loopback}"),
        ),
        (
            "LB address",
            ingress(json!({"ip": "x"})),
            format!("status.loadBalancer.ingress[0].ip: \"x\" {no_ip}"),
        ),
        (
            "LB mode",
            ingress(json!({"ip": "192.0.2.1", "ipMode": "x"})),
            "status.loadBalancer.ingress[0].ipMode: \"x\" is no mode of an address; write VIP or Proxy"
                .to_owned(),
        ),
        (
            "source range",
            json!({"spec": {"loadBalancerSourceRanges": ["10.0.0.1"]}}),
            format!("spec.loadBalancerSourceRanges[0]: \"10.0.0.1\" {no_range}"),
        ),
        (
            "policy",
            json!({"spec": {"internalTrafficPolicy": "local"}}),
            "spec.internalTrafficPolicy: \"local\" is no traffic policy; write Cluster or Local".to_owned(),
        ),
        (
            "affinity",
            json!({"spec": {"sessionAffinity": "Cookie"}}),
            "spec.sessionAffinity: \"Cookie\" is no session affinity; write ClientIP or None".to_owned(),
        ),
        (
            "second family without address",
            json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}}),
            "spec.ipFamilies[1]: \"IPv6\" has no address at its place in spec.clusterIPs; add one there, \
             or remove the family"
                .to_owned(),
        ),
        (
            "node port of a ClusterIP",
            json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}),
            "spec.ports[0].nodePort: \"30080\" has no meaning for type ClusterIP; set spec.type to \
             NodePort or LoadBalancer, or remove it"
                .to_owned(),
        ),
    ];
    for (name, patch, expected) in table {
        let (found, faults) = faulty(patch);
        assert_eq!(found, plain(), "{name}");
        assert_eq!(faults, [expected], "{name}");
    }
}

#[test]
fn a_bad_port_leaves_the_others() {
    let number = "is not a port; write a number from 1 to 65535";
    let twice = "is there twice for its protocol";
    let table = [
        (
            "zero",
            json!({"name": "x", "port": 0}),
            format!("port: \"0\" {number}"),
        ),
        (
            "too large",
            json!({"name": "x", "port": 65536}),
            format!("port: \"65536\" {number}"),
        ),
        (
            "protocol",
            json!({"name": "x", "port": 81, "protocol": "tcp"}),
            "protocol: \"tcp\" is no protocol of a Service; write TCP, UDP or SCTP".to_owned(),
        ),
        (
            "name",
            json!({"port": 81}),
            format!("name: \"\" {twice}; give every port a name of its own"),
        ),
        (
            "number",
            json!({"name": "x", "port": 80}),
            format!("port: \"80\" {twice}; remove one of them"),
        ),
    ];
    for (name, bad, expected) in table {
        let (found, faults) = faulty(json!({"spec": {"ports": [{"port": 80}, bad]}}));
        assert_eq!(found, plain(), "{name}");
        assert_eq!(faults, [format!("spec.ports[1].{expected}")], "{name}");
    }
}

#[test]
fn a_bad_node_port_leaves_the_port() {
    let (found, faults) = faulty(json!({"spec": {"type": "NodePort", "ports": [
        {"name": "a", "port": 80, "nodePort": 70000},
        {"name": "b", "port": 81, "nodePort": 30080},
        {"name": "c", "port": 82, "nodePort": 30080},
    ]}}));
    let node_ports: Vec<_> = found.ports.iter().map(|p| (p.port, p.node_port)).collect();
    assert_eq!(node_ports, [(80, 0), (81, 30_080), (82, 0)]);
    let expected = [
        "spec.ports[0].nodePort: \"70000\" is not a port; write a number from 1 to 65535",
        "spec.ports[2].nodePort: \"30080\" is there twice for its protocol; choose another one",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_bad_timeout_counts_as_the_default() {
    let (found, faults) = faulty(json!({"spec": {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
    }}));
    assert_eq!(found.affinity_timeout_s, Some(10_800));
    assert_eq!(faults.len(), 1);
}

#[test]
fn a_cluster_ip_of_the_wrong_family_is_not_served() {
    let (found, faults) = faulty(json!({"spec": {
        "clusterIPs": ["10.96.0.1", "10.96.0.2"], "ipFamilies": ["IPv4", "IPv6"],
    }}));
    assert_eq!(found, plain());
    let expected = "spec.clusterIPs[1]: \"10.96.0.2\" is not of the family named at its place; put \
                    addresses and spec.ipFamilies into the same order";
    assert_eq!(faults, [expected]);
}
