//! What is known of a device: facts, without a judgement.

use std::net::IpAddr;

/// How packets on a device begin, as far as our programs can tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layer {
    /// With an Ethernet header; loopback has one, too.
    Ethernet,
    /// With the network header: tun, ipip, WireGuard.
    Network,
    /// With something else: InfiniBand, radio.
    Other,
}

/// An address of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkAddr {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Not the first choice of a source: secondary, temporary, deprecated, or of a narrower scope.
    pub is_secondary: bool,
}

impl LinkAddr {
    /// Can others reach it?
    pub fn is_reachable(&self) -> bool {
        let is_link_local = match self.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        !self.ip.is_loopback() && !is_link_local && !self.ip.is_multicast()
    }

    /// Has it a network around it, or does it stand alone?
    pub fn has_network(&self) -> bool {
        self.prefix < if self.ip.is_ipv4() { 32 } else { 128 }
    }
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The driver's word: `veth`, `bridge`, `vlan`; empty for hardware.
    pub kind: String,
    /// How packets begin.
    pub layer: Layer,
    /// The bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// It is a loopback.
    pub is_loopback: bool,
    /// Its other end is in another network namespace.
    pub leads_elsewhere: bool,
    /// What somebody wrote beside it (`ip link set alias`).
    pub alias: String,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// Its addresses, in the kernel's order.
    pub addrs: Vec<LinkAddr>,
    /// Routes of more than one host lead through it: one at least.
    pub has_route_out: bool,
    /// A default route does, of either family.
    pub has_default_route: bool,
}
