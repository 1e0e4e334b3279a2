//! Connected UDP sockets from before the hooks: they dialled a VIP, run no hook on send, and would
//! send to the VIP for ever. Once, after the first attach, those whose peer is a frontend that is
//! served are ended (SOCK_DESTROY, which the socket's owner sees as ECONNABORTED).
//!
//! Only sockets of processes below the served cgroup are touched, in every network namespace that
//! can be found, and never TCP.

use std::{
    collections::BTreeSet, fs, io, net::IpAddr, os::unix::fs::MetadataExt, path::Path,
    time::Duration,
};

use lb_common::{
    decide::{Client, Dial, Lookup, lookup},
    frontend::Class,
    net::{Addr4, Addr6, BePort, Proto},
};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::{
    maps::{
        family::Family,
        pinned::{Pinned, PinnedError},
        snapshot::Snapshot,
        sys,
    },
    netns,
};

/// Attribute INET_DIAG_CGROUP_ID (Linux 5.8): a u64.
const CGROUP_ID: u16 = 21;
/// UDP and UDP-Lite, which the hooks serve alike.
const PROTOCOLS: [u8; 2] = [IPPROTO_UDP, 136];
/// How long a namespace may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

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
    for (family, protocol) in [AF_INET, AF_INET6]
        .into_iter()
        .flat_map(|family| PROTOCOLS.map(|p| (family, p)))
    {
        // A kernel without UDP-Lite has none of its sockets.
        let sockets = match sockets(family, protocol, StateFlags::ESTABLISHED) {
            Err(error) if protocol != IPPROTO_UDP => {
                tracing::debug!(protocol, %error, "sockets not looked at");
                continue;
            }
            sockets => sockets?,
        };
        for socket in sockets {
            let peer = &socket.header.socket_id;
            let is_ours = cgroup_of(&socket).is_some_and(|id| served.cgroups.contains(&id));
            if is_ours
                && served.answers(
                    peer.destination_address,
                    peer.destination_port,
                    class,
                    cookie,
                )
            {
                match destroy(family, protocol, &socket) {
                    Ok(()) => ended += 1,
                    Err(error) => {
                        tracing::warn!(peer = %peer.destination_address, %error, "a connected UDP socket could not be ended")
                    }
                }
            }
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

fn request(family: u8, protocol: u8, states: StateFlags, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

/// Sockets of the calling thread's network namespace in these states; UDP sockets with a peer are established.
pub(crate) fn sockets(
    family: u8,
    protocol: u8,
    states: StateFlags,
) -> io::Result<Vec<InetResponse>> {
    let any = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    let socket = send(
        NLM_F_REQUEST | NLM_F_DUMP,
        request(family, protocol, states, any).into(),
    )?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(*response)
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(_)
                | NetlinkPayload::Noop
                | NetlinkPayload::Overrun(_)
                | _ => {}
            }
            if length == 0 {
                break;
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// A socket that is gone already is what is wanted.
fn destroy(family: u8, protocol: u8, found: &InetResponse) -> io::Result<()> {
    let message = SockDiagDestroy::new(request(
        family,
        protocol,
        StateFlags::ESTABLISHED,
        found.header.socket_id.clone(),
    ));
    let socket = send(NLM_F_REQUEST | NLM_F_ACK, message.into())?;
    let (answer, _) = socket.recv_from_full()?;
    let message =
        NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
    if let NetlinkPayload::Error(error) = message.payload
        && error.code.is_some()
        && error.to_io().raw_os_error() != Some(libc::ENOENT)
    {
        return Err(error.to_io());
    }
    Ok(())
}

fn send<M: NetlinkSerializable>(flags: u16, payload: NetlinkPayload<M>) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}
