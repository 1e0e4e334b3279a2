//! Services.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1 as api;
use lb_common::service::Algorithm;

use super::{
    Converted, Faults, PORTS, address,
    address::{Use, ranges},
    annotation, is_foreign, object_key, port,
    service_ports::ports,
};
use crate::model::{Service, ServiceType};

/// How the backend of a connection is chosen: `random` (as without it, rule 33) or `round-robin`.
pub const ALGORITHM: &str = "service.lb-agent.io/algorithm";

/// What the API server writes where affinity has no timeout (rule 71). Seconds.
const DEFAULT_AFFINITY_TIMEOUT_S: u32 = 10_800;
/// The longest that the API accepts. Seconds.
const MAX_AFFINITY_TIMEOUT_S: i32 = 86_400;

const POLICY: (&str, &str) = ("is no traffic policy", "write Cluster or Local");

/// A Service as the load balancer sees it; not ours: rules 2, 4 and 5.
pub fn service(object: &api::Service) -> Converted<Service> {
    let spec = object.spec.as_ref();
    let Some(spec) = spec.filter(|spec| !is_foreign(&object.metadata) && is_served(spec)) else {
        return Converted::not_ours();
    };
    let mut faults = Faults::default();
    let service_type = service_type(spec, &mut faults);
    let external_ips = external_ips(spec, &mut faults);
    let external_local = local("externalTrafficPolicy", &spec.external_traffic_policy, &mut faults)
        // rule 24
        && (service_type != ServiceType::ClusterIp || !external_ips.is_empty());
    let service = Service {
        key: object_key(&object.metadata),
        created_s: created_s(object),
        service_type,
        cluster_ips: cluster_ips(spec, &mut faults),
        external_ips,
        load_balancer_ips: load_balancer_ips(object, &mut faults),
        source_ranges: ranges(
            "spec.loadBalancerSourceRanges",
            spec.load_balancer_source_ranges.as_ref(),
            &mut faults,
        ),
        internal_local: local(
            "internalTrafficPolicy",
            &spec.internal_traffic_policy,
            &mut faults,
        ),
        external_local,
        affinity_timeout_s: affinity(spec, &mut faults),
        algorithm: algorithm(object, &mut faults),
        health_check_node_port: health_check(spec, service_type, external_local, &mut faults),
        ports: ports(spec, service_type, &mut faults),
    };
    Converted::ours(service, faults)
}

