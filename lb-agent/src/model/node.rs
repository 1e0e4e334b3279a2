//! Nodes and service ranges as plain data.

use std::net::IpAddr;

use ipnet::IpNet;

/// A Node object; only our own is watched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// `metadata.name`
    pub name: String,
    /// Label `topology.kubernetes.io/zone`, if not empty (rule 26).
    pub zone: Option<String>,
    /// `status.addresses`, internal ones first, then external ones (rule 134).
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`
    pub pod_cidrs: Vec<IpNet>,
    /// It is being deleted, or about to be: load balancers should send nothing new (rule 117).
    pub is_leaving: bool,
}

impl Node {
    /// The same in all that Services depend on?
    pub fn is_same_place(&self, other: &Self) -> bool {
        let leaving = Self {
            is_leaving: other.is_leaving,
            ..self.clone()
        };
        leaving == *other
    }
}

/// A ServiceCIDR object (networking.k8s.io/v1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceCidr {
    /// `metadata.name`
    pub name: String,
    /// `spec.cidrs`
    pub cidrs: Vec<IpNet>,
}
