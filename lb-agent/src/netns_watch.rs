//! Keeps `LB_NETNS` filled while some Service's source ranges need it: namespaces are looked up when a
//! program meets an unknown one, when such a Service appears, and again from time to time, for
//! addresses change.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use lb_common::{event::Event, netns::NetnsVal};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use crate::{
    maps::{kernel::Map, pinned::Pinned},
    netns::{self, Found},
};

/// At most one look at all namespaces in so much time for clients that dial.
const SCAN_PAUSE: Duration = Duration::from_secs(1);
/// How long addresses are believed.
const REFRESH: Duration = Duration::from_secs(30);

/// Answers until nobody asks any more: `unknown` are namespaces that a program met; from the first of
/// those or of `wanted` on, all that can be found are looked at again from time to time.
///
/// # Errors
/// Nobody asks any more, or a lookup was broken off.
pub async fn run(
    bpffs_root: PathBuf,
    mut unknown: mpsc::Receiver<Event>,
    mut wanted: mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    let mut refresh = None;
    let mut scanned: Option<Instant> = None;
    loop {
        let met = tokio::select! {
            event = unknown.recv() => Some(event.context("nobody reports network namespaces any more")?),
            asked = wanted.recv() => {
                asked.context("nobody asks for network namespaces any more")?;
                // Who asks has looked at all of them; from now on they are kept up to date.
                refresh = Some(Instant::now() + REFRESH);
                continue;
            }
            () = sleep_until(refresh.unwrap_or_else(Instant::now)), if refresh.is_some() => None,
        };
        refresh = Some(Instant::now() + REFRESH);
        let root = bpffs_root.clone();
        // A client that keeps dialling must not keep a thread of ours walking through /proc.
        let may_scan = met.is_none() || scanned.is_none_or(|at| at.elapsed() >= SCAN_PAUSE);
        match spawn_blocking(move || answer(&root, met, may_scan)).await? {
            Ok(true) => scanned = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "addresses of network namespaces could not be written");
            }
        }
    }
}

/// Writes the addresses of every namespace that can be found.
///
/// # Errors
/// The map cannot be opened or written.
pub fn scan(bpffs_root: &Path) -> anyhow::Result<()> {
    answer(bpffs_root, None, true).map(drop)
}

fn answer(bpffs_root: &Path, met: Option<Event>, may_scan: bool) -> anyhow::Result<bool> {
    let map = Map::<u64, NetnsVal>::open(bpffs_root, "LB_NETNS")?;
    let known = Pinned::open(bpffs_root)?.netns()?;
    let (all, is_scan) = look_up(met, may_scan);
    if let Some(event) = met
        && is_scan
        && !all.iter().any(|found| found.cookie == event.netns)
    {
        tracing::warn!(
            pid = event.pid,
            netns = event.netns,
            "a client's network namespace was not found, so source ranges refuse it: let the agent see processes (hostPID) or the runtime's namespaces (/run/netns)"
        );
    }
    for found in all {
        if known.get(&found.cookie) != Some(&found.addrs) && found.addrs != NetnsVal::default() {
            map.put(&found.cookie, &found.addrs, || found.cookie.to_string())?;
            tracing::debug!(cookie = found.cookie, addrs = ?found.addrs, "network namespace");
        }
    }
    Ok(is_scan)
}

/// The namespace that was met; where its process is gone, or in a pid namespace that is not ours, all of
/// them. True: all.
fn look_up(met: Option<Event>, may_scan: bool) -> (Vec<Found>, bool) {
    if let Some(event) = met
        && let Ok(found) = netns::of_process(event.pid)
        && found.cookie == event.netns
    {
        return (vec![found], false);
    }
    if may_scan {
        (netns::all(), true)
    } else {
        (Vec::new(), false)
    }
}