/// Not headless, not without address, not a mere name (rules 4 and 5).
fn is_served(spec: &api::ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName")
        && !matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

fn created_s(object: &api::Service) -> i64 {
    let created = object.metadata.creation_timestamp.as_ref();
    created.map_or(0, |time| time.0.as_second())
}

fn service_type(spec: &api::ServiceSpec, faults: &mut Faults) -> ServiceType {
    match spec.type_.as_deref() {
        None | Some("ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some(other) => {
            let remedy = "write ClusterIP, NodePort or LoadBalancer; it is served as ClusterIP";
            faults.add("spec.type", other, ("is no type of a Service", remedy));
            ServiceType::ClusterIp
        }
    }
}

/// One address per family: that of `clusterIPs` at the family's place in `ipFamilies`, else
/// `clusterIP` alone (rule 6).
fn cluster_ips(spec: &api::ServiceSpec, faults: &mut Faults) -> Vec<IpAddr> {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    if families.is_empty() {
        let text = spec.cluster_ip.as_deref().unwrap_or_default();
        return Vec::from_iter(address::address("spec.clusterIP", text, Use::Vip, faults));
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for (index, family) in families.iter().enumerate() {
        let Some(ip) = cluster_ip(spec, index, family, faults) else {
            continue;
        };
        if found.iter().all(|other| other.is_ipv4() != ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found
}

fn cluster_ip(
    spec: &api::ServiceSpec,
    index: usize,
    family: &str,
    faults: &mut Faults,
) -> Option<IpAddr> {
    let Some(text) = cluster_ip_text(spec, index) else {
        let why = "has no address at its place in spec.clusterIPs";
        let remedy = "add one there, or remove the family";
        faults.add(
            format_args!("spec.ipFamilies[{index}]"),
            family,
            (why, remedy),
        );
        return None;
    };
    let field = format!("spec.clusterIPs[{index}]");
    let ip = address::address(&field, text, Use::Vip, faults)?;
    let expected = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    if family != expected {
        let remedy = "put addresses and spec.ipFamilies into the same order";
        faults.add(
            field,
            text,
            ("is not of the family named at its place", remedy),
        );
        return None;
    }
    Some(ip)
}

/// Objects from before dual stack have `clusterIP` alone.
fn cluster_ip_text(spec: &api::ServiceSpec, index: usize) -> Option<&str> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default().get(index);
    let first = spec.cluster_ip.as_ref().filter(|_| index == 0);
    listed.or(first).map(String::as_str)
}

fn external_ips(spec: &api::ServiceSpec, faults: &mut Faults) -> Vec<IpAddr> {
    let texts = spec.external_ips.as_deref().unwrap_or_default();
    let each = texts.iter().enumerate().filter_map(|(index, text)| {
        let field = format_args!("spec.externalIPs[{index}]");
        address::address(field, text, Use::OpenVip, faults)
    });
    distinct(each)
}

/// Rule 59: of VIP mode, with an address. What has a host name only is reached elsewhere.
fn load_balancer_ips(object: &api::Service, faults: &mut Faults) -> Vec<IpAddr> {
    let status = object
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = status
        .and_then(|s| s.ingress.as_deref())
        .unwrap_or_default();
    let mut found = Vec::new();
    for (index, entry) in ingress.iter().enumerate() {
        let Some(text) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) else {
            continue;
        };
        let place = format!("status.loadBalancer.ingress[{index}]");
        match entry.ip_mode.as_deref() {
            Some("Proxy") => continue,
            None | Some("VIP") => {}
            Some(mode) => {
                let why = ("is no mode of an address", "write VIP or Proxy");
                faults.add(format_args!("{place}.ipMode"), mode, why);
                continue;
            }
        }
        found.extend(address::address(
            format_args!("{place}.ip"),
            text,
            Use::OpenVip,
            faults,
        ));
    }
    distinct(found)
}

fn distinct(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = BTreeSet::new();
    ips.into_iter().filter(|ip| seen.insert(*ip)).collect()
}

fn local(field: &str, policy: &Option<String>, faults: &mut Faults) -> bool {
    match policy.as_deref() {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            faults.add(format_args!("spec.{field}"), other, POLICY);
            false
        }
    }
}

/// Rules 70 and 71.
fn affinity(spec: &api::ServiceSpec, faults: &mut Faults) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let why = ("is no session affinity", "write ClientIP or None");
            faults.add("spec.sessionAffinity", other, why);
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let Some(timeout) = config.and_then(|c| c.client_ip.as_ref()?.timeout_seconds) else {
        return Some(DEFAULT_AFFINITY_TIMEOUT_S);
    };
    let seconds = u32::try_from(timeout).ok();
    let seconds = seconds.filter(|_| (1..=MAX_AFFINITY_TIMEOUT_S).contains(&timeout));
    if seconds.is_none() {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let remedy = "write a number from 1 to 86400; it counts as 10800";
        faults.add(field, timeout, ("is not a timeout", remedy));
    }
    seconds.or(Some(DEFAULT_AFFINITY_TIMEOUT_S))
}

fn algorithm(object: &api::Service, faults: &mut Faults) -> Algorithm {
    match annotation(&object.metadata, ALGORITHM) {
        None | Some("random") => Algorithm::RANDOM,
        Some("round-robin") => Algorithm::ROUND_ROBIN,
        Some(other) => {
            let field = format_args!("metadata.annotations[{ALGORITHM}]");
            let remedy = "write random or round-robin; it counts as random";
            faults.add(field, other, ("is no algorithm", remedy));
            Algorithm::RANDOM
        }
    }
}

fn health_check(
    spec: &api::ServiceSpec,
    service_type: ServiceType,
    external_local: bool,
    faults: &mut Faults,
) -> u16 {
    let wanted = service_type == ServiceType::LoadBalancer && external_local;
    let number = spec.health_check_node_port.filter(|n| wanted && *n != 0);
    let Some(number) = number else {
        return 0;
    };
    port(number).unwrap_or_else(|| {
        faults.add("spec.healthCheckNodePort", number, PORTS);
        0
    })
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
