//! A Service as the load balancer sees it.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use lb_common::{net::Proto, service::Algorithm};

/// Namespace and name of an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ObjectKey {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `spec.type`; ExternalName never gets this far (rule 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[expect(missing_docs, reason = "the API's names")]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// A Service that is ours to serve: not headless, not ExternalName, without the labels of rule 2.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.creationTimestamp`, seconds since 1970; 0 where unknown. The older of two Services
    /// that claim one address keeps it (rule 20).
    pub created_s: i64,
    /// `spec.type`
    pub service_type: ServiceType,
    /// At most one per family (rule 6).
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`, both families.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP or none (rule 59).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, those that parse (rule 7).
    pub source_ranges: Vec<IpNet>,
    /// `internalTrafficPolicy: Local`
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`
    pub external_local: bool,
    /// `sessionAffinity: ClientIP` and its timeout in seconds.
    pub affinity_timeout_s: Option<u32>,
    /// Annotation `service.lb-agent.io/algorithm`.
    pub algorithm: Algorithm,
    /// `spec.healthCheckNodePort`; 0: none.
    pub health_check_node_port: u16,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
}

/// One entry of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServicePort {
    /// Its name, empty where there is none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub proto: Proto,
    /// Host order.
    pub port: u16,
    /// Host order; 0: none (rule 56).
    pub node_port: u16,
}
