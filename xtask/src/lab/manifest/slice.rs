//! EndpointSlices.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Document, metadata};
use crate::lab::{Place, Pod};

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

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.metadata["annotations"][key] = json!(value);
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
