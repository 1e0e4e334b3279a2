//! Clients: one socket, one question, and an honest account of what came of it.

use std::fmt;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{SockAddr, Socket};

pub use super::dial::{DIAL_TIMEOUT, Dial};

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

/// Puts the name of the call on an error.
pub(super) trait Named<T> {
    fn named(self, call: &str) -> Result<T, Failure>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, call: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(call, &error))
    }
}
