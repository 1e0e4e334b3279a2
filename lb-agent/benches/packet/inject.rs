//! Small packets as from a network card: the kernel's live frames (BPF_PROG_TEST_RUN, Linux 5.18) put them into the
//! receive path of a device in batches of 64, without a sender that would cost more than what is measured.
//!
//! All of the forwarding happens in the call, on the caller's CPU.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use etherparse::PacketBuilder;
use xtask::lab::Netns;

use crate::{asm, sys, worker};

/// Flows that packets belong to, at random: a power of two.
pub const FLOWS: u16 = 64;
/// The source port of the first.
pub const FIRST_PORT: u16 = 20_000;
/// Bytes of a frame, the least that Ethernet sends.
const FRAME: usize = 60;
/// Packets in one call.
const CALL: u32 = 20_000;

/// A source of frames on a device.
pub struct Injector {
    netns: Netns,
    device: u32,
    program: OwnedFd,
    _link: OwnedFd,
    frame: Vec<u8>,
}

impl Injector {
    /// Frames from `client` to `to`, as if they came in on `device` of `netns`. An XDP program there does nothing but
    /// give the device what live frames need; it is there as long as this.
    pub fn new(
        netns: &Netns,
        device: &str,
        client: ([u8; 6], Ipv4Addr),
        to: SocketAddrV4,
    ) -> Result<Self> {
        let (device, hardware) = netns.within(|| look(device))?;
        let mut frame = Vec::with_capacity(FRAME);
        PacketBuilder::ethernet2(client.0, hardware)
            .ipv4(client.1.octets(), to.ip().octets(), 64)
            .udp(FIRST_PORT, to.port())
            .write(&mut frame, &[0; 18])?;
        ensure!(frame.len() == FRAME, "a frame of {} bytes", frame.len());
        let kind = bpf_prog_type::BPF_PROG_TYPE_XDP;
        let hook = bpf_attach_type::BPF_XDP;
        let program = sys::load(kind, hook, &asm::writer(&frame, FLOWS))
            .context("the program that writes frames")?;
        let pass = sys::load(kind, hook, &asm::PASS)?;
        let link = netns
            .within(|| Ok(sys::link(pass.as_fd(), device, hook)?))
            .context("XDP on a veth device")?;
        Ok(Self {
            netns: netns.clone(),
            device,
            program,
            _link: link,
            frame,
        })
    }

    /// Nanoseconds that `count` packets take.
    pub fn run(&self, count: u32) -> Result<f64> {
        self.netns.within(|| {
            worker::stay()?;
            let start = Instant::now();
            for done in (0..count).step_by(CALL as usize) {
                let call = CALL.min(count - done);
                sys::live_frames(self.program.as_fd(), &self.frame, self.device, call)
                    .context("live frames (Linux 5.18)")?;
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            Ok(start.elapsed().as_nanos() as f64)
        })
    }
}

/// Index and hardware address of a device of this thread's namespace.
pub fn look(device: &str) -> Result<(u32, [u8; 6])> {
    let index = nix::net::if_::if_nametoindex(device).context("no such device")?;
    let hardware = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == device)
        .find_map(|entry| entry.address?.as_link_addr()?.addr());
    Ok((
        index,
        hardware.with_context(|| format!("{device}: no hardware address"))?,
    ))
}
