//! What the healthCheckNodePort of a Service says on this node (rules 103 and 109): how many endpoints a load
//! balancer reaches here without another hop.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::Facts;
use crate::model::{ObjectKey, Service, ServiceType, Slice};

/// A Service whose load balancer asks each node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// Which Service.
    pub service: ObjectKey,
    /// Host order, never 0.
    pub port: u16,
    /// Age of the Service: of two that want one port the older has it.
    pub created_s: i64,
    /// `None`: the Service has no address of the family.
    local4: Option<usize>,
    local6: Option<usize>,
}

impl HealthCheck {
    /// `None`: there is nothing to be asked.
    pub fn of(service: &Service, slices: &[&Slice], facts: &Facts) -> Option<Self> {
        let is_asked = service.service_type == ServiceType::LoadBalancer
            && service.external_local
            && service.health_check_node_port != 0;
        let local = |is_ours: fn(&IpAddr) -> bool| {
            let is_served = service.cluster_ips.iter().any(is_ours);
            is_served.then(|| local_ready(slices, &facts.node, is_ours))
        };
        is_asked.then(|| Self {
            service: service.key.clone(),
            port: service.health_check_node_port,
            created_s: service.created_s,
            local4: local(IpAddr::is_ipv4),
            local6: local(IpAddr::is_ipv6),
        })
    }

    /// The count for who asks an address of one family: that family's where the Service has it, else the
    /// other's. A Service of one family is asked in the family of the node's load balancer, which may be
    /// the other.
    pub fn local_endpoints(&self, asked: IpAddr) -> usize {
        let (own, other) = match asked {
            IpAddr::V4(_) => (self.local4, self.local6),
            IpAddr::V6(_) => (self.local6, self.local4),
        };
        own.or(other).unwrap_or(0)
    }
}

/// What is to be answered, and where.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HealthChecks {
    /// By port.
    pub checks: BTreeMap<u16, HealthCheck>,
    /// Services whose port another one has: the port, and the other.
    pub taken: BTreeMap<ObjectKey, (u16, ObjectKey)>,
    addrs: BTreeSet<IpAddr>,
}

impl HealthChecks {
    /// Of two Services that want one port the older has it, as with addresses (rule 20).
    pub fn new<'a>(
        addrs: BTreeSet<IpAddr>,
        checks: impl IntoIterator<Item = &'a HealthCheck>,
    ) -> Self {
        let mut by_age: Vec<_> = checks.into_iter().collect();
        by_age.sort_by_key(|check| (check.created_s, &check.service));
        let mut all = Self {
            addrs,
            ..Self::default()
        };
        for check in by_age {
            if let Some(first) = all.checks.get(&check.port) {
                let taken = (check.port, first.service.clone());
                all.taken.insert(check.service.clone(), taken);
            } else {
                all.checks.insert(check.port, check.clone());
            }
        }
        all
    }

    /// Where to listen.
    pub fn places(&self) -> BTreeSet<SocketAddr> {
        let of_port = |port: &u16| {
            let port = *port;
            let addrs = self.addrs.iter();
            addrs.map(move |addr| SocketAddr::new(*addr, port))
        };
        self.checks.keys().flat_map(of_port).collect()
    }
}

/// Distinct addresses, whatever their ports; terminating ones are not ready (rule 109).
fn local_ready(slices: &[&Slice], node: &str, is_ours: fn(&IpAddr) -> bool) -> usize {
    let with_ports = slices.iter().filter(|slice| !slice.ports.is_empty());
    let endpoints = with_ports.flat_map(|slice| &slice.endpoints);
    let here = endpoints.filter(|e| e.ready && e.node.as_deref() == Some(node));
    let addrs: BTreeSet<IpAddr> = here.map(|e| e.addr).filter(is_ours).collect();
    addrs.len()
}
