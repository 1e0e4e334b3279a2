//! Conversations with the kernel about links, addresses and routes of the caller's network namespace.

use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a message's header; its first four are the length of the whole.
const HEADER: usize = 16;

/// A socket to ask by.
pub struct Conversation {
    socket: Socket,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").finish_non_exhaustive()
    }
}

impl Conversation {
    /// Opens one.
    ///
    /// # Errors
    /// AF_NETLINK sockets are not allowed.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dump(&self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for payload in messages(&datagram) {
                match payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
    }

    /// Asks a question that has one answer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, request: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(request, NLM_F_REQUEST)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for payload in messages(&datagram) {
                match payload {
                    NetlinkPayload::InnerMessage(message) => return Ok(message),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(_)
                    | NetlinkPayload::Noop
                    | NetlinkPayload::Overrun(_)
                    | _ => {}
                }
            }
        }
    }

    /// Asks for a change, and waits until it is made. `flags` beside those of every request.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for payload in messages(&datagram) {
                if let NetlinkPayload::Error(error) = payload {
                    return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                }
            }
        }
    }

    fn send(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }
}

/// The messages of a datagram. One that cannot be read, for a newer kernel says more than the parser knows, is
/// passed over: the others count all the same.
pub fn messages(mut bytes: &[u8]) -> Vec<NetlinkPayload<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else {
            break;
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => found.push(message.payload),
            Err(error) => tracing::debug!(%error, "a message of the kernel could not be read"),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}
