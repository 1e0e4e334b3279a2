use lb_common::net::Proto;
use serde_json::{Value, json};

use super::*;
use crate::{
    k8s::convert::tests::{object, texts},
    model::ObjectKey,
};

/// A slice of `shop/web`; the given fields are put into it.
fn read(fields: Value) -> Converted<Slice> {
    let mut value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
        },
        "endpoints": [], "ports": [],
    });
    for (name, field) in fields.as_object().expect("fields") {
        value[name] = field.clone();
    }
    slice(&object::<api::EndpointSlice>(value))
}

fn ours(fields: Value) -> Slice {
    let found = read(fields);
    assert_eq!(texts(&found.faults), [] as [&str; 0]);
    found.object.expect("it is ours")
}

fn ready(addr: &str) -> Endpoint {
    Endpoint {
        addr: addr.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zones: vec![],
        nodes: vec![],
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let labels = |labels: Value| json!({"metadata": {"name": "web-1", "labels": labels}});
    let name = "kubernetes.io/service-name";
    let proxy = "service.kubernetes.io/service-proxy-name";
    let headless = "service.kubernetes.io/headless";
    let table = [
        ("rule 9: no label", labels(json!({}))),
        ("rule 9: empty label", labels(json!({name: ""}))),
        (
            "rule 2: another proxy",
            labels(json!({name: "web", proxy: ""})),
        ),
        (
            "rule 2: headless",
            labels(json!({name: "web", headless: ""})),
        ),
        (
            "rule 8: names",
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}]}),
        ),
    ];
    for (row, fields) in table {
        assert_eq!(read(fields), Converted::not_ours(), "{row}");
    }
}

#[test]
fn ports_need_name_and_number() {
    let slice = ours(json!({"ports": [
        {"name": "", "port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"port": 81},
        {"name": "all"},
        {"name": "none", "port": 0},
    ]}));
    let port = |name: &str, proto, port| SlicePort {
        name: name.into(),
        proto,
        port,
    };
    // rule 13
    assert_eq!(
        slice.ports,
        [port("", Proto::TCP, 80), port("dns", Proto::UDP, 53)]
    );
    assert_eq!(slice.key, ObjectKey::new("shop", "web-1"));
    assert_eq!(slice.service_key(), ObjectKey::new("shop", "web"));
}

#[test]
fn conditions_have_defaults() {
    let table = [
        ("rule 18: none", json!(null), (true, true, false)),
        ("rule 18: empty", json!({}), (true, true, false)),
        ("not ready", json!({"ready": false}), (false, true, false)),
        (
            "terminating",
            json!({"ready": false, "serving": true, "terminating": true}),
            (false, true, true),
        ),
        (
            "not serving",
            json!({"ready": false, "serving": false}),
            (false, false, false),
        ),
    ];
    for (name, conditions, expected) in table {
        let slice =
            ours(json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}]}));
        let found = &slice.endpoints[0];
        assert_eq!(
            (found.ready, found.serving, found.terminating),
            expected,
            "{name}"
        );
    }
}

#[test]
fn node_and_hints_are_kept() {
    let slice = ours(json!({"endpoints": [{
        "addresses": ["10.0.0.1"], "nodeName": "one", "zone": "a",
        "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "one"}]},
    }]}));
    let expected = Endpoint {
        node: Some("one".into()),
        zones: vec!["a".into(), "b".into()],
        nodes: vec!["one".into()],
        ..ready("10.0.0.1")
    };
    assert_eq!(slice.endpoints, [expected]);
}

#[test]
fn only_the_first_address_is_used() {
    let slice = ours(json!({"endpoints": [
        {"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": []},
    ]}));
    assert_eq!(slice.endpoints, [ready("10.0.0.1")], "rule 12");
}

#[test]
fn the_time_of_the_change_is_kept_where_it_parses() {
    let read = |time: &str| {
        let meta = json!({
            "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": time},
        });
        ours(json!({"metadata": meta})).triggered
    };
    let expected = Timestamp::new(1, 500_000_000).unwrap();
    assert_eq!(read("1970-01-01T00:00:01.5Z"), Some(expected), "rule 128");
    assert_eq!(read("yesterday"), None, "rule 128");
}

#[test]
fn a_bad_part_is_told_and_leaves_the_rest() {
    let found = read(json!({
        "ports": [{"name": "", "port": 70000}, {"name": "x", "port": 1, "protocol": "x"}, {"name": "a", "port": 80}],
        "endpoints": [
            {"addresses": ["nowhere"]}, {"addresses": ["fd00::1"]}, {"addresses": ["0.0.0.0"]},
            {"addresses": ["10.0.0.1"]},
        ],
    }));
    let slice = found.object.unwrap();
    assert_eq!(slice.ports.len(), 1);
    assert_eq!(slice.endpoints, [ready("10.0.0.1")]);
    let expected = [
        "ports[0].port: \"70000\" is not a port; write a number from 1 to 65535",
        "ports[1].protocol: \"x\" is no protocol of a Service; write TCP, UDP or SCTP",
        "endpoints[0].addresses[0]: \"nowhere\" is not an IP address; write an IPv4 or IPv6 address \
         without prefix length and zone",
        "endpoints[1].addresses[0]: \"fd00::1\" is not of the family that addressType names; put it into \
         a slice of its own family",
        "endpoints[2].addresses[0]: \"0.0.0.0\" cannot be the address of one host; write an address that \
         is neither unspecified, multicast nor broadcast",
    ];
    assert_eq!(texts(&found.faults), expected);
}

#[test]
fn an_unknown_type_of_addresses_is_told() {
    let found = read(json!({"addressType": "IPX", "endpoints": [{"addresses": ["10.0.0.1"]}]}));
    assert_eq!(found.object.unwrap().endpoints, []);
    assert_eq!(
        texts(&found.faults),
        ["addressType: \"IPX\" is no type of addresses; write IPv4 or IPv6"]
    );
}
