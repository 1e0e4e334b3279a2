//! Whether what was given can be used on this host (rule 140): a host may be without IPv6.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, DetectLocal};

/// A warning, if there is one.
///
/// # Errors
/// Nothing of it can be used here.
pub fn check(config: &Config, has_ipv6: bool) -> Result<Option<String>, String> {
    if let Some(address @ IpAddr::V6(_)) = config.bind_address
        && !has_ipv6
    {
        return Err(format!(
            "--bind-address {address}: this host has no IPv6; give an IPv4 address, or let the host have IPv6"
        ));
    }
    let cidrs = &config.cluster_cidrs;
    if config.detect_local != DetectLocal::ClusterCidr || cidrs.is_empty() {
        return Ok(None);
    }
    let is_v4 = |cidr: &IpNet| cidr.addr().is_ipv4();
    let (has_v4, has_v6) = (cidrs.iter().any(is_v4), !cidrs.iter().all(is_v4));
    let listed = || {
        cidrs
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    if !has_v4 && !has_ipv6 {
        return Err(format!(
            "--cluster-cidr {}: this host has no IPv6; give an IPv4 range, or let the host have IPv6",
            listed()
        ));
    }
    let missing = match (has_v4, has_v6 || !has_ipv6) {
        (true, true) => return Ok(None),
        (false, _) => "IPv4",
        (true, false) => "IPv6",
    };
    Ok(Some(format!(
        "--cluster-cidr {} holds no {missing} range: {missing} pods count as clients from outside where externalTrafficPolicy is Local",
        listed()
    )))
}
