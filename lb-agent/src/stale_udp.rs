//! Connected UDP sockets from before the hooks: they dialled a VIP, run no hook on send, and would
//! send to the VIP for ever. Once, after the first attach, those whose peer is a frontend that is
//! served are ended (SOCK_DESTROY, which the socket's owner sees as ECONNABORTED).
//!
//! Only sockets of processes below the served cgroup are touched, in every network namespace that
//! can be found, and never TCP.

use std::{collections::BTreeSet, fs, io, net::IpAddr, os::unix::fs::MetadataExt, path::Path};

use lb_common::{
    decide::{Client, Dial, Lookup, lookup},
    frontend::Class,
    net::{Addr4, Addr6, BePort, Proto},
};
use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::inet::InetResponse;

use crate::{
    maps::{
        family::Family,
        pinned::{Pinned, PinnedError},
        snapshot::Snapshot,
        sys,
    },
    netns,
    sock_diag::connected_udp,
};

/// Attribute INET_DIAG_CGROUP_ID (Linux 5.8): a u64.
const CGROUP_ID: u16 = 21;

/// What is served, to hold peers against.
struct Served {
    v4: Snapshot<Addr4>,
    v6: Snapshot<Addr6>,
    host_netns: u64,
    /// Ids of the served cgroup and of all below it.
    cgroups: BTreeSet<u64>,
}

/// Ends the sockets; returns how many.
///
/// # Errors
/// [`PinnedError`]: what is served cannot be read. A namespace that does not answer is passed over
/// with a warning.
pub fn end(bpffs_root: &Path, cgroup_root: &Path) -> Result<usize, PinnedError> {
    let pinned = Pinned::open(bpffs_root)?;
    let mut cgroups = BTreeSet::new();
    collect_ids(cgroup_root, &mut cgroups);
    let served = Served {
        v4: pinned.snapshot()?,
        v6: pinned.snapshot()?,
        host_netns: pinned.config()?.host_netns,
        cgroups,
    };
    let ended = netns::in_each(|| {
        end_here(&served).unwrap_or_else(|error| {
            tracing::warn!(%error, "connected UDP sockets of a network namespace could not be looked at");
            0
        })
    });
    Ok(ended.into_iter().sum())
}

/// A cgroup's id is the inode number of its directory.
fn collect_ids(dir: &Path, ids: &mut BTreeSet<u64>) {
    let Ok(meta) = fs::metadata(dir) else { return };
    ids.insert(meta.ino());
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
    {
        collect_ids(&entry.path(), ids);
    }
}

/// The namespace of the calling thread.
fn end_here(served: &Served) -> io::Result<usize> {
    let cookie = sys::netns_cookie()?;
    let class = if cookie == served.host_netns {
        Class::Host
    } else {
        Class::Pod
    };
    let mut ended = 0;
    for socket in connected_udp()? {
        let id = &socket.found.header.socket_id;
        let is_ours = cgroup_of(&socket.found).is_some_and(|id| served.cgroups.contains(&id));
        let (ip, port) = (id.destination_address, id.destination_port);
        if is_ours && served.answers(ip, port, class, cookie) {
            ended += usize::from(socket.end());
        }
    }
    Ok(ended)
}

impl Served {
    fn answers(&self, ip: IpAddr, port: u16, class: Class, netns: u64) -> bool {
        let port = BePort::new(port);
        match ip.to_canonical() {
            IpAddr::V4(ip) => is_found(&self.v4, Addr4::from(ip), port, class, netns),
            IpAddr::V6(ip) => is_found(&self.v6, Addr6::from(ip), port, class, netns),
        }
    }
}

fn is_found<A: Family>(
    tables: &Snapshot<A>,
    addr: A,
    port: BePort,
    class: Class,
    netns: u64,
) -> bool {
    let dial = Dial {
        addr,
        port,
        proto: Proto::UDP,
    };
    matches!(
        lookup(
            tables,
            &dial,
            &Client {
                class,
                netns,
                addr: None
            }
        ),
        Lookup::Found(_)
    )
}

fn cgroup_of(socket: &InetResponse) -> Option<u64> {
    let attribute = socket.nlas.iter().find(|nla| nla.kind() == CGROUP_ID)?;
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}
