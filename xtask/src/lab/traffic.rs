//! Clients: one socket, one question, and an honest account of what came of it.

use std::fmt;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::serve::UDPLITE;

/// How long a client waits for a connection and for the answer, unless told otherwise.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Who answered, and what the sockets at both ends say about each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The name of the server that answered.
    pub by: String,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
    /// The server's address as the client sees it: getpeername of a connected socket, recvfrom's of another.
    pub peer: SocketAddr,
}

/// The system call that failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The name of the call: `connect`, `sendto`, `send`, `recv`, `bind`.
    pub call: String,
    /// Its errno. A wait that ended without an answer counts as ETIMEDOUT.
    pub errno: i32,
}

/// The outcome of one dial.
pub type Asked = Result<Answer, Failure>;

impl Failure {
    fn new(call: &str, error: &io::Error) -> Self {
        let errno = match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINPROGRESS) => libc::ETIMEDOUT,
            Some(errno) => errno,
            // socket2's connect_timeout makes this one up.
            None if error.kind() == io::ErrorKind::TimedOut => libc::ETIMEDOUT,
            None => libc::EIO,
        };
        Self {
            call: call.to_owned(),
            errno,
        }
    }

    /// True when the call failed with `errno`.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == errno as i32
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.call, Errno::from_raw(self.errno))
    }
}

impl std::error::Error for Failure {}

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

/// Sends a datagram to `to` from an open, unconnected socket and waits for the answer.
///
/// # Errors
/// The call that failed, with its errno.
pub fn exchange(socket: &Socket, to: SocketAddr) -> Asked {
    socket.send_to(b"hello", &to.into()).named("sendto")?;
    let (text, from) = receive(socket)?;
    answer(&text, from)
}

/// Waits for a datagram and returns its text and the sender as recvfrom tells it, v4-mapped senders as IPv4.
///
/// # Errors
/// `recv` with its errno; nothing in time is ETIMEDOUT.
pub fn receive(socket: &Socket) -> Result<(String, SocketAddr), Failure> {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let (length, from) = socket.recv_from(&mut buffer).named("recv")?;
    // SAFETY: the kernel has written the first `length` bytes.
    let bytes: Vec<u8> = buffer[..length]
        .iter()
        .map(|byte| unsafe { byte.assume_init() })
        .collect();
    Ok((String::from_utf8_lossy(&bytes).into_owned(), plain(&from)?))
}

/// What getpeername says, v4-mapped addresses as IPv4.
///
/// # Errors
/// `getpeername` with its errno.
pub fn peer_of(socket: &Socket) -> Result<SocketAddr, Failure> {
    plain(&socket.peer_addr().named("getpeername")?)
}

/// Reads the greeting of a TCP server, without its line feed.
///
/// # Errors
/// `recv` with its errno; a connection closed early is ECONNRESET.
pub fn read_line(socket: &Socket) -> Result<String, Failure> {
    let mut stream: TcpStream = socket.try_clone().named("dup")?.into();
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 256 {
        if stream.read(&mut byte).named("recv")? == 0 {
            return Err(Failure {
                call: "recv".to_owned(),
                errno: libc::ECONNRESET,
            });
        }
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Splits `<name> <client>` and adds the peer.
///
/// # Errors
/// EBADMSG when the text is something else.
pub fn answer(text: &str, peer: SocketAddr) -> Asked {
    let bad = || Failure {
        call: format!("parse of {text:?}"),
        errno: libc::EBADMSG,
    };
    let (by, client) = text.trim_end().split_once(' ').ok_or_else(bad)?;
    Ok(Answer {
        by: by.to_owned(),
        client: client.parse().map_err(|_| bad())?,
        peer,
    })
}

fn plain(address: &SockAddr) -> Result<SocketAddr, Failure> {
    let address = address.as_socket().ok_or(Failure {
        call: "no internet address".to_owned(),
        errno: libc::EAFNOSUPPORT,
    })?;
    Ok(match address {
        SocketAddr::V6(v6) => SocketAddr::new(unmapped(*v6.ip()), v6.port()),
        SocketAddr::V4(_) => address,
    })
}

fn unmapped(address: Ipv6Addr) -> IpAddr {
    address
        .to_ipv4_mapped()
        .map_or(IpAddr::V6(address), IpAddr::V4)
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

/// Puts the name of the call on an error.
trait Named<T> {
    fn named(self, call: &str) -> Result<T, Failure>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, call: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(call, &error))
    }
}
