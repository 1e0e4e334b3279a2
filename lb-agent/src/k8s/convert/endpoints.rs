//! core/v1 Endpoints, for clusters and tools that write only those.
//!
//! Each subset becomes up to two slices, one per family, because its ports belong to its own
//! addresses only. Their names hold a `/`, which no real slice's name can.

use k8s_openapi::api::core::v1 as api;

use super::{
    Converted, Faults,
    address::{self, Use},
    is_foreign, object_key,
    slice::{slice_port, triggered},
};
use crate::model::{Endpoint, ObjectKey, Slice, SlicePort};

/// The slices that say what Endpoints say; not ours: rule 2.
pub fn endpoints(object: &api::Endpoints) -> Converted<Vec<Slice>> {
    if is_foreign(&object.metadata) {
        return Converted::not_ours();
    }
    let mut faults = Faults::default();
    let mut slices = Vec::new();
    for (index, subset) in object.subsets.iter().flatten().enumerate() {
        let ports = ports(index, subset, &mut faults);
        let endpoints = addresses(index, subset, &mut faults);
        let (four, six): (Vec<_>, Vec<_>) = endpoints.into_iter().partition(|e| e.addr.is_ipv4());
        slices.extend(family(object, (index, "ipv4"), ports.clone(), four));
        slices.extend(family(object, (index, "ipv6"), ports, six));
    }
    Converted::ours(slices, faults)
}

fn family(
    object: &api::Endpoints,
    (index, name): (usize, &str),
    ports: Vec<SlicePort>,
    endpoints: Vec<Endpoint>,
) -> Option<Slice> {
    if endpoints.is_empty() {
        return None;
    }
    let key = object_key(&object.metadata);
    Some(Slice {
        service: key.name.clone(),
        key: ObjectKey::new(key.namespace, format!("{}/{index}-{name}", key.name)),
        ports,
        endpoints,
        triggered: triggered(&object.metadata),
    })
}

fn ports(index: usize, subset: &api::EndpointSubset, faults: &mut Faults) -> Vec<SlicePort> {
    let ports = subset.ports.iter().flatten().enumerate();
    let read = ports.filter_map(|(number, entry)| {
        let place = format_args!("subsets[{index}].ports[{number}]");
        let name = entry.name.as_deref().unwrap_or_default();
        slice_port(place, (name, entry.port, entry.protocol.as_deref()), faults)
    });
    read.collect()
}

/// Ready ones, then those that are not; Endpoints know nothing of serving and terminating.
fn addresses(index: usize, subset: &api::EndpointSubset, faults: &mut Faults) -> Vec<Endpoint> {
    let lists = [
        ("addresses", &subset.addresses, true),
        ("notReadyAddresses", &subset.not_ready_addresses, false),
    ];
    let mut found = Vec::new();
    for (list, entries, is_ready) in lists {
        for (number, entry) in entries.iter().flatten().enumerate() {
            let field = format_args!("subsets[{index}].{list}[{number}].ip");
            let Some(addr) = address::address(field, &entry.ip, Use::Backend, faults) else {
                continue;
            };
            found.push(Endpoint {
                addr,
                ready: is_ready,
                serving: is_ready,
                terminating: false,
                node: entry.node_name.clone().filter(|name| !name.is_empty()),
                zones: Vec::new(),
                nodes: Vec::new(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as api;
    use lb_common::net::Proto;
    use serde_json::json;

    use super::*;
    use crate::k8s::convert::tests::{object, texts};

    fn read(value: serde_json::Value) -> Converted<Vec<Slice>> {
        endpoints(&object::<api::Endpoints>(value))
    }

    fn endpoint(addr: &str, is_ready: bool, node: Option<&str>) -> Endpoint {
        Endpoint {
            addr: addr.parse().unwrap(),
            ready: is_ready,
            serving: is_ready,
            terminating: false,
            node: node.map(str::to_owned),
            zones: vec![],
            nodes: vec![],
        }
    }

    #[test]
    fn every_subset_becomes_a_slice_per_family_with_its_own_ports() {
        let found = read(json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"namespace": "shop", "name": "web"},
            "subsets": [
                {
                    "addresses": [{"ip": "10.0.0.1", "nodeName": "one"}, {"ip": "fd00::1"}],
                    "notReadyAddresses": [{"ip": "10.0.0.2"}],
                    "ports": [{"port": 80}],
                },
                {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
            ],
        }));
        let slice = |name: &str, port: (&str, Proto, u16), endpoints| Slice {
            key: ObjectKey::new("shop", name),
            service: "web".into(),
            ports: vec![SlicePort {
                name: port.0.into(),
                proto: port.1,
                port: port.2,
            }],
            endpoints,
            triggered: None,
        };
        let expected = vec![
            slice(
                "web/0-ipv4",
                ("", Proto::TCP, 80),
                vec![
                    endpoint("10.0.0.1", true, Some("one")),
                    endpoint("10.0.0.2", false, None),
                ],
            ),
            slice(
                "web/0-ipv6",
                ("", Proto::TCP, 80),
                vec![endpoint("fd00::1", true, None)],
            ),
            slice(
                "web/1-ipv4",
                ("dns", Proto::UDP, 53),
                vec![endpoint("10.0.0.3", true, None)],
            ),
        ];
        assert_eq!(found.object, Some(expected));
        assert_eq!(texts(&found.faults), [] as [&str; 0]);
    }

    #[test]
    fn a_bad_address_leaves_the_others() {
        let found = read(json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": "shop", "name": "web"},
            "subsets": [{"addresses": [{"ip": "nowhere"}, {"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
        }));
        let slices = found.object.unwrap();
        assert_eq!(slices[0].endpoints, [endpoint("10.0.0.1", true, None)]);
        assert_eq!(
            texts(&found.faults),
            [
                "subsets[0].addresses[0].ip: \"nowhere\" is not an IP address; write an IPv4 or IPv6 address \
              without prefix length and zone"
            ]
        );
    }

    #[test]
    fn a_headless_label_on_endpoints_takes_them_away() {
        let found = read(json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "web", "labels": {"service.kubernetes.io/headless": ""}},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
        }));
        assert_eq!(found, Converted::not_ours());
    }
}
