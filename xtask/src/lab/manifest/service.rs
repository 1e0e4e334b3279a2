//! Services.

use serde_json::{Map, Value, json};

use super::{Document, metadata};

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

    /// `externalTrafficPolicy: Cluster`, in place of an earlier word.
    #[must_use]
    pub fn external_cluster(mut self) -> Self {
        self.spec
            .insert("externalTrafficPolicy".to_owned(), json!("Cluster"));
        self
    }

    /// `healthCheckNodePort`, in place of an earlier one.
    #[must_use]
    pub fn health_check(mut self, port: u16) -> Self {
        self.spec
            .insert("healthCheckNodePort".to_owned(), json!(port));
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
