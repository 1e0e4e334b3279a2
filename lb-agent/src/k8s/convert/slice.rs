//! EndpointSlices.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::{api::discovery::v1 as api, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{
    Converted, Faults, PORTS, PROTOCOLS,
    address::{self, Use},
    annotation, is_foreign, label, object_key, port, protocol,
};
use crate::model::{Endpoint, Slice, SlicePort};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A slice with its endpoints; not ours: rules 2, 8 and 9.
pub fn slice(object: &api::EndpointSlice) -> Converted<Slice> {
    let service = label(&object.metadata, SERVICE_NAME).filter(|name| !name.is_empty());
    let Some(service) = service.filter(|_| !is_foreign(&object.metadata)) else {
        return Converted::not_ours();
    };
    if object.address_type == "FQDN" {
        return Converted::not_ours();
    }
    let mut faults = Faults::default();
    let slice = Slice {
        key: object_key(&object.metadata),
        service: service.to_owned(),
        ports: ports(object, &mut faults),
        endpoints: endpoints(object, &mut faults),
        triggered: triggered(&object.metadata),
    };
    Converted::ours(slice, faults)
}

/// When what the endpoints tell came to pass; `None` where nobody says so (rule 128).
pub(super) fn triggered(meta: &ObjectMeta) -> Option<Timestamp> {
    annotation(meta, TRIGGERED)?.parse().ok()
}

fn ports(object: &api::EndpointSlice, faults: &mut Faults) -> Vec<SlicePort> {
    let ports = object.ports.iter().flatten().enumerate();
    let read = ports.filter_map(|(index, entry)| {
        let name = entry.name.as_deref()?;
        // rule 13: no number does not mean every number
        let number = entry.port.filter(|n| *n != 0)?;
        let place = format_args!("ports[{index}]");
        slice_port(place, (name, number, entry.protocol.as_deref()), faults)
    });
    read.collect()
}

/// One port of a slice or of a subset of core/v1 Endpoints.
pub(super) fn slice_port(
    place: impl fmt::Display,
    (name, number, protocol_name): (&str, i32, Option<&str>),
    faults: &mut Faults,
) -> Option<SlicePort> {
    let Some(proto) = protocol(protocol_name) else {
        let value = protocol_name.unwrap_or_default();
        faults.add(format_args!("{place}.protocol"), value, PROTOCOLS);
        return None;
    };
    let Some(port) = port(number) else {
        faults.add(format_args!("{place}.port"), number, PORTS);
        return None;
    };
    Some(SlicePort {
        name: name.to_owned(),
        proto,
        port,
    })
}

fn endpoints(object: &api::EndpointSlice, faults: &mut Faults) -> Vec<Endpoint> {
    let is_ipv4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        other => {
            let why = ("is no type of addresses", "write IPv4 or IPv6");
            faults.add("addressType", other, why);
            return Vec::new();
        }
    };
    let endpoints = object.endpoints.iter().enumerate();
    let read = endpoints.filter_map(|(index, entry)| endpoint(index, entry, is_ipv4, faults));
    read.collect()
}

/// Only the first address of an endpoint is used (rule 12).
fn endpoint(
    index: usize,
    entry: &api::Endpoint,
    is_ipv4: bool,
    faults: &mut Faults,
) -> Option<Endpoint> {
    let text = entry.addresses.first()?;
    let field = format_args!("endpoints[{index}].addresses[0]");
    let addr = address::address(field, text, Use::Backend, faults)?;
    if addr.is_ipv4() != is_ipv4 {
        let why = "is not of the family that addressType names";
        let remedy = "put it into a slice of its own family";
        let field = format_args!("endpoints[{index}].addresses[0]");
        faults.add(field, text, (why, remedy));
        return None;
    }
    let conditions = entry.conditions.as_ref();
    let hints = entry.hints.as_ref();
    let zones = hints
        .and_then(|h| h.for_zones.as_deref())
        .unwrap_or_default();
    let nodes = hints
        .and_then(|h| h.for_nodes.as_deref())
        .unwrap_or_default();
    // rule 18
    Some(Endpoint {
        addr,
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: entry.node_name.clone().filter(|name| !name.is_empty()),
        zones: zones.iter().map(|zone| zone.name.clone()).collect(),
        nodes: nodes.iter().map(|node| node.name.clone()).collect(),
    })
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
