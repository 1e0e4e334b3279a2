//! Kubernetes objects for the laboratory's manifest folders, written as one would by hand.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::node::Pod;
use super::place::Place;

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

/// A Service `namespace/name` of type ClusterIP without ports.
#[must_use]
pub fn svc(namespaced: &str) -> ServiceManifest {
    ServiceManifest {
        metadata: metadata(namespaced),
        spec: Map::new(),
        ports: Vec::new(),
        ingress: Vec::new(),
    }
}

/// A Service in the making.
#[derive(Debug, Clone)]
pub struct ServiceManifest {
    metadata: Value,
    spec: Map<String, Value>,
    ports: Vec<Value>,
    ingress: Vec<Value>,
}

impl ServiceManifest {
    /// Adds a ClusterIP; the first decides the primary family.
    #[must_use]
    pub fn cluster_ip(mut self, address: &str) -> Self {
        let family = if address.contains(':') {
            "IPv6"
        } else {
            "IPv4"
        };
        self.spec
            .entry("clusterIP")
            .or_insert_with(|| json!(address));
        self.push("clusterIPs", json!(address));
        self.push("ipFamilies", json!(family));
        self
    }

    /// Adds an unnamed TCP port.
    #[must_use]
    pub fn tcp(self, port: u16) -> Self {
        self.port("", "TCP", port)
    }

    /// Adds an unnamed UDP port.
    #[must_use]
    pub fn udp(self, port: u16) -> Self {
        self.port("", "UDP", port)
    }

    /// Adds a port; `name` joins it with the port of that name in the slices.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        let mut entry = json!({ "protocol": protocol, "port": port });
        if !name.is_empty() {
            entry["name"] = json!(name);
        }
        self.ports.push(entry);
        self
    }

    /// Gives the last port a node port; the Service becomes of type NodePort unless it is a LoadBalancer.
    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        if let Some(last) = self.ports.last_mut() {
            last["nodePort"] = json!(port);
        }
        self.spec.entry("type").or_insert_with(|| json!("NodePort"));
        self
    }

    /// Adds a load balancer address (ipMode VIP); the Service becomes of type LoadBalancer.
    #[must_use]
    pub fn ingress(self, address: &str) -> Self {
        self.ingress_entry(json!({ "ip": address, "ipMode": "VIP" }))
    }

    /// Adds a load balancer address with ipMode Proxy, which no proxy programs.
    #[must_use]
    pub fn ingress_proxy(self, address: &str) -> Self {
        self.ingress_entry(json!({ "ip": address, "ipMode": "Proxy" }))
    }

    fn ingress_entry(mut self, entry: Value) -> Self {
        self.spec.insert("type".to_owned(), json!("LoadBalancer"));
        self.ingress.push(entry);
        self
    }

    /// Adds an externalIP.
    #[must_use]
    pub fn external_ip(mut self, address: &str) -> Self {
        self.push("externalIPs", json!(address));
        self
    }

    /// Adds a load balancer source range.
    #[must_use]
    pub fn source_range(mut self, range: &str) -> Self {
        self.push("loadBalancerSourceRanges", json!(range));
        self
    }

    /// `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn internal_local(mut self) -> Self {
        self.spec
            .insert("internalTrafficPolicy".to_owned(), json!("Local"));
        self
    }

    /// `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn external_local(mut self) -> Self {
        self.spec
            .insert("externalTrafficPolicy".to_owned(), json!("Local"));
        self
    }

    /// `sessionAffinity: ClientIP` with a timeout in seconds.
    #[must_use]
    pub fn affinity(mut self, timeout_s: u32) -> Self {
        self.spec
            .insert("sessionAffinity".to_owned(), json!("ClientIP"));
        let config = json!({ "clientIP": { "timeoutSeconds": timeout_s } });
        self.spec.insert("sessionAffinityConfig".to_owned(), config);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.metadata["labels"][key] = json!(value);
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.metadata["annotations"][key] = json!(value);
        self
    }

    fn push(&mut self, key: &str, value: Value) {
        let list = self.spec.entry(key).or_insert_with(|| json!([]));
        if let Value::Array(items) = list {
            items.push(value);
        }
    }
}

impl From<ServiceManifest> for Document {
    fn from(service: ServiceManifest) -> Self {
        let ServiceManifest {
            metadata,
            mut spec,
            ports,
            ingress,
        } = service;
        spec.insert("ports".to_owned(), Value::Array(ports));
        let mut object =
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec });
        if !ingress.is_empty() {
            object["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        }
        Self(vec![object])
    }
}

