//! The objects of the tests, in the JSON that anybody would write in YAML.
//!
//! A builder is a thin shell around the value, so that a test can also `set` what no method names.

use serde_json::{Value, json};

/// An object under construction.
#[derive(Clone, Debug)]
pub(crate) struct Object(pub(crate) Value);

impl Object {
    /// Sets one field, by JSON pointer; maps on the way are made.
    pub(crate) fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.0;
        for key in pointer.split('/').skip(1) {
            place = match key.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[key],
            };
        }
        *place = value.into();
        self
    }

    /// Adds a label.
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }
}

/// A ClusterIP Service `namespace/name` with the port `http`, 80/TCP, in both families. The API server picks its
/// addresses.
pub(crate) fn service(namespace: &str, name: &str) -> Object {
    Object(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        },
    }))
}

/// An EndpointSlice of Service `namespace/of` with the port `http` at [`super::node::BACKEND_PORT`]. The family is that
/// of the first endpoint.
pub(crate) fn slice(namespace: &str, name: &str, of: &str, endpoints: &[Endpoint]) -> Object {
    let is_v6 = endpoints
        .first()
        .is_some_and(|endpoint| endpoint.address.contains(':'));
    Object(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": { "kubernetes.io/service-name": of },
        },
        "addressType": if is_v6 { "IPv6" } else { "IPv4" },
        "ports": [{ "name": "http", "port": super::node::BACKEND_PORT, "protocol": "TCP" }],
        "endpoints": endpoints.iter().map(Endpoint::json).collect::<Vec<_>>(),
    }))
}

/// A core/v1 Endpoints of Service `namespace/name`, all ready, with the port `http`.
pub(crate) fn endpoints(namespace: &str, name: &str, ready: &[&str]) -> Object {
    let addresses: Vec<Value> = ready
        .iter()
        .map(|address| json!({ "ip": address }))
        .collect();
    Object(json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "namespace": namespace, "name": name },
        "subsets": [{
            "addresses": addresses,
            "ports": [{ "name": "http", "port": super::node::BACKEND_PORT, "protocol": "TCP" }],
        }],
    }))
}

/// A Namespace.
pub(crate) fn namespace(name: &str) -> Object {
    Object(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
}

/// A Node in a zone; its addresses are its status, see [`node_addresses`].
pub(crate) fn node(name: &str, zone: &str) -> Object {
    Object(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
    }))
}

/// The status that gives a Node its addresses.
pub(crate) fn node_addresses(name: &str, addresses: &[&str]) -> Object {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }))
        .collect();
    Object(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name },
        "status": { "addresses": addresses },
    }))
}

/// A ServiceCIDR of one range.
pub(crate) fn service_cidr(name: &str, range: &str) -> Object {
    Object(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": { "name": name },
        "spec": { "cidrs": [range] },
    }))
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    address: String,
    conditions: Value,
    hints: Value,
    node: Option<String>,
}

/// A ready endpoint without node or hints.
pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.to_owned(),
        conditions: json!({ "ready": true, "serving": true, "terminating": false }),
        hints: Value::Null,
        node: None,
    }
}

impl Endpoint {
    /// Not ready, and serving only if told so.
    pub(crate) fn not_ready(mut self) -> Self {
        self.conditions = json!({ "ready": false, "serving": false, "terminating": false });
        self
    }

    /// Terminating while it still serves.
    pub(crate) fn draining(mut self) -> Self {
        self.conditions = json!({ "ready": false, "serving": true, "terminating": true });
        self
    }

    /// On this node.
    pub(crate) fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Preferred by the nodes of a zone.
    pub(crate) fn for_zone(mut self, zone: &str) -> Self {
        self.hints["forZones"] = json!([{ "name": zone }]);
        self
    }

    /// Preferred by a node.
    pub(crate) fn for_node(mut self, node: &str) -> Self {
        self.hints["forNodes"] = json!([{ "name": node }]);
        self
    }

    fn json(&self) -> Value {
        let mut value = json!({ "addresses": [self.address], "conditions": self.conditions });
        if let Some(node) = &self.node {
            value["nodeName"] = node.as_str().into();
        }
        if !self.hints.is_null() {
            value["hints"] = self.hints.clone();
        }
        value
    }
}
