//! Kubernetes objects for the laboratory's manifest folders, written as one would by hand.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

mod service;
mod slice;

pub use service::{ServiceManifest, svc};
pub use slice::{EndpointManifest, SliceManifest, endpoint, slices};

/// One YAML document, and where an EndpointSlice of both families needs two, those.
#[derive(Debug, Clone)]
pub struct Document(Vec<Value>);

impl Document {
    /// The objects as a `List`, the way `kubectl get -o yaml` prints them.
    #[must_use]
    pub fn list(documents: impl IntoIterator<Item = Document>) -> Self {
        let items: Vec<Value> = documents
            .into_iter()
            .flat_map(|document| document.0)
            .collect();
        Self(vec![
            json!({ "apiVersion": "v1", "kind": "List", "items": items }),
        ])
    }
}

/// The documents as one YAML text.
///
/// # Errors
/// When a value cannot be written as YAML.
pub fn to_yaml(documents: &[Document]) -> Result<String> {
    let objects = documents.iter().flat_map(|document| &document.0);
    let texts: Result<Vec<String>, _> = objects.map(serde_yaml_ng::to_string).collect();
    Ok(texts.context("write YAML")?.join("---\n"))
}

fn metadata(namespaced: &str) -> Value {
    let (namespace, name) = namespaced
        .split_once('/')
        .unwrap_or(("default", namespaced));
    json!({ "name": name, "namespace": namespace, "labels": {}, "annotations": {} })
}

/// A Node object without addresses.
#[must_use]
pub fn node(name: &str) -> NodeManifest {
    NodeManifest {
        name: name.to_owned(),
        labels: Map::new(),
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
    }
}

/// A Node in the making.
#[derive(Debug, Clone)]
pub struct NodeManifest {
    name: String,
    labels: Map<String, Value>,
    addresses: Vec<Value>,
    pod_cidrs: Vec<String>,
}

impl NodeManifest {
    /// Adds an InternalIP.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.addresses
            .push(json!({ "type": "InternalIP", "address": address }));
        self
    }

    /// Adds a pod range.
    #[must_use]
    pub fn pod_cidr(mut self, range: &str) -> Self {
        self.pod_cidrs.push(range.to_owned());
        self
    }

    /// Sets the zone.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        self.label("topology.kubernetes.io/zone", zone)
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), json!(value));
        self
    }
}

impl From<NodeManifest> for Document {
    fn from(node: NodeManifest) -> Self {
        Self(vec![json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": node.name, "labels": node.labels },
            "spec": { "podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs },
            "status": { "addresses": node.addresses },
        })])
    }
}

/// A ServiceCIDR object.
#[must_use]
pub fn service_cidr(name: &str, ranges: &[&str]) -> Document {
    Document(vec![json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": name }, "spec": { "cidrs": ranges },
    })])
}
