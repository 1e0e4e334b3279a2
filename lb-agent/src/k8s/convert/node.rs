//! Nodes and ServiceCIDRs.

use k8s_openapi::api::{core::v1::Node as ApiNode, networking::v1::ServiceCIDR as ApiServiceCidr};

use super::{
    Converted, Faults,
    address::{self, Use, ranges},
    label,
};
use crate::model::{Node, ServiceCidr};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The key of the taint; value and effect do not matter.
const LEAVES: &str = "ToBeDeletedByClusterAutoscaler";

/// A node: zone (rule 26), addresses in the order of their worth (rule 134), pod ranges.
pub fn node(object: &ApiNode) -> Converted<Node> {
    let mut faults = Faults::default();
    let status = object.status.as_ref();
    let listed = status
        .and_then(|s| s.addresses.as_deref())
        .unwrap_or_default();
    let mut addresses = Vec::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for (index, entry) in listed.iter().enumerate().filter(|(_, e)| e.type_ == wanted) {
            let field = format_args!("status.addresses[{index}].address");
            addresses.extend(address::address(
                field,
                &entry.address,
                Use::Node,
                &mut faults,
            ));
        }
    }
    let spec = object.spec.as_ref();
    let node = Node {
        name: object.metadata.name.clone().unwrap_or_default(),
        zone: label(&object.metadata, ZONE)
            .filter(|zone| !zone.is_empty())
            .map(str::to_owned),
        addresses,
        pod_cidrs: ranges(
            "spec.podCIDRs",
            spec.and_then(|s| s.pod_cidrs.as_ref()),
            &mut faults,
        ),
        is_leaving: is_leaving(object),
    };
    Converted::ours(node, faults)
}

/// Rule 117. Whether it is schedulable does not matter: it is, for pods that run there, a node like any other.
fn is_leaving(object: &ApiNode) -> bool {
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let mut taints = taints.unwrap_or_default().iter();
    object.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == LEAVES)
}

/// The ranges that Services get their addresses from.
pub fn service_cidr(object: &ApiServiceCidr) -> Converted<ServiceCidr> {
    let mut faults = Faults::default();
    let spec = object.spec.as_ref();
    let service_cidr = ServiceCidr {
        name: object.metadata.name.clone().unwrap_or_default(),
        cidrs: ranges(
            "spec.cidrs",
            spec.and_then(|s| s.cidrs.as_ref()),
            &mut faults,
        ),
    };
    Converted::ours(service_cidr, faults)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::k8s::convert::tests::{object, texts};

    #[test]
    fn internal_addresses_come_before_external_ones() {
        let found = node(&object(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "one", "labels": {"topology.kubernetes.io/zone": "a"}},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]},
            "status": {"addresses": [
                {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "Hostname", "address": "one"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "2001:db8::1"},
            ]},
        })));
        let expected = Node {
            name: "one".into(),
            zone: Some("a".into()),
            addresses: ["192.0.2.1", "2001:db8::1", "203.0.113.1"]
                .map(|a| a.parse().unwrap())
                .into(),
            pod_cidrs: ["10.244.1.0/24", "fd00:244:1::/64"]
                .map(|a| a.parse().unwrap())
                .into(),
            is_leaving: false,
        };
        assert_eq!(found.object, Some(expected));
        assert_eq!(found.faults, []);
    }

    #[test]
    fn a_node_leaves_when_it_is_deleted_or_tainted_for_it() {
        let leaves = |metadata, spec| {
            let found = node(&object(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec,
            })));
            found.object.unwrap().is_leaving
        };
        let one = json!({"name": "one"});
        let deleted = json!({"name": "one", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
        assert!(leaves(deleted, json!({})));
        assert!(leaves(one.clone(), taint("ToBeDeletedByClusterAutoscaler")));
        assert!(!leaves(
            one.clone(),
            taint("node.kubernetes.io/unreachable")
        ));
        assert!(!leaves(one, json!({"unschedulable": true})));
    }

    #[test]
    fn an_empty_zone_is_no_zone() {
        let found = node(&object(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "one", "labels": {"topology.kubernetes.io/zone": ""}},
        })));
        assert_eq!(found.object.unwrap().zone, None);
    }

    #[test]
    fn a_bad_part_of_a_node_leaves_the_others() {
        let found = node(&object(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"},
            "spec": {"podCIDRs": ["10.244.1.0", "10.244.2.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "x"}, {"type": "InternalIP", "address": "192.0.2.1"}]},
        })));
        let node = found.object.unwrap();
        assert_eq!(
            node.addresses,
            ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(node.pod_cidrs, ["10.244.2.0/24".parse().unwrap()]);
        assert_eq!(
            texts(&found.faults),
            [
                "status.addresses[0].address: \"x\" is not an IP address; write an IPv4 or IPv6 address \
                 without prefix length and zone",
                "spec.podCIDRs[0]: \"10.244.1.0\" is not an address range; write it as address/length, \
                 such as 192.0.2.0/24",
            ]
        );
    }

    #[test]
    fn a_service_cidr_has_its_ranges() {
        let found = service_cidr(&object(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112", "all"]},
        })));
        let expected = ServiceCidr {
            name: "kubernetes".into(),
            cidrs: ["10.96.0.0/16", "fd00:10:96::/112"]
                .map(|a| a.parse().unwrap())
                .into(),
        };
        assert_eq!(found.object, Some(expected));
        assert_eq!(found.faults.len(), 1);
    }
}
