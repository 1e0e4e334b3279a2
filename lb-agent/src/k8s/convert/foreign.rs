//! Services of other proxies.

use std::net::IpAddr;

use k8s_openapi::{api::core::v1 as api, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Converted, FOREIGN_LABELS, label, object_key, parse_ip, service};
use crate::model::{Foreign, Label, Object};

/// A Service, ours or another proxy's (rule 2).
pub fn any_service(object: &api::Service) -> Converted<Vec<Object>> {
    let Some(label) = foreign_label(&object.metadata) else {
        let Converted { object, faults } = service(object);
        return Converted {
            object: object.map(|service| vec![Object::Service(service)]),
            faults,
        };
    };
    let cluster_ips = cluster_ips(object);
    if cluster_ips.is_empty() {
        return Converted::not_ours();
    }
    let foreign = Foreign {
        key: object_key(&object.metadata),
        label,
        cluster_ips,
    };
    Converted {
        object: Some(vec![Object::Foreign(foreign)]),
        // What is wrong with it is for its own proxy to say.
        faults: Vec::new(),
    }
}

fn foreign_label(meta: &ObjectMeta) -> Option<Label> {
    let labels = [Label::ProxyName, Label::Headless].into_iter();
    let mut named = labels.zip(FOREIGN_LABELS);
    named.find_map(|(kind, name)| label(meta, name).map(|_| kind))
}

fn cluster_ips(object: &api::Service) -> Vec<IpAddr> {
    let Some(spec) = &object.spec else {
        return Vec::new();
    };
    let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut ips: Vec<IpAddr> = listed.filter_map(|text| parse_ip(text)).collect();
    ips.sort();
    ips.dedup();
    ips
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::k8s::convert::tests::object;

    fn made(labels: serde_json::Value, spec: serde_json::Value) -> Vec<Object> {
        let meta = json!({"namespace": "shop", "name": "web", "labels": labels});
        let found = any_service(&object(json!({"metadata": meta, "spec": spec})));
        assert_eq!(found.faults, []);
        found.object.unwrap_or_default()
    }

    #[test]
    fn of_a_labelled_service_the_addresses_are_kept() {
        let [name, headless] = FOREIGN_LABELS;
        let ips = ["10.96.0.9", "fd00::9"];
        let spec = json!({"clusterIP": ips[0], "clusterIPs": ips, "ports": [{"port": 0}]});
        for (labels, label) in [
            (json!({name: ""}), Label::ProxyName),
            (json!({headless: "x"}), Label::Headless),
            (json!({name: "x", headless: ""}), Label::ProxyName),
        ] {
            let expected = Foreign {
                key: crate::model::ObjectKey::new("shop", "web"),
                label,
                cluster_ips: ips.map(|ip| ip.parse().expect("an address")).to_vec(),
            };
            assert_eq!(made(labels, spec.clone()), [Object::Foreign(expected)]);
        }
    }

    #[test]
    fn a_labelled_service_without_address_is_nothing() {
        let [name, _] = FOREIGN_LABELS;
        for ip in ["", "None", "x"] {
            let spec = json!({"clusterIP": ip, "clusterIPs": [ip]});
            assert_eq!(made(json!({name: ""}), spec), []);
        }
    }

    #[test]
    fn a_service_without_label_is_ours() {
        let spec = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
        let made = made(json!({"app": "web"}), spec);
        assert!(matches!(&made[..], [Object::Service(_)]), "{made:?}");
    }
}
