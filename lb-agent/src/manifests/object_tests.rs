use super::*;
use crate::model::{ServiceCidr, Slice};

fn read(yaml: &str) -> Outcome {
    let value = serde_yaml_ng::from_str(yaml).expect("the test's YAML parses");
    outcome(&value, "one")
}

fn reason(outcome: Outcome) -> String {
    match &outcome {
        Outcome::Nameless(reason) => reason.clone(),
        Outcome::Bad(name, reason) => format!("{name}: {reason}"),
        Outcome::Ignored | Outcome::Good(..) => panic!("not bad: {outcome:?}"),
    }
}

fn object(outcome: Outcome) -> Object {
    let Outcome::Good(_, mut objects, faults) = outcome else {
        panic!("not good: {outcome:?}");
    };
    assert_eq!(faults, []);
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

#[test]
fn what_is_none_of_our_kinds_is_ignored() {
    let table = [
        ("another kind", "apiVersion: apps/v1\nkind: Deployment"),
        (
            "another group's Service",
            "apiVersion: serving.knative.dev/v1\nkind: Service",
        ),
        (
            "without metadata",
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization",
        ),
    ];
    for (name, yaml) in table {
        assert_eq!(read(yaml), Outcome::Ignored, "{name}");
    }
}

#[test]
fn a_bad_document_is_told_with_field_and_remedy() {
    let table = [
        (
            "no object",
            "- a",
            "is no object; write apiVersion, kind and metadata",
        ),
        (
            "no kind",
            "a: 1",
            "has no kind; add it, or move it out of the folder",
        ),
        (
            "no version",
            "kind: Service",
            "has no apiVersion; add it, or move it out of the folder",
        ),
        (
            "no name",
            "{apiVersion: v1, kind: Service, metadata: {}}",
            "is a Service without metadata.name; add it",
        ),
        (
            "old version",
            "{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, metadata: {name: a}}",
            "EndpointSlice default/a: apiVersion: \"discovery.k8s.io/v1beta1\" is not read for \
             EndpointSlice; write discovery.k8s.io/v1",
        ),
        (
            "no spec",
            "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}}",
            "Service b/a: has no spec; add spec.clusterIP and spec.ports",
        ),
        (
            "no address",
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}",
            "Service default/a: spec.clusterIP: is missing, and no cluster is here to choose one; \
             write an address that nothing else uses, such as clusterIP: 10.96.0.10, or None for a \
             headless Service",
        ),
        (
            "wrong type",
            "{apiVersion: v1, kind: Node, metadata: {name: one}, spec: {podCIDRs: 10.0.0.0/8}}",
            "Node one: spec.podCIDRs: invalid type: string \"10.0.0.0/8\", expected a sequence; correct it",
        ),
    ];
    for (name, yaml, expected) in table {
        assert_eq!(reason(read(yaml)), expected, "{name}");
    }
}

#[test]
fn a_service_that_is_not_ours_needs_no_address() {
    let table = [
        ("headless", "spec: {clusterIP: None}"),
        (
            "external name",
            "spec: {type: ExternalName, externalName: example.org}",
        ),
    ];
    for (name, spec) in table {
        let yaml = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n{spec}");
        assert!(
            matches!(read(&yaml), Outcome::Good(_, objects, faults) if objects.is_empty() && faults.is_empty()),
            "{name}"
        );
    }
}

#[test]
fn addresses_are_completed_as_an_api_server_would() {
    let table = [
        ("one address", "clusterIP: 10.96.0.1", vec!["10.96.0.1"]),
        ("list alone", "clusterIPs: [10.96.0.1]", vec!["10.96.0.1"]),
        (
            "two families",
            "clusterIPs: ['fd00::1', 10.96.0.1]",
            vec!["fd00::1", "10.96.0.1"],
        ),
        (
            "both fields",
            "{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1']}",
            vec!["10.96.0.1", "fd00::1"],
        ),
        (
            "families said",
            "{clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4]}",
            vec!["10.96.0.1"],
        ),
    ];
    for (name, spec, expected) in table {
        let spec = if spec.starts_with('{') {
            spec.to_owned()
        } else {
            format!("{{{spec}}}")
        };
        let yaml = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}");
        let Object::Service(service) = object(read(&yaml)) else {
            panic!("{name}: no service");
        };
        let expected: Vec<std::net::IpAddr> =
            expected.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(service.cluster_ips, expected, "{name}");
        assert_eq!(service.key.namespace, "default", "{name}");
    }
}

#[test]
fn a_slice_port_without_name_has_the_empty_one() {
    let yaml = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [], \
                metadata: {name: a, labels: {kubernetes.io/service-name: web}}, ports: [{port: 80}]}";
    let Object::Slice(Slice { ports, .. }) = object(read(yaml)) else {
        panic!("no slice");
    };
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].name, "");
}

#[test]
fn of_nodes_only_our_own_counts() {
    let node = |name: &str| format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}");
    assert!(matches!(object(read(&node("one"))), Object::Node(_)));
    let other = read(&node("two"));
    assert!(matches!(other, Outcome::Good(_, objects, _) if objects.is_empty()));
}

#[test]
fn a_service_cidr_is_read() {
    let yaml = "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: a}, \
                spec: {cidrs: [10.96.0.0/16]}}";
    let expected = ServiceCidr {
        name: "a".into(),
        cidrs: vec!["10.96.0.0/16".parse().unwrap()],
    };
    assert_eq!(object(read(yaml)), Object::ServiceCidr(expected));
}
