//! Sockets of the calling thread's network namespace, asked of the kernel: who has which, and an end to some
//! (SOCK_DESTROY, which a socket's owner sees as ECONNABORTED).

use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// UDP and UDP-Lite, which the hooks serve alike.
const PROTOCOLS: [u8; 2] = [IPPROTO_UDP, 136];
/// How long a namespace may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A UDP socket with a peer.
#[derive(Debug)]
pub(crate) struct Connected {
    family: u8,
    protocol: u8,
    /// What the kernel says of it.
    pub(crate) found: InetResponse,
}

impl Connected {
    /// The kernel's number for it.
    pub(crate) fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.found.header.socket_id.cookie)
    }

    /// Ends it; false, with a warning, where the kernel refuses.
    pub(crate) fn end(&self) -> bool {
        let peer = self.found.header.socket_id.destination_address;
        match destroy(self.family, self.protocol, &self.found) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%peer, %error, "a connected UDP socket could not be ended");
                false
            }
        }
    }
}

/// Every UDP socket with a peer.
///
/// # Errors
/// The kernel's.
pub(crate) fn connected_udp() -> io::Result<Vec<Connected>> {
    let mut all = Vec::new();
    for (family, protocol) in [AF_INET, AF_INET6]
        .into_iter()
        .flat_map(|family| PROTOCOLS.map(|p| (family, p)))
    {
        // A kernel without UDP-Lite has none of its sockets.
        let found = match sockets(family, protocol, StateFlags::ESTABLISHED) {
            Err(error) if protocol != IPPROTO_UDP => {
                tracing::debug!(protocol, %error, "sockets not looked at");
                continue;
            }
            found => found?,
        };
        all.extend(found.into_iter().map(|found| Connected {
            family,
            protocol,
            found,
        }));
    }
    Ok(all)
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
