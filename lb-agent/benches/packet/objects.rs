//! What every proxy is told, by one API server: two nodes, and a Service with its only endpoint on each.

use std::net::IpAddr;

use serde_json::{Value, json};

/// Where the servers listen: requests, and on the second next port bulk.
pub const SERVER_PORT: u16 = 8080;
/// The nodes; the first one is measured.
pub const NODES: [&str; 2] = ["node-a", "node-b"];

/// Where a Service's only endpoint is, seen from the node that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    Remote,
    Local,
}

impl Backend {
    pub const ALL: [Self; 2] = [Self::Remote, Self::Local];

    pub fn name(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
        }
    }

    /// NodePort of requests, TCP and UDP; that of bulk is two more.
    pub fn node_port(self) -> u16 {
        match self {
            Self::Remote => 30080,
            Self::Local => 31080,
        }
    }

    fn node(self) -> &'static str {
        match self {
            Self::Remote => NODES[1],
            Self::Local => NODES[0],
        }
    }
}

/// A `List` of everything; `endpoint` is the address of a backend.
pub fn all(endpoint: impl Fn(Backend) -> IpAddr) -> Value {
    let mut items: Vec<Value> = NODES.map(node).to_vec();
    for backend in Backend::ALL {
        items.push(service(backend));
        items.push(slice(backend, endpoint(backend)));
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The status of a node with these addresses.
pub fn status(addresses: [IpAddr; 2]) -> Value {
    let address = |ip: IpAddr| json!({ "type": "InternalIP", "address": ip.to_string() });
    json!({ "status": { "addresses": addresses.map(address) } })
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
}

fn service(backend: Backend) -> Value {
    let port = |name: &str, protocol: &str, add: u16| {
        json!({ "name": name, "protocol": protocol, "port": 80 + add,
            "targetPort": SERVER_PORT + add, "nodePort": backend.node_port() + add })
    };
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": backend.name(), "namespace": "default" },
        "spec": { "type": "NodePort",
            "ports": [port("tcp", "TCP", 0), port("udp", "UDP", 0), port("bulk", "TCP", 2)] } })
}

fn slice(backend: Backend, endpoint: IpAddr) -> Value {
    let port = |name: &str, protocol: &str, add: u16| json!({ "name": name, "protocol": protocol, "port": SERVER_PORT + add });
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": backend.name(), "namespace": "default",
            "labels": { "kubernetes.io/service-name": backend.name() } },
        "endpoints": [{ "addresses": [endpoint.to_string()], "nodeName": backend.node(),
            "conditions": { "ready": true, "serving": true, "terminating": false } }],
        "ports": [port("tcp", "TCP", 0), port("udp", "UDP", 0), port("bulk", "TCP", 2)] })
}
