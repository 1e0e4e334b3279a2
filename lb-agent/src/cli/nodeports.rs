//! `--nodeport-addresses`: where NodePorts answer (rules 48 to 53).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    proxy::{ProxyConfig, items},
    settings::{SettingsError, bad},
};
use crate::config::NodePortAddresses;

/// Both families of a keyword.
fn pair(v4: Ipv4Addr, bits4: u8, v6: Ipv6Addr, bits6: u8) -> Vec<IpNet> {
    let v4 = IpNet::new(v4.into(), bits4);
    let v6 = IpNet::new(v6.into(), bits6);
    v4.into_iter().chain(v6).map(|cidr| cidr.trunc()).collect()
}

/// Rule 48.
pub(super) fn nodeport_addresses(proxy: &ProxyConfig) -> Result<NodePortAddresses, SettingsError> {
    const PATH: &str = "nodePortAddresses";
    let mut addresses = NodePortAddresses::default();
    for item in items(proxy.text(PATH)) {
        match item {
            "primary" => addresses.primary = true,
            "localhost" => {
                addresses
                    .cidrs
                    .extend(pair(Ipv4Addr::LOCALHOST, 8, Ipv6Addr::LOCALHOST, 128))
            }
            "all" => {
                addresses
                    .cidrs
                    .extend(pair(Ipv4Addr::UNSPECIFIED, 0, Ipv6Addr::UNSPECIFIED, 0))
            }
            cidr => addresses.cidrs.push(
                cidr.parse::<IpNet>()
                    .map_err(|_| {
                        let remedy = "neither a CIDR nor `primary`, `localhost` or `all`";
                        bad(proxy.name(PATH), item, remedy)
                    })?
                    .trunc(),
            ),
        }
    }
    if !addresses.primary && addresses.cidrs.is_empty() {
        addresses.primary = true;
    }
    Ok(addresses)
}

/// Rule 53, for both families: on by default; a list that is given must hold a loopback range, or
/// none of its family (rule 50).
pub(super) fn answers_on(listed: &str, addresses: &NodePortAddresses, loopback: IpAddr) -> bool {
    if items(listed).next().is_none() {
        return true;
    }
    let mut family = addresses
        .cidrs
        .iter()
        .filter(|cidr| cidr.addr().is_ipv4() == loopback.is_ipv4())
        .peekable();
    if family.peek().is_none() {
        return !addresses.primary;
    }
    family.any(|cidr| cidr.contains(&loopback))
}

/// Rule 50: a family without an entry matches every address of the host.
pub(super) fn one_family_only(addresses: &NodePortAddresses) -> Option<String> {
    let v4 = addresses
        .cidrs
        .iter()
        .filter(|c| c.addr().is_ipv4())
        .count();
    let other = match (addresses.primary, v4, addresses.cidrs.len() - v4) {
        (false, 0, _) => "IPv4",
        (false, _, 0) => "IPv6",
        _ => return None,
    };
    Some(format!(
        "--nodeport-addresses holds no {other} range: NodePorts answer on every {other} address of this host; add one, or `primary`"
    ))
}
