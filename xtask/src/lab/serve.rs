//! The server of a place: it answers with its own name and the client's address as it sees it.
//!
//! TCP: `<name> <client>\n` at once, then every byte comes back. UDP and UDP-Lite: the same words for each datagram;
//! the datagram `elsewhere` is answered from another port, as a server that is not quite a Service may do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::place::Place;
use super::task::{Control, Task};

/// What a UDP client sends to be answered from another port than the one it wrote to.
pub const ELSEWHERE: &[u8] = b"elsewhere";

/// The protocol number of UDP-Lite (RFC 3828).
pub(super) const UDPLITE: Protocol = Protocol::UDPLITE;

/// Connections that the kernel holds for the server.
const BACKLOG: i32 = 1024;

/// A running server. Dropping it ends the server and every connection to it.
#[derive(Debug)]
pub struct Serve {
    task: Task<()>,
}

/// What a server offers.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    addresses: Vec<SocketAddr>,
    name: Option<String>,
    has_udp_lite: bool,
    has_mptcp: bool,
}

impl ServeOptions {
    /// TCP and UDP on each of `addresses`.
    #[must_use]
    pub fn new(addresses: &[SocketAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            name: None,
            has_udp_lite: false,
            has_mptcp: false,
        }
    }

    /// The name to answer with, the place's own by default.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Offers UDP-Lite as well.
    #[must_use]
    pub fn udp_lite(mut self) -> Self {
        self.has_udp_lite = true;
        self
    }

    /// Accepts Multipath TCP on the TCP ports.
    #[must_use]
    pub fn mptcp(mut self) -> Self {
        self.has_mptcp = true;
        self
    }
}

impl Serve {
    pub(super) fn start(place: &Place, options: &ServeOptions) -> Result<Self> {
        let name = options.name.clone().unwrap_or_else(|| place.name.clone());
        let task = place.spawn("server", |control| serve(control, &name, options))?;
        task.hear::<String>(Duration::from_secs(5))?;
        Ok(Self { task })
    }

    /// Ends the server as a process that gets killed: its connections are reset.
    pub fn stop(self) {
        drop(self.task);
    }
}

fn serve(control: &Control, name: &str, options: &ServeOptions) -> Result<()> {
    for address in &options.addresses {
        let listener = listen(*address, options.has_mptcp)?;
        let tcp_name = name.to_owned();
        thread::spawn(move || accept_forever(&listener, &tcp_name));
        let protocols = [Some(Protocol::UDP), options.has_udp_lite.then_some(UDPLITE)];
        for protocol in protocols.into_iter().flatten() {
            let socket = bind_datagram(*address, protocol)?;
            let udp_name = name.to_owned();
            thread::spawn(move || answer_forever(&socket, &udp_name));
        }
    }
    control.say(&"listening")?;
    control.wait_for_stop(Duration::MAX);
    Ok(())
}

fn listen(address: SocketAddr, is_mptcp: bool) -> Result<TcpListener> {
    let protocol = if is_mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket
        .bind(&address.into())
        .with_context(|| format!("bind {address}/TCP"))?;
    if !is_mptcp {
        accept_fast_open(&socket)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes data in the SYN from clients that offer a cookie; others are not affected.
fn accept_fast_open(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let queue: libc::c_int = 128;
    let length = libc::socklen_t::try_from(size_of_val(&queue)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `queue`, which outlives the call.
    let done = unsafe {
        let value = (&raw const queue).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
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

fn accept_forever(listener: &TcpListener, name: &str) {
    loop {
        // A client that is gone before it is accepted is no reason to stop.
        let Ok((stream, client)) = listener.accept() else {
            continue;
        };
        let greeting = format!("{name} {client}\n");
        thread::spawn(move || echo(stream, &greeting));
    }
}

fn echo(mut stream: TcpStream, greeting: &str) -> io::Result<()> {
    stream.write_all(greeting.as_bytes())?;
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

fn bind_datagram(address: SocketAddr, protocol: Protocol) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket
        .bind(&address.into())
        .with_context(|| format!("bind {address}/UDP ({protocol:?})"))?;
    Ok(socket.into())
}

fn answer_forever(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error of an earlier answer shows up here: the client went away.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let answer = format!("{name} {client}");
        if &buffer[..length] == ELSEWHERE {
            answer_from_another_port(socket, &answer, client).ok();
        } else {
            socket.send_to(answer.as_bytes(), client).ok();
        }
    }
}

fn answer_from_another_port(
    socket: &UdpSocket,
    answer: &str,
    client: SocketAddr,
) -> io::Result<()> {
    let mut local = socket.local_addr()?;
    local.set_port(0);
    UdpSocket::bind(local)?.send_to(answer.as_bytes(), client)?;
    Ok(())
}
