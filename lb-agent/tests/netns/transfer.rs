//! Large transfers: every byte comes back as it went, and hardly any is sent twice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::Trial;
use xtask::lab::traffic::{Dial, read_line};
use xtask::lab::{CLUSTER_CIDR, Lab, Node, Place, Pod};

use crate::harness::{case_with, soon_who};
use crate::packets::{Scene, service};

pub fn trials() -> Vec<Trial> {
    let rows: [(&str, Row); 5] = [
        (
            "transfers_are_whole_with_all_offloads",
            Row {
                ends: "on",
                uplink: "on",
                no_redirect: false,
            },
        ),
        (
            "transfers_are_whole_without_offloads_at_the_ends",
            Row {
                ends: "off",
                uplink: "on",
                no_redirect: false,
            },
        ),
        (
            "transfers_are_whole_with_tx_off_at_the_nodes_devices",
            Row {
                ends: "on",
                uplink: "off",
                no_redirect: false,
            },
        ),
        (
            "transfers_are_whole_without_any_offload",
            Row {
                ends: "off",
                uplink: "off",
                no_redirect: false,
            },
        ),
        (
            "transfers_are_whole_when_the_stack_forwards_them_with_tx_off",
            Row {
                ends: "on",
                uplink: "off",
                no_redirect: true,
            },
        ),
    ];
    rows.map(|(name, row)| case_with("ethtool", "transfer", name, move |lab| matrix(lab, row)))
        .into()
}

/// A row of the matrix: what the endpoints' devices do themselves, and what the node's.
#[derive(Clone, Copy)]
struct Row {
    ends: &'static str,
    uplink: &'static str,
    no_redirect: bool,
}

/// What each backend gets, and sends back, by family.
const SIZES: [usize; 2] = [64 << 20, 16 << 20];
const BLOCK: usize = 64 << 10;

const ALL: [&str; 6] = ["tx", "rx", "sg", "tso", "gso", "gro"];

fn matrix(lab: &Lab, row: Row) -> Result<()> {
    let scene = Scene::new(lab)?;
    let pods: [&Pod; 2] = [&scene.local[0].pod, &scene.remote[0].pod];
    for end in [&scene.outside, pods[0], pods[1]] {
        end.netns.offload("eth0", &ALL, row.ends)?;
    }
    let node: &Node = &scene.node;
    for device in ["eth0", "pod0"] {
        // Checksums must be complete in the packet, and segments cut, before these devices send it.
        node.host.netns.offload(device, &["tx"], row.uplink)?;
    }
    let mut flags = vec!["--cluster-cidr", CLUSTER_CIDR];
    flags.extend(row.no_redirect.then_some("--no-redirect"));
    let _agent = node.agent(&flags)?;
    for (is_local, name) in [(true, "local"), (false, "remote")] {
        scene.publish(service(), is_local, !is_local)?;
        for (address, size) in node.host.addresses.into_iter().zip(SIZES) {
            let to = SocketAddr::new(address, 30080);
            soon_who(&scene.outside, &Dial::tcp(to), 3, &[name])?;
            let sent = transfer(&scene.outside, to, size)?;
            let segments = u32::try_from(size / 1_400)?;
            ensure!(
                sent.retransmits < segments / 50,
                "{} of some {segments} segments to {name} by {to} were sent again",
                sent.retransmits
            );
        }
    }
    Ok(())
}

/// What a transfer cost.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Sent {
    pub retransmits: u32,
}

/// Sends `size` bytes that do not repeat to an echo server, and compares what comes back byte for byte.
pub fn transfer(place: &Place, to: SocketAddr, size: usize) -> Result<Sent> {
    let task = place.spawn("transfer", move |_| {
        let socket = Dial::tcp(to)
            .within(Duration::from_secs(10))
            .open()
            .map_err(|failure| anyhow!("{failure}"))?;
        read_line(&socket).map_err(|failure| anyhow!("{failure}"))?;
        let stream: TcpStream = socket.into();
        let mut sending = stream.try_clone()?;
        let sender = std::thread::spawn(move || -> std::io::Result<()> {
            let mut bytes = Bytes::new();
            for _ in 0..size / BLOCK {
                sending.write_all(&bytes.block())?;
            }
            Ok(())
        });
        let compared = compare(&stream, size);
        // Both tell more together: a sender stops when its peer does.
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        compared?;
        sent.context("send")?;
        Ok(Sent {
            retransmits: retransmits(&stream)?,
        })
    })?;
    task.join(Duration::from_secs(120))
}

fn compare(mut stream: &TcpStream, size: usize) -> Result<()> {
    let mut bytes = Bytes::new();
    let mut block = vec![0; BLOCK];
    for nth in 0..size / BLOCK {
        stream
            .read_exact(&mut block)
            .with_context(|| format!("after {} bytes", nth * BLOCK))?;
        ensure!(block == bytes.block(), "block {nth} came back changed");
    }
    Ok(())
}

/// Numbers from a fixed seed (xorshift), so that no block is like another.
struct Bytes {
    state: u64,
}

impl Bytes {
    const fn new() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn block(&mut self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        for _ in 0..BLOCK / 8 {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            block.extend(self.state.to_ne_bytes());
        }
        block
    }
}

/// Segments that the kernel sent again.
fn retransmits(stream: &TcpStream) -> Result<u32> {
    // SAFETY: every bit pattern is valid for this plain struct of the kernel's.
    let mut facts: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&facts))?;
    // SAFETY: the pointers describe `facts` and its length, which outlive the call.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut facts).cast(),
            &raw mut length,
        )
    };
    ensure!(done == 0, "TCP_INFO: {}", std::io::Error::last_os_error());
    Ok(facts.tcpi_total_retrans)
}
