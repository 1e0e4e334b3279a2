//! Processes that dial: forked into a cgroup and a network namespace once, then told what to do, round by
//! round.

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use xtask::lab::{Place, Task};

/// The longest that one job may take.
const JOB_LIMIT: Duration = Duration::from_secs(60);
/// The longest that one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Datagrams under way at a time: fewer than any receive buffer holds.
const BURST: usize = 16;

/// What to do, with the destinations of one of the worker's lists in turn.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Act {
    /// connect(2) of one UDP socket, again and again.
    Reconnect,
    /// socket, connect and close of UDP sockets.
    Connect,
    /// sendto of one unconnected UDP socket.
    Send,
    /// sendto and recvfrom of one unconnected UDP socket.
    Echo,
    /// TCP: connect, a request, its answer, close.
    Tcp,
    /// UDP: connect, a request, its answer, close.
    Udp,
    /// TCP: so many MiB to a server that answers when it has them all.
    Bulk,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Job {
    Do { act: Act, list: usize, count: usize },
    Stop,
}

/// What came of a job.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    pub ns: u64,
    /// Calls that failed with ECONNREFUSED; any other failure ends the worker.
    pub refused: usize,
}

/// A process that dials.
pub struct Worker {
    task: Task<()>,
}

impl Worker {
    pub fn start(place: &Place, lists: Vec<Vec<SocketAddrV4>>) -> Result<Self> {
        let lists: Vec<Vec<SockAddr>> = lists
            .into_iter()
            .map(|list| list.into_iter().map(SockAddr::from).collect())
            .collect();
        let task = place.spawn("dial", move |control| {
            stay()?;
            loop {
                match control.hear(JOB_LIMIT * 10)? {
                    Job::Stop => return Ok(()),
                    Job::Do { act, list, count } => {
                        let list = lists.get(list).context("no such list")?;
                        control.say(&perform(act, list, count)?)?;
                    }
                }
            }
        })?;
        Ok(Self { task })
    }

    pub fn act(&self, act: Act, list: usize, count: usize) -> Result<Done> {
        self.task.tell(&Job::Do { act, list, count })?;
        self.task.hear(JOB_LIMIT)
    }

    pub fn stop(self) -> Result<()> {
        self.task.tell(&Job::Stop)?;
        self.task.join(JOB_LIMIT)
    }
}

/// Keeps the caller, and the threads that it starts, on one CPU, the same for all: so an exchange is as long as the work
/// that it is for client and server together, and not as the scheduler spreads and wakes them.
pub fn stay() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let last = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no CPU to run on")?)?;
    Ok(sched_setaffinity(this, &one)?)
}

fn perform(act: Act, list: &[SockAddr], count: usize) -> Result<Done> {
    let targets = list.iter().cycle().take(count);
    let start = Instant::now();
    let mut refused = 0;
    let mut note = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            refused += 1;
            Ok(())
        }
        other => other,
    };
    match act {
        Act::Reconnect => {
            let socket = datagram()?;
            for to in targets {
                note(socket.connect(to))?;
            }
        }
        Act::Connect => {
            for to in targets {
                note(datagram()?.connect(to))?;
            }
        }
        Act::Send => {
            let socket = datagram()?;
            for to in targets {
                note(socket.send_to(b"x", to).map(drop))?;
            }
        }
        Act::Echo => echo(list, count)?,
        Act::Tcp => {
            for to in targets {
                exchange_tcp(to)?;
            }
        }
        Act::Udp => {
            for to in targets {
                exchange_udp(to)?;
            }
        }
        Act::Bulk => bulk(list.first().context("an empty list")?, count)?,
    }
    let ns = u64::try_from(start.elapsed().as_nanos())?;
    Ok(Done { ns, refused })
}

fn datagram() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
}

fn echo(list: &[SockAddr], count: usize) -> Result<()> {
    let socket = datagram()?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut buffer = [MaybeUninit::uninit(); 64];
    let mut left = count;
    while left > 0 {
        let burst = left.min(BURST);
        for to in list.iter().cycle().take(burst) {
            socket.send_to(b"x", to)?;
        }
        for _ in 0..burst {
            socket.recv_from(&mut buffer).context("no answer")?;
        }
        left -= burst;
    }
    Ok(())
}

fn exchange_tcp(to: &SockAddr) -> Result<()> {
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.connect(to)?;
    socket.write_all(&[0; 64])?;
    let mut answer = Vec::with_capacity(64);
    socket.read_to_end(&mut answer).context("no answer")?;
    if answer.len() != 64 {
        bail!("an answer of {} bytes", answer.len());
    }
    Ok(())
}

fn exchange_udp(to: &SockAddr) -> Result<()> {
    let mut socket = datagram()?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.connect(to)?;
    socket.send(&[0; 64])?;
    let mut buffer = [0; 64];
    if socket.read(&mut buffer).context("no answer")? != 64 {
        bail!("a short answer");
    }
    Ok(())
}

/// One TCP and one UDP exchange.
pub fn answers(to: SocketAddrV4) -> Result<()> {
    exchange_tcp(&to.into())?;
    exchange_udp(&to.into())
}

/// Exchanges of UDP from these ports of `from`, often enough that whoever keeps flows has seen both directions.
pub fn greet(from: Ipv4Addr, ports: std::ops::Range<u16>, to: SocketAddrV4) -> Result<()> {
    for port in ports {
        let socket = std::net::UdpSocket::bind((from, port))?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        socket.connect(to)?;
        for _ in 0..3 {
            socket.send(&[0; 18])?;
            socket.recv(&mut [0; 64]).context("no answer")?;
        }
    }
    Ok(())
}

fn bulk(to: &SockAddr, mebibytes: usize) -> Result<()> {
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_read_timeout(Some(JOB_LIMIT))?;
    socket.connect(to)?;
    let part = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        socket.write_all(&part)?;
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).context("no answer")?;
    let (seen, sent) = (u64::from_be_bytes(answer), (mebibytes as u64) << 20);
    if seen != sent {
        bail!("{seen} of {sent} bytes arrived");
    }
    Ok(())
}

/// Servers on `port`: TCP answers 64 bytes with 64 and closes, UDP echoes. On the next port UDP is
/// received and never read, on the one after it TCP is read to the end and answered with how much it was. All live as
/// long as the task.
pub fn serve(place: &Place, addr: Ipv4Addr, port: u16) -> Result<Task<()>> {
    let at = |port| SocketAddr::from((addr, port));
    let task = place.spawn("serve", move |control| {
        stay()?;
        let listener = std::net::TcpListener::bind(at(port))?;
        let echo = std::net::UdpSocket::bind(at(port))?;
        let _sink = std::net::UdpSocket::bind(at(port + 1))?;
        let bulk = std::net::TcpListener::bind(at(port + 2))?;
        std::thread::spawn(move || {
            for stream in bulk.incoming().flatten() {
                // As below.
                let _gone = swallow(stream);
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                // A client that has gone does not wait for an answer.
                let _gone = echo.send_to(buffer.get(..length).unwrap_or_default(), from);
            }
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // As above.
                let _gone = answer(stream);
            }
        });
        control.say(&())?;
        control.wait_for_stop(Duration::from_secs(24 * 3600));
        Ok(())
    })?;
    task.hear::<()>(ANSWER_LIMIT)?;
    Ok(task)
}

fn swallow(mut stream: std::net::TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut seen = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&seen.to_be_bytes()),
            length => seen += length as u64,
        }
    }
}

fn answer(mut stream: std::net::TcpStream) -> io::Result<()> {
    let mut request = [0; 64];
    stream.read_exact(&mut request)?;
    stream.write_all(&request)
}
