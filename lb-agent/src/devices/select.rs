//! Which devices packets are translated on, and as what.
//!
//! Out of facts and configuration alone. A node has one device for each way in and out, and many for its
//! pods: programs run on the former only, so that pods among themselves pay nothing.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::device::DeviceVal;

use super::{
    glob,
    link::{Layer, Link},
};
use crate::config::{DetectLocal, Packets};

/// Our own veth pair: see [`super::lb0`].
pub const LB0: &str = "lb0";
/// Its other end.
pub const LB0_PEER: &str = "lb0-peer";

/// Devices that no packet arrives at: what they carry addresses for is met elsewhere. kube-ipvs0, a dummy, has
/// every ClusterIP.
const NEVER: [&str; 4] = ["dummy", "ifb", "nlmon", "vrf"];
/// Masters whose ports' packets are met at the master again. A VRF's are not.
const UPPER: [&str; 6] = ["bridge", "bond", "team", "openvswitch", "hsr", "batadv"];

/// What a device is to us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Which programs run there; `None`: none, it is only known by its entry.
    pub programs: Option<Layer>,
    /// Its entry in `LB_DEVICES`.
    pub val: DeviceVal,
}

/// A role for every device that has one, by index.
pub type Roles = BTreeMap<u32, Role>;

/// The roles of all devices.
pub fn select<'a>(
    links: impl IntoIterator<Item = &'a Link>,
    packets: &Packets,
    detector: &DetectLocal,
) -> Roles {
    let links: BTreeMap<u32, &Link> = links.into_iter().map(|link| (link.index, link)).collect();
    let fallback = fallback(links.values().copied());
    links
        .values()
        .filter_map(|link| {
            let flags = flags(link, &links, packets, detector);
            let is_met = flags & (DeviceVal::UPLINK | DeviceVal::POD_DEVICE) != 0;
            let role = Role {
                name: link.name.clone(),
                programs: is_met.then_some(link.layer),
                val: val(link, flags, fallback),
            };
            (flags != 0).then_some((link.index, role))
        })
        .collect()
}

fn flags(
    link: &Link,
    links: &BTreeMap<u32, &Link>,
    packets: &Packets,
    detector: &DetectLocal,
) -> u32 {
    if [LB0, LB0_PEER].contains(&link.name.as_str()) {
        return 0;
    }
    let is_pod_side = match detector {
        DetectLocal::BridgeInterface(name) => link.name == *name,
        DetectLocal::InterfaceNamePrefix(prefix) => link.name.starts_with(prefix.as_str()),
        DetectLocal::ClusterCidr | DetectLocal::NodeCidr => false,
    };
    let may_run = link.layer != Layer::Other && !is_port(link, links);
    let is_pod_device = may_run && is_named(&packets.pod_devices, &link.name);
    let is_uplink = may_run && !is_pod_device && is_uplink(link, packets);
    [
        (is_uplink, DeviceVal::UPLINK),
        (is_pod_side, DeviceVal::POD_SIDE),
        (is_pod_device, DeviceVal::POD_DEVICE),
    ]
    .into_iter()
    .filter(|(is_so, _)| *is_so)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// Is it a port of what its packets are met at again?
fn is_port(link: &Link, links: &BTreeMap<u32, &Link>) -> bool {
    let master = link.master.map(|index| links.get(&index));
    // A master that is not known yet is taken for one of the usual kind.
    master.is_some_and(|master| master.is_none_or(|m| UPPER.contains(&m.kind.as_str())))
}

fn is_named(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern, name))
}

fn is_uplink(link: &Link, packets: &Packets) -> bool {
    if link.is_loopback {
        // `*` means the devices, and what the node sends to itself is not meant by that.
        return packets.devices.contains(&link.name);
    }
    if !packets.devices.is_empty() {
        return is_named(&packets.devices, &link.name);
    }
    if NEVER.contains(&link.kind.as_str()) {
        return false;
    }
    let mut addrs = link.addrs.iter().filter(|addr| addr.is_reachable());
    let has_address = if link.leads_elsewhere {
        // Some plugins give every pod's cable the gateway's address, alone: that makes no uplink.
        addrs.any(|addr| addr.has_network())
    } else {
        addrs.next().is_some()
    };
    has_address || link.has_route_out
}

fn val(link: &Link, flags: u32, fallback: [Option<IpAddr>; 2]) -> DeviceVal {
    let own = primary(link);
    let [v4, v6] = [0, 1].map(|family: usize| {
        let of = |addrs: [Option<IpAddr>; 2]| addrs.get(family).copied().flatten();
        // As the kernel does for a device without an address (inet_select_addr).
        of(own).or_else(|| of(fallback))
    });
    let mut val = DeviceVal {
        flags,
        ..DeviceVal::default()
    };
    if let Some(IpAddr::V4(ip)) = v4 {
        val.masq4 = ip.into();
    }
    if let Some(IpAddr::V6(ip)) = v6 {
        val.masq6 = ip.into();
    }
    val
}

/// The address of each family that a device sends from by default.
fn primary(link: &Link) -> [Option<IpAddr>; 2] {
    [true, false].map(|is_v4| {
        let mut of_family = link
            .addrs
            .iter()
            .filter(|addr| addr.ip.is_ipv4() == is_v4 && addr.is_reachable());
        let first = of_family.clone().find(|addr| !addr.is_secondary);
        first.or_else(|| of_family.next()).map(|addr| addr.ip)
    })
}

/// What devices without an address of their own send from: that of the device which the default route leads
/// through, else that of the first.
fn fallback<'a>(links: impl Iterator<Item = &'a Link> + Clone) -> [Option<IpAddr>; 2] {
    let of = |is_wanted: fn(&Link) -> bool, family: usize| {
        let mut wanted = links
            .clone()
            .filter(|link| is_wanted(link) && !NEVER.contains(&link.kind.as_str()));
        wanted.find_map(|link| primary(link).get(family).copied().flatten())
    };
    [0, 1].map(|family| {
        of(|link| link.has_default_route, family).or_else(|| of(|link| !link.is_loopback, family))
    })
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
