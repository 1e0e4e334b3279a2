//! Rules that kube-proxy has left, or still writes, in this network namespace: its nftables tables, and the chains of its
//! iptables mode where iptables stands on nftables. They cost time and confuse readers, but translate nothing that our
//! programs have met first.

use std::{collections::BTreeSet, io, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`
const GET_CHAINS: u16 = 10 << 8 | 4;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
/// `NLMSG_ERROR`, `NLMSG_DONE`
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of a message's header, and of that of netfilter behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// `NFTA_CHAIN_TABLE`, `NFTA_CHAIN_NAME`
const TABLE: u16 = 1;
const NAME: u16 = 3;
/// `NLA_TYPE_MASK`
const TYPE: u16 = 0x3fff;

/// What kube-proxy's rules are called here, each table once; none: there are none.
///
/// # Errors
/// EPERM: CAP_NET_ADMIN is missing. EPROTONOSUPPORT: the kernel has no nftables.
pub fn of_kube_proxy() -> io::Result<Vec<String>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
    socket.send(&request(), 0)?;
    let mut found = BTreeSet::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read(&datagram, &mut found)? {
            return Ok(found.into_iter().collect());
        }
    }
}

/// Chains of all families.
fn request() -> [u8; HEADER + GENERIC] {
    let mut bytes = [0; HEADER + GENERIC];
    bytes[0] = 20;
    bytes[4..6].copy_from_slice(&GET_CHAINS.to_ne_bytes());
    bytes[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    bytes
}

/// Reads the messages of a datagram; true at the end of the answer.
fn read(mut bytes: &[u8], found: &mut BTreeSet<String>) -> io::Result<bool> {
    while let Some((message, rest)) = split(bytes, 4, |head| {
        u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize
    }) {
        let kind = message
            .get(4..6)
            .map_or(DONE, |k| u16::from_ne_bytes([k[0], k[1]]));
        let body = message.get(HEADER..).unwrap_or_default();
        match kind {
            DONE => return Ok(true),
            ERROR => return Err(error(body)),
            _ => found.extend(rules(body)),
        }
        bytes = rest;
    }
    Ok(false)
}

fn error(body: &[u8]) -> io::Error {
    let number = body.first_chunk().map_or(0, |n| i32::from_ne_bytes(*n));
    io::Error::from_raw_os_error(number.saturating_neg())
}

/// What a chain of kube-proxy's is called.
fn rules(body: &[u8]) -> Option<String> {
    let family = match body.first()? {
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let (table, name) = (attribute(body, TABLE)?, attribute(body, NAME)?);
    if table == "kube-proxy" {
        return Some(format!("nftables table {family} kube-proxy"));
    }
    let is_ours = name == "KUBE-SERVICES" || name == "KUBE-NODEPORTS";
    is_ours.then(|| format!("iptables chains KUBE-* in table {table} ({family})"))
}

/// A string among the attributes of a message.
fn attribute(body: &[u8], wanted: u16) -> Option<&str> {
    let mut rest = body.get(GENERIC..)?;
    let length = |head: &[u8]| u16::from_ne_bytes([head[0], head[1]]).into();
    while let Some((attribute, next)) = split(rest, 4, length) {
        let kind = u16::from_ne_bytes([attribute[2], attribute[3]]) & TYPE;
        if kind == wanted {
            return std::str::from_utf8(attribute.get(4..)?.strip_suffix(b"\0")?).ok();
        }
        rest = next;
    }
    None
}

/// The first of parts that begin with their length and are padded to four bytes.
fn split(bytes: &[u8], least: usize, length: impl Fn(&[u8]) -> usize) -> Option<(&[u8], &[u8])> {
    let length = length(bytes.get(..least)?);
    let part = bytes.get(..length).filter(|_| length >= least)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((part, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: u8, table: &str, name: &str) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        for (kind, text) in [(TABLE, table), (2, "x"), (NAME, name)] {
            let length = u16::try_from(4 + text.len() + 1).expect("short");
            body.extend(length.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(text.as_bytes());
            body.push(0);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(HEADER + body.len()).expect("short");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend([3, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        message.extend(body);
        message
    }

    #[test]
    fn only_kube_proxys_own_are_told_and_each_once() {
        let mut answer = Vec::new();
        for (family, table, name) in [
            (2, "kube-proxy", "services"),
            (2, "kube-proxy", "masquerading"),
            (10, "kube-proxy", "services"),
            (2, "nat", "KUBE-SERVICES"),
            (2, "nat", "PREROUTING"),
            (2, "filter", "KUBE-FIREWALL"),
            (1, "kube-proxy", "inet is nobody's"),
        ] {
            answer.extend(chain(family, table, name));
        }
        let mut found = BTreeSet::new();
        assert!(!read(&answer, &mut found).expect("no error"));
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [
                "iptables chains KUBE-* in table nat (ip)",
                "nftables table ip kube-proxy",
                "nftables table ip6 kube-proxy"
            ]
        );
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        let message = chain(2, "kube-proxy", "services");
        for length in 0..message.len() {
            let mut found = BTreeSet::new();
            assert!(!read(&message[..length], &mut found).expect("no error"));
            assert!(found.is_empty(), "{length}");
        }
    }

    #[test]
    fn an_error_is_the_kernels() {
        let mut message = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend((-1_i32).to_ne_bytes());
        let error = read(&message, &mut BTreeSet::new()).expect_err("EPERM");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
