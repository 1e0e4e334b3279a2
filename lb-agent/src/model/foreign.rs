//! A Service that is another proxy's to serve (rule 2): all that is kept of it is where not to refuse.

use std::net::IpAddr;

use super::ObjectKey;

/// The label that gives a Service away; the first of them counts where it carries both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Label {
    /// `service.kubernetes.io/service-proxy-name`
    #[default]
    ProxyName,
    /// `service.kubernetes.io/headless`
    Headless,
}

/// A Service of another proxy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Foreign {
    /// Namespace and name.
    pub key: ObjectKey,
    /// What says so.
    pub label: Label,
    /// Every ClusterIP that parses; at least one.
    pub cluster_ips: Vec<IpAddr>,
}
