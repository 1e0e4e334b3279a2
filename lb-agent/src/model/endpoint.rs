//! EndpointSlices as plain data; core/v1 Endpoints take the same form.

use std::net::IpAddr;

use jiff::Timestamp;
use lb_common::net::Proto;

use super::ObjectKey;

/// One EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Its own namespace and name.
    pub key: ObjectKey,
    /// Name of its Service, in the same namespace: label `kubernetes.io/service-name` (rule 9).
    pub service: String,
    /// Ports with a number (rule 13).
    pub ports: Vec<SlicePort>,
    /// Endpoints with an address (rule 12).
    pub endpoints: Vec<Endpoint>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time` (rule 128).
    pub triggered: Option<Timestamp>,
}

impl Slice {
    /// The Service it belongs to.
    pub fn service_key(&self) -> ObjectKey {
        ObjectKey::new(self.key.namespace.clone(), self.service.clone())
    }
}

/// One entry of a slice's `ports`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SlicePort {
    /// Joined with the Service port's name (rule 14).
    pub name: String,
    /// Joined with the Service port's protocol.
    pub proto: Proto,
    /// Host order, never 0.
    pub port: u16,
}

/// One endpoint, conditions with their defaults filled in (rule 18).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    /// `addresses[0]`
    pub addr: IpAddr,
    /// Condition `ready`.
    pub ready: bool,
    /// Condition `serving`.
    pub serving: bool,
    /// Condition `terminating`.
    pub terminating: bool,
    /// `nodeName`
    pub node: Option<String>,
    /// `hints.forZones`
    pub zones: Vec<String>,
    /// `hints.forNodes`
    pub nodes: Vec<String>,
}
