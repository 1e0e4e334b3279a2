//! Ports of masqueraded flows that sockets of the host are bound to since before the hooks: the bind hook
//! counts what comes later, and no flow gets a port that is marked either way.

use std::{
    collections::BTreeSet,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::socket::BOUND_BEFORE;
use netlink_packet_sock_diag::{
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::StateFlags,
};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::{
    maps::{
        pinned::maps_dir,
        sys::{self, Access, Mmap},
    },
    sock_diag::sockets,
};

/// How often sockets are looked at again, while there are such ports.
const PERIOD: Duration = Duration::from_secs(30);

/// Marks, and takes marks back when their sockets have gone, until none is left; then waits for ever.
///
/// # Errors
/// The map cannot be opened.
pub async fn run(root: PathBuf, range: (u16, u16)) -> anyhow::Result<()> {
    let mut marks = Marks::open(&root, range)?;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A look costs by the number of the host's sockets: only what was marked is looked at again.
    let mut is_first = true;
    loop {
        ticks.tick().await;
        let looked;
        (marks, looked) = spawn_blocking(move || {
            let looked = marks.renew(is_first);
            (marks, looked)
        })
        .await?;
        match looked {
            Ok(()) => is_first = false,
            Err(error) => {
                tracing::warn!(%error, "sockets of the host could not be looked at: a masqueraded flow may get the port of one");
            }
        }
        if !is_first && marks.held.is_empty() {
            return std::future::pending().await;
        }
    }
}

struct Marks {
    map: Mmap,
    range: (u16, u16),
    held: BTreeSet<u16>,
}

impl Marks {
    fn open(root: &Path, range: (u16, u16)) -> io::Result<Self> {
        let map = sys::open_map(&maps_dir(root).join("LB_HOST_PORTS"), Access::Write)?;
        let map = Mmap::new(map.as_fd(), size_of::<u64>(), Access::Write)?;
        // An earlier agent's marks are renewed with ours.
        let held = (range.0..=range.1)
            .filter(|port| map.load(u32::from(*port), 0).unwrap_or_default() & BOUND_BEFORE != 0)
            .collect();
        Ok(Self { map, range, held })
    }

    /// With `may_add`, marks what is bound now.
    fn renew(&mut self, may_add: bool) -> io::Result<()> {
        let bound = self.bound()?;
        for port in self.held.difference(&bound) {
            let _written = self.map.clear_bits(u32::from(*port), 0, BOUND_BEFORE);
        }
        self.held.retain(|port| bound.contains(port));
        if may_add {
            for port in &bound {
                let _written = self.map.set_bits(u32::from(*port), 0, BOUND_BEFORE);
            }
            self.held = bound;
        }
        Ok(())
    }

    /// Local ports of the range that any socket of this network namespace has.
    fn bound(&self) -> io::Result<BTreeSet<u16>> {
        let (lo, hi) = self.range;
        let mut ports = BTreeSet::new();
        for family in [AF_INET, AF_INET6] {
            for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
                let found = sockets(family, protocol, StateFlags::all())?;
                let local = found.iter().map(|s| s.header.socket_id.source_port);
                ports.extend(local.filter(|port| (lo..=hi).contains(port)));
            }
        }
        Ok(ports)
    }
}
