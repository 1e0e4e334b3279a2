//! Links with their addresses and routes, as messages of the kernel tell them.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "messages, attributes and link types are open sets: those not named say nothing here"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use super::link::{Layer, Link, LinkAddr};

/// A route that leads out: by destination, prefix, table and metric, one entry per device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct RouteOut {
    device: u32,
    is_default: bool,
    is_v4: bool,
    destination: Option<IpAddr>,
    prefix: u8,
    table: u32,
    metric: u32,
}

/// The devices of a network namespace.
#[derive(Debug, Default)]
pub struct Table {
    links: BTreeMap<u32, Link>,
    routes: BTreeSet<RouteOut>,
    /// Routes may have gone without a word.
    are_routes_doubtful: bool,
}

impl Table {
    /// Every device, with what is known of it.
    pub fn links(&self) -> impl Iterator<Item = Link> {
        self.links.values().map(|link| {
            let mut routes = (self.routes.iter()).filter(|route| route.device == link.index);
            Link {
                has_default_route: routes.clone().any(|route| route.is_default),
                has_route_out: routes.next().is_some(),
                ..link.clone()
            }
        })
    }

    /// Takes a message; true if it may change what is asked here.
    pub fn apply(&mut self, message: Message) -> bool {
        match message {
            Message::NewLink(message) => self.put_link(&message),
            Message::DelLink(message) => self.remove_link(&message),
            Message::NewAddress(message) => self.put_addr(&message),
            Message::DelAddress(message) => self.remove_addr(&message),
            Message::NewRoute(message) => {
                let before = self.routes.len();
                self.routes.extend(routes_out(&message));
                self.routes.len() != before
            }
            Message::DelRoute(message) => {
                let before = self.routes.len();
                for route in routes_out(&message) {
                    self.routes.remove(&route);
                }
                self.routes.len() != before
            }
            // Somebody took filters away: whether ours, the kernel is asked then.
            Message::DelQueueDiscipline(_) | Message::DelTrafficFilter(_) => true,
            _ => false,
        }
    }

    /// The kernel flushes IPv4 routes of a device that went down, and those from an address that was removed,
    /// without a word (`fib_flush`): are there such, that the list must be read anew?
    pub fn are_routes_doubtful(&self) -> bool {
        self.are_routes_doubtful
    }

    /// Forgets all routes, before they are read anew.
    pub fn forget_routes(&mut self) {
        self.routes.clear();
        self.are_routes_doubtful = false;
    }

    fn put_link(&mut self, message: &LinkMessage) -> bool {
        // Bridges tell about their ports in messages of their own family, which say less.
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let index = message.header.index;
        let mut link = link(message);
        if !message.header.flags.contains(LinkFlags::Up) {
            self.are_routes_doubtful |= self.routes.iter().any(|route| route.device == index);
        }
        if let Some(known) = self.links.get(&index) {
            link.addrs.clone_from(&known.addrs);
        }
        self.links.insert(index, link.clone()) != Some(link)
    }

    fn remove_link(&mut self, message: &LinkMessage) -> bool {
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let index = message.header.index;
        self.routes.retain(|route| route.device != index);
        self.links.remove(&index).is_some()
    }

    fn put_addr(&mut self, message: &AddressMessage) -> bool {
        let (Some(addr), Some(link)) = (addr(message), self.links.get_mut(&message.header.index))
        else {
            return false;
        };
        let known = (link.addrs.iter_mut()).find(|a| (a.ip, a.prefix) == (addr.ip, addr.prefix));
        if let Some(known) = known {
            let is_news = *known != addr;
            *known = addr;
            return is_news;
        }
        link.addrs.push(addr);
        true
    }

    fn remove_addr(&mut self, message: &AddressMessage) -> bool {
        let (Some(addr), Some(link)) = (addr(message), self.links.get_mut(&message.header.index))
        else {
            return false;
        };
        let before = link.addrs.len();
        link.addrs
            .retain(|a| (a.ip, a.prefix) != (addr.ip, addr.prefix));
        self.are_routes_doubtful |= !self.routes.is_empty();
        link.addrs.len() != before
    }
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        layer: layer(message.header.link_layer_type),
        master: None,
        is_loopback: flags.contains(LinkFlags::Loopback),
        leads_elsewhere: false,
        alias: String::new(),
        mac: Vec::new(),
        addrs: Vec::new(),
        has_route_out: false,
        has_default_route: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::LinkNetNsId(_) => link.leads_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(kind);
                link.kind = kind.map(ToString::to_string).unwrap_or_default();
            }
            _ => {}
        }
    }
    link
}

fn kind(info: &LinkInfo) -> Option<&InfoKind> {
    if let LinkInfo::Kind(kind) = info {
        Some(kind)
    } else {
        None
    }
}

fn layer(link_type: LinkLayerType) -> Layer {
    match link_type {
        LinkLayerType::Ether | LinkLayerType::Loopback => Layer::Ethernet,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => Layer::Network,
        _ => Layer::Other,
    }
}

fn addr(message: &AddressMessage) -> Option<LinkAddr> {
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // Of a point-to-point device `address` is the other end's.
    Some(LinkAddr {
        ip: local.or(address)?,
        prefix: message.header.prefix_len,
        is_secondary: message.header.scope != AddressScope::Universe
            || flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
    })
}

/// An entry for each device that the route leads out through: to more than one host, or past a gateway. A route to
/// one host is a pod's, as a rule.
fn routes_out(message: &RouteMessage) -> Vec<RouteOut> {
    let header = &message.header;
    let is_v4 = header.address_family == AddressFamily::Inet;
    if header.kind != RouteType::Unicast
        || !(is_v4 || header.address_family == AddressFamily::Inet6)
    {
        return Vec::new();
    }
    let mut route = RouteOut {
        device: 0,
        is_default: header.destination_prefix_length == 0,
        is_v4,
        destination: None,
        prefix: header.destination_prefix_length,
        table: header.table.into(),
        metric: 0,
    };
    let (mut devices, mut has_gateway) = (Vec::new(), false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
                route.destination = Some((*ip).into());
            }
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => {
                route.destination = Some((*ip).into());
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_gateway = true,
            RouteAttribute::Oif(device) => devices.push(*device),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) => {
                has_gateway |= hops.iter().any(|hop| !hop.attributes.is_empty());
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    let is_link_local = match route.destination {
        Some(IpAddr::V4(ip)) => ip.is_link_local() || ip.is_multicast(),
        Some(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.is_multicast(),
        None => false,
    };
    let bits = if is_v4 { 32 } else { 128 };
    if is_link_local || (route.prefix == bits && !has_gateway) {
        return Vec::new();
    }
    let entry = |device| RouteOut { device, ..route };
    devices.into_iter().map(entry).collect()
}
