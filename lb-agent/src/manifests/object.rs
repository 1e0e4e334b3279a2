//! One document to the objects it stands for.
//!
//! No API server has seen these documents, so what one would fill in and we need is filled in here:
//! the namespace, the first cluster address, the families of addresses, and the empty name of a
//! slice's port (which would be ignored without it, rule 13).

use std::fmt;

use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    k8s::convert::{self, Converted, Fault},
    model::Object,
};

/// Names an object across all files.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Name {
    /// As the API calls it.
    pub(super) kind: &'static str,
    /// Empty for kinds without namespaces.
    pub(super) namespace: String,
    /// `metadata.name`
    pub(super) name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What a document is worth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Nothing to us: another kind.
    Ignored,
    /// Bad, and whose it is cannot be told.
    Nameless(String),
    /// Bad as a whole.
    Bad(Name, String),
    /// Good, maybe not all of it. No objects: it is not ours to serve.
    Good(Name, Vec<Object>, Vec<Fault>),
}

/// What we read, with the only version of it that we know.
const KINDS: [(&str, &str); 5] = [
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("v1", "Endpoints"),
    ("v1", "Node"),
    ("networking.k8s.io/v1", "ServiceCIDR"),
];

/// Reads one. Of Nodes only `node_name` is ours.
pub(super) fn outcome(value: &Value, node_name: &str) -> Outcome {
    let Some(fields) = value.as_object() else {
        return Outcome::Nameless("is no object; write apiVersion, kind and metadata".into());
    };
    let (version, kind) = (text(fields, "apiVersion"), text(fields, "kind"));
    if kind.is_empty() || version.is_empty() {
        let missing = if kind.is_empty() {
            "kind"
        } else {
            "apiVersion"
        };
        return Outcome::Nameless(format!(
            "has no {missing}; add it, or move it out of the folder"
        ));
    }
    let Some((expected, kind)) = known(version, kind) else {
        return Outcome::Ignored;
    };
    let Some(name) = name(kind, fields) else {
        return Outcome::Nameless(format!("is a {kind} without metadata.name; add it"));
    };
    if version != expected {
        let reason = format!("apiVersion: {version:?} is not read for {kind}; write {expected}");
        return Outcome::Bad(name, reason);
    }
    let (objects, faults) = match read(kind, completed(kind, fields.clone(), &name), node_name) {
        Ok(Converted { object, faults }) => (object.unwrap_or_default(), faults),
        Err(reason) => return Outcome::Bad(name, reason),
    };
    Outcome::Good(name, objects, faults)
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Kinds of the same name in foreign groups (`serving.knative.dev/v1 Service`) are foreign.
fn known(version: &str, kind: &str) -> Option<(&'static str, &'static str)> {
    let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    let mut kinds = KINDS.into_iter();
    kinds.find(|(expected, known)| *known == kind && group(expected) == group(version))
}

fn name(kind: &'static str, fields: &Map<String, Value>) -> Option<Name> {
    let meta = fields.get("metadata")?.as_object()?;
    let name = text(meta, "name");
    if name.is_empty() {
        return None;
    }
    let namespace = match (is_namespaced(kind), text(meta, "namespace")) {
        (false, _) => "",
        (true, "") => "default",
        (true, namespace) => namespace,
    };
    Some(Name {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

fn is_namespaced(kind: &str) -> bool {
    !matches!(kind, "Node" | "ServiceCIDR")
}

/// With what an API server would have filled in.
fn completed(kind: &str, mut fields: Map<String, Value>, name: &Name) -> Value {
    if let Some(Value::Object(meta)) = fields.get_mut("metadata")
        && is_namespaced(kind)
    {
        meta.insert("namespace".into(), name.namespace.clone().into());
    }
    if let ("Service", Some(Value::Object(spec))) = (kind, fields.get_mut("spec")) {
        complete_service(spec);
    }
    if let ("EndpointSlice", Some(Value::Array(ports))) = (kind, fields.get_mut("ports")) {
        complete_ports(ports);
    }
    Value::Object(fields)
}

fn complete_service(spec: &mut Map<String, Value>) {
    let listed = spec.get("clusterIPs").and_then(Value::as_array).cloned();
    let listed = listed.filter(|ips| !ips.is_empty());
    if let Some(first) = listed.as_ref().and_then(|ips| ips.first())
        && text(spec, "clusterIP").is_empty()
    {
        spec.insert("clusterIP".into(), first.clone());
    }
    let has_families = spec.get("ipFamilies").and_then(Value::as_array);
    if has_families.is_some_and(|families| !families.is_empty()) {
        return;
    }
    let families = listed.iter().flatten().map(|ip| {
        let is_ipv6 = ip.as_str().is_some_and(|ip| ip.contains(':'));
        json!(if is_ipv6 { "IPv6" } else { "IPv4" })
    });
    spec.insert("ipFamilies".into(), families.collect());
}

fn complete_ports(ports: &mut [Value]) {
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        let name = port.entry("name").or_insert(Value::Null);
        if name.is_null() {
            *name = json!("");
        }
    }
}

fn read(kind: &str, value: Value, node_name: &str) -> Result<Converted<Vec<Object>>, String> {
    Ok(match kind {
        "Service" => {
            let service = typed::<core::Service>(value)?;
            check_address(&service)?;
            convert::any_service(&service)
        }
        "EndpointSlice" => one(
            convert::slice(&typed::<discovery::EndpointSlice>(value)?),
            Object::Slice,
        ),
        "Endpoints" => {
            let found = convert::endpoints(&typed::<core::Endpoints>(value)?);
            Converted {
                object: found
                    .object
                    .map(|s| s.into_iter().map(Object::Slice).collect()),
                faults: found.faults,
            }
        }
        "Node" => {
            let node = typed::<core::Node>(value)?;
            if node.metadata.name.as_deref() != Some(node_name) {
                return Ok(Converted::not_ours());
            }
            one(convert::node(&node), Object::Node)
        }
        _ => one(
            convert::service_cidr(&typed::<networking::ServiceCIDR>(value)?),
            Object::ServiceCidr,
        ),
    })
}

fn one<T>(found: Converted<T>, wrap: fn(T) -> Object) -> Converted<Vec<Object>> {
    Converted {
        object: found.object.map(|object| vec![wrap(object)]),
        faults: found.faults,
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        format!("{path}: {}; correct it", error.into_inner())
    })
}

/// A cluster gives every Service an address. Here nobody does.
fn check_address(service: &core::Service) -> Result<(), String> {
    let Some(spec) = &service.spec else {
        return Err("has no spec; add spec.clusterIP and spec.ports".into());
    };
    let is_name = spec.type_.as_deref() == Some("ExternalName");
    let has_address = spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty());
    if is_name || has_address || convert::is_foreign(&service.metadata) {
        return Ok(());
    }
    Err(
        "spec.clusterIP: is missing, and no cluster is here to choose one; write an address that \
         nothing else uses, such as clusterIP: 10.96.0.10, or None for a headless Service"
            .into(),
    )
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
