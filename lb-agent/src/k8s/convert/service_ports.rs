//! The ports of a Service.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use lb_common::net::Proto;

use super::{Faults, PORTS, PROTOCOLS, port, protocol};
use crate::model::{ServicePort, ServiceType};

/// Every port once; of two that would answer at one place the first counts.
pub(super) fn ports(
    spec: &api::ServiceSpec,
    service_type: ServiceType,
    faults: &mut Faults,
) -> Vec<ServicePort> {
    let mut seen = Seen::default();
    let mut found = Vec::new();
    for (index, entry) in spec.ports.iter().flatten().enumerate() {
        let place = format!("spec.ports[{index}]");
        found.extend(service_port(&place, entry, service_type, &mut seen, faults));
    }
    found
}

#[derive(Default)]
struct Seen {
    names: BTreeSet<(String, Proto)>,
    ports: BTreeSet<(u16, Proto)>,
    node_ports: BTreeSet<(u16, Proto)>,
}

fn service_port(
    place: &str,
    entry: &api::ServicePort,
    service_type: ServiceType,
    seen: &mut Seen,
    faults: &mut Faults,
) -> Option<ServicePort> {
    let Some(proto) = protocol(entry.protocol.as_deref()) else {
        let value = entry.protocol.as_deref().unwrap_or_default();
        faults.add(format_args!("{place}.protocol"), value, PROTOCOLS);
        return None;
    };
    let Some(number) = port(entry.port) else {
        faults.add(format_args!("{place}.port"), entry.port, PORTS);
        return None;
    };
    let twice = "is there twice for its protocol";
    let name = entry.name.clone().unwrap_or_default();
    if seen.names.contains(&(name.clone(), proto)) {
        let remedy = "give every port a name of its own";
        faults.add(format_args!("{place}.name"), name, (twice, remedy));
        return None;
    }
    if !seen.ports.insert((number, proto)) {
        let remedy = "remove one of them";
        faults.add(format_args!("{place}.port"), number, (twice, remedy));
        return None;
    }
    seen.names.insert((name.clone(), proto));
    Some(ServicePort {
        name,
        proto,
        port: number,
        node_port: node_port(place, entry, (service_type, proto), seen, faults),
    })
}

/// 0 where there is none (rule 56) or none that can be served.
fn node_port(
    place: &str,
    entry: &api::ServicePort,
    (service_type, proto): (ServiceType, Proto),
    seen: &mut Seen,
    faults: &mut Faults,
) -> u16 {
    let Some(wanted) = entry.node_port.filter(|n| *n != 0) else {
        return 0;
    };
    let why = match port(wanted) {
        None => PORTS,
        Some(_) if service_type == ServiceType::ClusterIp => (
            "has no meaning for type ClusterIP",
            "set spec.type to NodePort or LoadBalancer, or remove it",
        ),
        Some(number) if seen.node_ports.insert((number, proto)) => return number,
        Some(_) => ("is there twice for its protocol", "choose another one"),
    };
    faults.add(format_args!("{place}.nodePort"), wanted, why);
    0
}
