//! What plans depend on beside Services and slices: this node, as one value that can be compared.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::Family;
use crate::{
    config::{Config, DetectLocal, NodePortAddresses},
    model::Node,
};

/// This node. When it changes, every Service is compiled anew.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Its name (rule 132).
    pub node: String,
    /// Its zone (rule 26).
    pub zone: Option<String>,
    /// Addresses of the host's interfaces, loopback excluded.
    pub host_addrs: BTreeSet<IpAddr>,
    /// Networks of pods, this node's and the cluster's, both families.
    pub pod_nets: BTreeSet<IpNet>,
    v4: FamilyFacts,
    v6: FamilyFacts,
}

/// This node in one family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FamilyFacts {
    /// The primary address (rule 134): the first that the Node object has, else the lowest of the
    /// host's that is not link-local. `None`: neither is known, and loopback stands in where an
    /// address must be shown.
    pub primary: Option<IpAddr>,
    /// What host sockets may have as source: the Node's and the host's addresses, without
    /// link-local ones, for no service is dialled from those.
    pub own_addrs: BTreeSet<IpAddr>,
    /// Can pods be told from others (rules 39a and 42)?
    pub has_detector: bool,
    /// What the detector takes for pods' addresses; empty where it looks at interfaces.
    pub detector_ranges: Vec<IpNet>,
    /// Where this node's pods have their addresses: the cluster's networks, or the Node's podCIDRs
    /// where `--detect-local-mode NodeCIDR` vouches for them or nothing else is known; empty: not known.
    pub pod_ranges: Vec<IpNet>,
    /// Addresses that NodePorts answer on, loopback never among them (rules 48 to 52).
    pub node_port_addrs: BTreeSet<IpAddr>,
    /// Addresses that healthCheckNodePorts answer on: the unspecified one where every address counts
    /// (rule 104).
    pub health_check_addrs: BTreeSet<IpAddr>,
}

impl Facts {
    /// From the configuration and what is known by now.
    pub fn new(config: &Config, node: Option<&Node>, host_addrs: &BTreeSet<IpAddr>) -> Self {
        let host_addrs: BTreeSet<IpAddr> = (host_addrs.iter().copied())
            .filter(|ip| !ip.is_loopback())
            .collect();
        let pod_cidrs = node.map(|node| node.pod_cidrs.as_slice()).unwrap_or(&[]);
        let family = |is_ours: fn(&IpAddr) -> bool| {
            FamilyFacts::new(config, node, pod_cidrs, &host_addrs, is_ours)
        };
        Self {
            node: config.node_name.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            pod_nets: (config.cluster_cidrs.iter().chain(pod_cidrs))
                .map(IpNet::trunc)
                .collect(),
            v4: family(IpAddr::is_ipv4),
            v6: family(IpAddr::is_ipv6),
            host_addrs,
        }
    }

    /// Where healthCheckNodePorts answer, both families.
    pub fn health_check_addrs(&self) -> BTreeSet<IpAddr> {
        let of = |family: &FamilyFacts| family.health_check_addrs.clone();
        of(&self.v4).into_iter().chain(of(&self.v6)).collect()
    }

    /// The part of one family.
    pub fn family<A: Family>(&self) -> &FamilyFacts {
        if A::FAMILY == 4 { &self.v4 } else { &self.v6 }
    }

    /// Is the address this host's, so that a socket bound to loopback reaches it?
    pub fn is_host_addr(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.host_addrs.contains(&ip)
    }
}