/// The EndpointSlices of a Service `namespace/name`, one for each family.
#[must_use]
pub fn slices(namespaced: &str) -> SliceManifest {
    SliceManifest {
        metadata: metadata(namespaced),
        ports: Vec::new(),
        endpoints: Vec::new(),
        suffix: String::new(),
    }
}

/// The EndpointSlices of a Service in the making.
#[derive(Debug, Clone)]
pub struct SliceManifest {
    metadata: Value,
    ports: Vec<Value>,
    endpoints: Vec<EndpointManifest>,
    suffix: String,
}

impl SliceManifest {
    /// Adds an unnamed TCP port.
    #[must_use]
    pub fn tcp(self, port: u16) -> Self {
        self.port("", "TCP", port)
    }

    /// Adds an unnamed UDP port.
    #[must_use]
    pub fn udp(self, port: u16) -> Self {
        self.port("", "UDP", port)
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        self.ports
            .push(json!({ "name": name, "protocol": protocol, "port": port }));
        self
    }

    /// Adds an endpoint: a pod, a node's host process, or one described by [`endpoint`].
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<EndpointManifest>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Adds several endpoints.
    #[must_use]
    pub fn endpoints<E: Into<EndpointManifest>>(
        mut self,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// Distinguishes the slices from others of the same Service.
    #[must_use]
    pub fn part(mut self, suffix: &str) -> Self {
        self.suffix = format!("-{suffix}");
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.metadata["labels"][key] = json!(value);
        self
    }

    fn of_family(&self, family: &str, index: usize) -> Value {
        let mut metadata = self.metadata.clone();
        let service = metadata["name"].as_str().unwrap_or_default().to_owned();
        metadata["name"] = json!(format!(
            "{service}-{}{}",
            family.to_lowercase(),
            self.suffix
        ));
        metadata["labels"]["kubernetes.io/service-name"] = json!(service);
        let endpoints: Vec<Value> = self
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.of_family(index))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": family, "ports": self.ports, "endpoints": endpoints,
        })
    }
}

impl From<SliceManifest> for Document {
    fn from(slices: SliceManifest) -> Self {
        Self(vec![
            slices.of_family("IPv4", 0),
            slices.of_family("IPv6", 1),
        ])
    }
}

/// An endpoint of a slice: ready unless a test says otherwise.
#[derive(Debug, Clone)]
pub struct EndpointManifest {
    addresses: [Option<IpAddr>; 2],
    object: Value,
}

/// An endpoint at both addresses of `place`, on node `node`.
#[must_use]
pub fn endpoint(place: &Place, node: &str) -> EndpointManifest {
    let object = json!({ "conditions": { "ready": true, "serving": true, "terminating": false }, "nodeName": node });
    EndpointManifest {
        addresses: place.addresses.map(Some),
        object,
    }
}

impl EndpointManifest {
    /// `ready: false`, `serving: false`.
    #[must_use]
    pub fn not_ready(mut self) -> Self {
        self.object["conditions"] =
            json!({ "ready": false, "serving": false, "terminating": false });
        self
    }

    /// On its way out; `serving` tells whether it still passes its readiness probe.
    #[must_use]
    pub fn terminating(mut self, serving: bool) -> Self {
        self.object["conditions"] =
            json!({ "ready": false, "serving": serving, "terminating": true });
        self
    }

    /// Adds a `forZones` hint.
    #[must_use]
    pub fn for_zone(self, zone: &str) -> Self {
        self.hint("forZones", zone)
    }

    /// Adds a `forNodes` hint.
    #[must_use]
    pub fn for_node(self, node: &str) -> Self {
        self.hint("forNodes", node)
    }

    /// Puts the endpoint at other addresses.
    #[must_use]
    pub fn at(mut self, v4: Option<IpAddr>, v6: Option<IpAddr>) -> Self {
        self.addresses = [v4, v6];
        self
    }

    fn hint(mut self, key: &str, name: &str) -> Self {
        let hints = &mut self.object["hints"][key];
        if let Value::Array(entries) = hints {
            entries.push(json!({ "name": name }));
        } else {
            *hints = json!([{ "name": name }]);
        }
        self
    }

    fn of_family(&self, index: usize) -> Option<Value> {
        let mut object = self.object.clone();
        object["addresses"] = json!([self.addresses[index]?]);
        Some(object)
    }
}

impl From<&Pod> for EndpointManifest {
    fn from(pod: &Pod) -> Self {
        endpoint(pod, &pod.node)
    }
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
