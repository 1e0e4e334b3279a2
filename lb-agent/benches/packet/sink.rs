//! Where measured packets end: dropped right behind the node's cable, and counted there by the device.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use xtask::lab::Netns;

use crate::{asm, inject::look, sys};

pub struct Sink {
    netns: Netns,
    device: String,
    _link: OwnedFd,
}

impl Sink {
    /// Drops datagrams to `port` that come in on a device, as long as this is there.
    pub fn new(netns: &Netns, device: &str, port: u16) -> Result<Self> {
        let program = sys::load(
            bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
            bpf_attach_type::BPF_TCX_INGRESS,
            &asm::sink(port),
        )?;
        let link = netns.within(|| {
            let (index, _) = look(device)?;
            Ok(sys::link(
                program.as_fd(),
                index,
                bpf_attach_type::BPF_TCX_INGRESS,
            )?)
        })?;
        Ok(Self {
            netns: netns.clone(),
            device: device.to_owned(),
            _link: link,
        })
    }

    /// Packets that came in on the device, all in all.
    pub fn seen(&self) -> Result<u64> {
        let path = "/proc/thread-self/net/dev";
        let table = self.netns.within(|| Ok(std::fs::read_to_string(path)?))?;
        let fields = table
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{}:", self.device)));
        let packets = fields.and_then(|fields| fields.split_whitespace().nth(1)?.parse().ok());
        packets.with_context(|| format!("{}: no count in {path}", self.device))
    }
}
