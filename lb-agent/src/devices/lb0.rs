//! `lb0`: a veth pair of ours, where packets enter the stack under an address that belongs to nobody.
//!
//! The stack forwards what we let arrive at `lb0`, so that conntrack and policies see it; answers are routed
//! to that address, leave by `lb0`, and are translated back there. What leaves it untranslated ends at the
//! other half of the pair.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::{
    netlink::Conversation,
    select::{LB0, LB0_PEER},
    table::Table,
};

/// What passes through has left its device's MTU behind: the way out decides.
const MTU: u32 = 65_535;
/// Loose settings that matter to packets which arrive there: `net.ipv4.conf.lb0.*` and the like.
const SYSCTLS: [(&str, &str); 3] = [
    ("ipv4/conf/lb0/forwarding", "1"),
    ("ipv4/conf/lb0/rp_filter", "0"),
    ("ipv6/conf/lb0/forwarding", "1"),
];

/// The device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lb0 {
    /// Its index; 0: there is none.
    pub index: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Why there is none.
#[derive(thiserror::Error, Debug)]
pub enum Lb0Error {
    /// The name is taken.
    #[error(
        "the device {LB0} is not ours (its alias is {alias:?}, not {wanted:?}): rename it, or give its agent a network namespace of its own"
    )]
    NotOurs {
        /// Whose it says it is.
        alias: String,
        /// What ours says.
        wanted: String,
    },
    /// The kernel refuses.
    #[error("{action} {LB0}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// errno.
        source: io::Error,
    },
}

fn refused(action: &'static str) -> impl FnOnce(io::Error) -> Lb0Error {
    move |source| Lb0Error::Kernel { action, source }
}

/// By this alias an agent knows its own device.
fn alias(root: &Path) -> String {
    format!("lb-agent {}", root.display())
}

/// Makes the device, or takes over the one that an earlier agent with this `--bpffs-root` made.
///
/// # Errors
/// See [`Lb0Error`].
pub fn ensure(root: &Path, addr4: Ipv4Addr, addr6: Ipv6Addr) -> Result<Lb0, Lb0Error> {
    let ask = Conversation::open().map_err(refused("look for"))?;
    let alias = alias(root);
    let lb0 = match find(&ask, &alias)? {
        Some(found) => found,
        None => {
            make(&ask, &alias)?;
            find(&ask, &alias)?.ok_or_else(|| refused("find")(io::ErrorKind::NotFound.into()))?
        }
    };
    set_up(&ask, lb0.index)?;
    route(&ask, lb0.index, addr4.into()).map_err(refused("route the IPv4 address to"))?;
    if let Err(error) = route(&ask, lb0.index, addr6.into()) {
        // Where the host has no IPv6, nothing needs it.
        tracing::debug!(%error, "no IPv6 route to {LB0}");
    }
    Ok(lb0)
}

/// Removes the device of the agent with this `--bpffs-root`, with its routes; false: there was none.
///
/// # Errors
/// See [`Lb0Error`].
pub fn remove(root: &Path) -> Result<bool, Lb0Error> {
    let ask = Conversation::open().map_err(refused("look for"))?;
    let lb0 = match find(&ask, &alias(root)) {
        Ok(Some(lb0)) => lb0,
        // Another's stays.
        Ok(None) | Err(Lb0Error::NotOurs { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut message = LinkMessage::default();
    message.header.index = lb0.index;
    ask.change(Message::DelLink(message), 0)
        .map_err(refused("remove"))?;
    Ok(true)
}

fn find(ask: &Conversation, wanted: &str) -> Result<Option<Lb0>, Lb0Error> {
    let mut table = Table::default();
    for message in ask
        .dump(Message::GetLink(LinkMessage::default()))
        .map_err(refused("look for"))?
    {
        table.apply(message);
    }
    let Some(link) = table.links().find(|link| link.name == LB0) else {
        return Ok(None);
    };
    if link.alias != wanted || link.kind != "veth" {
        return Err(Lb0Error::NotOurs {
            alias: link.alias,
            wanted: wanted.to_owned(),
        });
    }
    let mac = <[u8; 6]>::try_from(link.mac.as_slice());
    let mac = mac.map_err(|e| refused("read the address of")(io::Error::other(e)))?;
    Ok(Some(Lb0 {
        index: link.index,
        mac,
    }))
}

fn make(ask: &Conversation, alias: &str) -> Result<(), Lb0Error> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(LB0_PEER.to_owned()),
        LinkAttribute::Mtu(MTU),
    ];
    let mut pair = LinkMessage::default();
    pair.attributes = vec![
        LinkAttribute::IfName(LB0.to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    ask.change(Message::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL)
        .map_err(refused("make"))?;
    let mut named = LinkMessage::default();
    named.attributes = vec![
        LinkAttribute::IfName(LB0.to_owned()),
        LinkAttribute::IfAlias(alias.to_owned()),
    ];
    ask.change(Message::SetLink(named), 0)
        .map_err(refused("mark"))
}

/// Both ends up and without neighbours; no address of their own, not even a link-local one.
fn set_up(ask: &Conversation, index: u32) -> Result<(), Lb0Error> {
    for name in [LB0, LB0_PEER] {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                In6AddrGenMode::None,
            )])]),
        ];
        if let Err(error) = ask.change(Message::SetLink(message), 0) {
            tracing::debug!(%error, device = name, "IPv6 is not set up");
        }
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
        ask.change(Message::SetLink(message), 0)
            .map_err(refused("bring up"))?;
    }
    for (path, value) in SYSCTLS {
        set(path, value);
    }
    tracing::debug!(index, "{LB0} is up");
    Ok(())
}

/// Where /proc/sys is read-only, what is set already will do.
fn set(path: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(path);
    let is_set = fs::read_to_string(&path).is_ok_and(|found| found.trim() == value);
    if is_set || !path.exists() {
        return;
    }
    if let Err(error) = fs::write(&path, value) {
        tracing::warn!(path = %path.display(), value, %error, "a setting of {LB0} could not be written: packets through it may be dropped; let the agent write /proc/sys, or set it");
    }
}

fn route(ask: &Conversation, index: u32, to: IpAddr) -> io::Result<()> {
    let mut message = RouteMessage::default();
    let (family, prefix, to) = match to {
        IpAddr::V4(ip) => (AddressFamily::Inet, 32, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(ip)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if family == AddressFamily::Inet {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Destination(to), RouteAttribute::Oif(index)];
    ask.change(Message::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}