impl FamilyFacts {
    fn new(
        config: &Config,
        node: Option<&Node>,
        pod_cidrs: &[IpNet],
        host_addrs: &BTreeSet<IpAddr>,
        is_ours: fn(&IpAddr) -> bool,
    ) -> Self {
        let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
            (nets.iter().filter(|net| is_ours(&net.addr())))
                .map(IpNet::trunc)
                .collect()
        };
        let told: Vec<IpAddr> = (node.iter().flat_map(|node| &node.addresses))
            .filter(|ip| is_ours(ip) && !ip.is_loopback())
            .copied()
            .collect();
        let host: BTreeSet<IpAddr> = host_addrs.iter().copied().filter(is_ours).collect();
        let primary = (config.bind_address.filter(is_ours))
            .or_else(|| told.first().copied())
            .or_else(|| host.iter().copied().find(|ip| !is_link_local(ip)))
            .or_else(|| host.first().copied());
        let (cluster, pods) = (of_family(&config.cluster_cidrs), of_family(pod_cidrs));
        let (by_interface, detector_ranges) = match &config.detect_local {
            DetectLocal::ClusterCidr => (false, cluster.clone()),
            DetectLocal::NodeCidr => (false, pods.clone()),
            DetectLocal::BridgeInterface(_) | DetectLocal::InterfaceNamePrefix(_) => {
                (true, Vec::new())
            }
        };
        let node_port_addrs =
            node_port_addrs(&config.nodeport_addresses, primary, host.clone(), is_ours);
        Self {
            primary,
            health_check_addrs: health_check_addrs(
                &config.nodeport_addresses,
                &node_port_addrs,
                &host,
                is_ours,
            ),
            node_port_addrs,
            own_addrs: (told.into_iter().chain(host.iter().copied()))
                .filter(|ip| !is_link_local(ip))
                .collect(),
            has_detector: by_interface || !detector_ranges.is_empty(),
            detector_ranges,
            pod_ranges: pod_ranges(config, cluster, pods),
        }
    }

    /// The primary address, loopback where none is known (rule 134).
    pub fn primary_or_loopback<A: Family>(&self) -> IpAddr {
        self.primary.unwrap_or_else(|| A::LOCALHOST.ip())
    }
}

/// Many network plugins allocate elsewhere than in the podCIDRs that the controller manager gives a
/// Node. A source range that covers those would let the wrong pods in.
fn pod_ranges(config: &Config, cluster: Vec<IpNet>, pods: Vec<IpNet>) -> Vec<IpNet> {
    let is_vouched_for = config.detect_local == DetectLocal::NodeCidr;
    if !pods.is_empty() && (is_vouched_for || cluster.is_empty()) {
        return pods;
    }
    cluster
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Rules 48 to 52. An empty list is `primary` (rule 49, nftables mode); a list without an entry for
/// the family matches every address of it (rule 50).
fn node_port_addrs(
    wanted: &NodePortAddresses,
    primary: Option<IpAddr>,
    host: BTreeSet<IpAddr>,
    is_ours: fn(&IpAddr) -> bool,
) -> BTreeSet<IpAddr> {
    if is_every_address(wanted, is_ours) {
        return host;
    }
    let cidrs = cidrs(wanted, is_ours);
    let takes_primary = takes_primary(wanted);
    let mut addrs: BTreeSet<IpAddr> = (host.into_iter())
        .filter(|ip| cidrs.iter().any(|net| net.contains(ip)))
        .collect();
    if takes_primary {
        addrs.extend(primary);
    }
    addrs
}

fn cidrs(wanted: &NodePortAddresses, is_ours: fn(&IpAddr) -> bool) -> Vec<&IpNet> {
    let all = wanted.cidrs.iter();
    all.filter(|net| is_ours(&net.addr())).collect()
}

fn takes_primary(wanted: &NodePortAddresses) -> bool {
    wanted.primary || wanted.cidrs.is_empty()
}

fn is_every_address(wanted: &NodePortAddresses, is_ours: fn(&IpAddr) -> bool) -> bool {
    let cidrs = cidrs(wanted, is_ours);
    let has_zero = cidrs.iter().any(|net| net.prefix_len() == 0);
    has_zero || (cidrs.is_empty() && !takes_primary(wanted))
}

/// Rule 104. A family that the node does not have is not listened in. Loopback counts where a range holds it.
fn health_check_addrs(
    wanted: &NodePortAddresses,
    node_port_addrs: &BTreeSet<IpAddr>,
    host: &BTreeSet<IpAddr>,
    is_ours: fn(&IpAddr) -> bool,
) -> BTreeSet<IpAddr> {
    let of_family = |v4: Ipv4Addr, v6: Ipv6Addr| {
        let both = [IpAddr::V4(v4), IpAddr::V6(v6)];
        both.into_iter().filter(is_ours)
    };
    if is_every_address(wanted, is_ours) {
        let any = of_family(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        return any.filter(|_| !host.is_empty()).collect();
    }
    let loopback = of_family(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
        .filter(|ip| wanted.cidrs.iter().any(|net| net.contains(ip)));
    node_port_addrs.iter().copied().chain(loopback).collect()
}
