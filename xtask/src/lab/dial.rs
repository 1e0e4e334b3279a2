//! What a client asks: where to, by which protocol, from which kind of socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::serve::UDPLITE;
use super::traffic::{Asked, Failure, Named, answer, peer_of, read_line, receive};

/// How long a client waits for a connection and for the answer, unless told otherwise.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How a datagram finds its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Connected,
    Unconnected,
}

/// A question to ask: where, by which protocol, from which socket.
#[derive(Debug, Clone)]
pub struct Dial {
    to: SocketAddr,
    kind: Type,
    protocol: Protocol,
    way: Way,
    is_mapped: bool,
    is_fast_open: bool,
    bind: Option<IpAddr>,
    timeout: Duration,
    payload: Vec<u8>,
}

impl Dial {
    /// A TCP connection.
    #[must_use]
    pub fn tcp(to: SocketAddr) -> Self {
        Self::new(to, Type::STREAM, Protocol::TCP)
    }

    /// A UDP socket connected to `to`.
    #[must_use]
    pub fn udp(to: SocketAddr) -> Self {
        Self::new(to, Type::DGRAM, Protocol::UDP)
    }

    /// A UDP-Lite socket connected to `to`.
    #[must_use]
    pub fn udp_lite(to: SocketAddr) -> Self {
        Self::new(to, Type::DGRAM, UDPLITE)
    }

    /// A Multipath TCP connection.
    #[must_use]
    pub fn mptcp(to: SocketAddr) -> Self {
        Self::new(to, Type::STREAM, Protocol::MPTCP)
    }

    fn new(to: SocketAddr, kind: Type, protocol: Protocol) -> Self {
        Self {
            to,
            kind,
            protocol,
            way: Way::Connected,
            is_mapped: false,
            is_fast_open: false,
            bind: None,
            timeout: DIAL_TIMEOUT,
            payload: b"hello".to_vec(),
        }
    }

    /// Datagrams go out by sendto, answers come by recvfrom.
    #[must_use]
    pub fn unconnected(mut self) -> Self {
        self.way = Way::Unconnected;
        self
    }

    /// Dials an IPv4 destination from an IPv6 socket, as `::ffff:a.b.c.d`.
    #[must_use]
    pub fn mapped(mut self) -> Self {
        self.is_mapped = true;
        self
    }

    /// Sends the first bytes in the SYN (TCP_FASTOPEN_CONNECT).
    #[must_use]
    pub fn fast_open(mut self) -> Self {
        self.is_fast_open = true;
        self
    }

    /// Binds the socket to `address` and any port first.
    #[must_use]
    pub fn bound_to(mut self, address: IpAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// What a datagram carries.
    #[must_use]
    pub fn saying(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// How long to wait, instead of [`DIAL_TIMEOUT`].
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What is dialled.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Does the socket have no peer, and so hears of no error?
    #[must_use]
    pub fn is_unconnected(&self) -> bool {
        matches!(self.way, Way::Unconnected)
    }

    /// Dials and waits for the answer.
    ///
    /// # Errors
    /// The call that failed, with its errno.
    pub fn ask(&self) -> Asked {
        let socket = self.open()?;
        if self.kind == Type::STREAM {
            self.ask_stream(&socket)
        } else {
            self.ask_datagram(&socket)
        }
    }

    /// Opens, binds and, unless it is [`Dial::unconnected`], connects the socket.
    ///
    /// # Errors
    /// The call that failed, with its errno.
    pub fn open(&self) -> Result<Socket, Failure> {
        let target = self.target();
        let socket = Socket::new(Domain::for_address(target), self.kind, Some(self.protocol))
            .named("socket")?;
        socket
            .set_read_timeout(Some(self.timeout))
            .named("setsockopt")?;
        socket
            .set_write_timeout(Some(self.timeout))
            .named("setsockopt")?;
        if let Some(address) = self.bind {
            socket
                .bind(&SocketAddr::new(self.shape(address), 0).into())
                .named("bind")?;
        }
        if self.is_fast_open {
            set_fast_open_connect(&socket).named("setsockopt")?;
        }
        if self.way == Way::Connected {
            // A send timeout bounds a blocking connect as well, and unlike a non-blocking one it returns the hook's errno.
            socket.connect(&target.into()).named("connect")?;
        }
        Ok(socket)
    }

    fn ask_stream(&self, socket: &Socket) -> Asked {
        if self.is_fast_open {
            // The SYN leaves with the first bytes.
            socket.send(&self.payload).named("send")?;
        }
        let greeting = read_line(socket)?;
        answer(&greeting, peer_of(socket)?)
    }

    fn ask_datagram(&self, socket: &Socket) -> Asked {
        match self.way {
            Way::Connected => socket.send(&self.payload).named("send")?,
            Way::Unconnected => socket
                .send_to(&self.payload, &self.target().into())
                .named("sendto")?,
        };
        let (text, from) = receive(socket)?;
        let peer = match self.way {
            Way::Connected => peer_of(socket)?,
            Way::Unconnected => from,
        };
        answer(&text, peer)
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.shape(self.to.ip()), self.to.port())
    }

    fn shape(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) if self.is_mapped => v4.to_ipv6_mapped().into(),
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        }
    }
}

/// `TCP to 10.96.0.10:80`, and what is special about the socket.
impl fmt::Display for Dial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::TCP => "TCP",
            Protocol::MPTCP => "Multipath TCP",
            Protocol::UDP => "UDP",
            _ => "UDP-Lite",
        };
        write!(out, "{protocol} to {}", self.to)?;
        let special = [
            (self.way == Way::Unconnected, "unconnected"),
            (self.is_mapped, "v4-mapped"),
            (self.is_fast_open, "fast open"),
        ];
        for (_, word) in special.iter().filter(|(is_so, _)| *is_so) {
            write!(out, ", {word}")?;
        }
        match self.bind {
            Some(address) => write!(out, ", bound to {address}"),
            None => Ok(()),
        }
    }
}

fn set_fast_open_connect(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    let done = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            value,
            length,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
