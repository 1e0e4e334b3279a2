//! Addresses and ranges as Kubernetes objects spell them.
//!
//! More lenient than [`std::net`], as the objects are: IPv4 octets may have leading zeros and are
//! decimal all the same (rule 7), and `::ffff:a.b.c.d` is the IPv4 address. Stricter in what an
//! address may be used for, because the maps give some of them a meaning of their own.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::Faults;

/// Reads an address; `None` if it is none.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let ip = text.parse::<Ipv6Addr>().ok()?;
        return Some(IpAddr::V6(ip).to_canonical());
    }
    parse_ipv4(text).map(IpAddr::V4)
}

fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// A number in plain decimal digits: no sign, leading zeros allowed.
fn decimal(text: &str) -> Option<u8> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Reads a range and clears its host bits; `None` if it is none.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = decimal(length)?;
    let ip = parse_ip(address)?;
    let was_mapped = ip.is_ipv4() && address.contains(':');
    let length = if was_mapped {
        length.checked_sub(96)?
    } else {
        length
    };
    IpNet::new(ip, length).ok().map(|net| net.trunc())
}

/// What an address is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// A client dials it, and it was chosen in this network: clusterIPs.
    Vip,
    /// A client dials it, and anybody with rights on Services may write it: externalIPs, LB ingress.
    OpenVip,
    /// A backend. Loopback is one for processes of this host.
    Backend,
    /// An address of the node.
    Node,
}

const NO_ADDRESS: (&str, &str) = (
    "is not an IP address",
    "write an IPv4 or IPv6 address without prefix length and zone",
);
const UNUSABLE: (&str, &str) = (
    "cannot be the address of one host",
    "write an address that is neither unspecified, multicast nor broadcast",
);
const LOOPBACK_VIP: (&str, &str) = (
    "belongs to every host itself",
    "write an address outside 127.0.0.0/8 and ::1",
);
const LINK_LOCAL_VIP: (&str, &str) = (
    "belongs to one link, metadata services among others",
    "write an address outside 169.254.0.0/16 and fe80::/10",
);

/// Reads an address for a use, or notes why it cannot be.
pub(super) fn address(
    field: impl fmt::Display,
    text: &str,
    wanted: Use,
    faults: &mut Faults,
) -> Option<IpAddr> {
    let Some(ip) = parse_ip(text) else {
        faults.add(field, text, NO_ADDRESS);
        return None;
    };
    if let Some(why) = unfit(ip, wanted) {
        faults.add(field, text, why);
        return None;
    }
    Some(ip)
}

fn unfit(ip: IpAddr, wanted: Use) -> Option<(&'static str, &'static str)> {
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Some(UNUSABLE);
    }
    if matches!(wanted, Use::Vip | Use::OpenVip) && ip.is_loopback() {
        return Some(LOOPBACK_VIP);
    }
    if wanted == Use::OpenVip && is_link_local(ip) {
        return Some(LINK_LOCAL_VIP);
    }
    None
}

/// 169.254.0.0/16 or fe80::/10.
pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

const NO_RANGE: (&str, &str) = (
    "is not an address range",
    "write it as address/length, such as 192.0.2.0/24",
);

/// Reads ranges; those that are none are noted and left out. Surrounding white space does not count
/// (rule 7).
pub(super) fn ranges(field: &str, texts: Option<&Vec<String>>, faults: &mut Faults) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    for (index, text) in texts.into_iter().flatten().enumerate() {
        match parse_net(text.trim()) {
            Some(range) => ranges.push(range),
            None => faults.add(format_args!("{field}[{index}]"), text, NO_RANGE),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_leniently() {
        let table = [
            ("plain", "10.0.0.1", Some("10.0.0.1")),
            (
                "rule 7: leading zeros are decimal",
                "010.000.010.001",
                Some("10.0.10.1"),
            ),
            ("many zeros", "0000010.0.0.1", Some("10.0.0.1")),
            ("IPv6", "fd00::1", Some("fd00::1")),
            ("mapped IPv4 is IPv4", "::ffff:10.0.0.1", Some("10.0.0.1")),
            ("octet too large", "10.0.0.256", None),
            ("three octets", "10.0.0", None),
            ("five octets", "10.0.0.1.2", None),
            ("empty octet", "10..0.1", None),
            ("sign", "+10.0.0.1", None),
            ("hexadecimal", "0xa.0.0.1", None),
            ("zone", "fe80::1%eth0", None),
            ("name", "example.org", None),
            ("range", "10.0.0.0/8", None),
            ("space", " 10.0.0.1", None),
            ("empty", "", None),
        ];
        for (name, text, expected) in table {
            let expected = expected.map(|e| e.parse::<IpAddr>().unwrap());
            assert_eq!(parse_ip(text), expected, "{name}");
        }
    }

    #[test]
    fn a_range_loses_its_host_bits() {
        let table = [
            ("plain", "10.0.0.0/8", Some("10.0.0.0/8")),
            ("host bits", "10.1.2.3/8", Some("10.0.0.0/8")),
            ("leading zeros", "010.0.0.0/08", Some("10.0.0.0/8")),
            ("everything", "::/0", Some("::/0")),
            ("IPv6", "fd00::1/64", Some("fd00::/64")),
            ("mapped", "::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("wider than all mapped", "::ffff:10.0.0.0/80", None),
            ("too long", "10.0.0.0/33", None),
            ("no length", "10.0.0.0", None),
            ("negative", "10.0.0.0/-1", None),
            ("empty length", "10.0.0.0/", None),
        ];
        for (name, text, expected) in table {
            let expected = expected.map(|e| e.parse::<IpNet>().unwrap());
            assert_eq!(parse_net(text), expected, "{name}");
        }
    }

    #[test]
    fn an_address_is_refused_where_it_would_mean_something_else() {
        let table = [
            (
                "unspecified is the key of NodePorts",
                "0.0.0.0",
                Use::Vip,
                false,
            ),
            ("unspecified IPv6", "::", Use::OpenVip, false),
            ("unspecified backend", "0.0.0.0", Use::Backend, false),
            ("multicast", "224.0.0.1", Use::OpenVip, false),
            ("broadcast", "255.255.255.255", Use::Vip, false),
            ("loopback VIP", "127.0.0.1", Use::OpenVip, false),
            ("loopback IPv6 VIP", "::1", Use::Vip, false),
            ("loopback backend", "127.0.0.1", Use::Backend, true),
            ("metadata service", "169.254.169.254", Use::OpenVip, false),
            ("link-local IPv6", "fe80::1", Use::OpenVip, false),
            (
                "a node-local resolver's VIP",
                "169.254.20.10",
                Use::Vip,
                true,
            ),
            ("ordinary", "192.0.2.1", Use::OpenVip, true),
        ];
        for (name, text, wanted, accepted) in table {
            let mut faults = Faults::default();
            let found = address("field", text, wanted, &mut faults);
            assert_eq!(found.is_some(), accepted, "{name}");
            assert_eq!(faults.into_vec().is_empty(), accepted, "{name}");
        }
    }
}
