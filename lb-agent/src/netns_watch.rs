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

/// How long addresses are believed.
const REFRESH: Duration = Duration::from_secs(30);

/// Answers until nobody asks any more: `unknown` are namespaces that a program met, `scans` ask for
/// every namespace that can be found.
///
/// # Errors
/// Nobody asks any more, or a lookup was broken off.
pub async fn run(
    bpffs_root: PathBuf,
    mut unknown: mpsc::Receiver<Event>,
    mut scans: mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    let mut refresh = None;
    loop {
        let met = tokio::select! {
            event = unknown.recv() => Some(event.context("nobody reports network namespaces any more")?),
            scan = scans.recv() => {
                scan.context("nobody asks for network namespaces any more")?;
                None
            }
            () = sleep_until(refresh.unwrap_or_else(Instant::now)), if refresh.is_some() => None,
        };
        refresh = Some(Instant::now() + REFRESH);
        let root = bpffs_root.clone();
        let answered = spawn_blocking(move || answer(&root, met)).await?;
        if let Err(error) = answered {
            tracing::warn!(%error, "addresses of network namespaces could not be written");
        }
    }
}

fn answer(bpffs_root: &Path, met: Option<Event>) -> anyhow::Result<()> {
    let map = Map::open(bpffs_root, "LB_NETNS")?;
    let known = Pinned::open(bpffs_root)?.netns()?;
    for found in look_up(met) {
        if known.get(&found.cookie) != Some(&found.addrs) && found.addrs != NetnsVal::default() {
            map.put(&found.cookie, &found.addrs, || found.cookie.to_string())?;
            tracing::debug!(cookie = found.cookie, addrs = ?found.addrs, "network namespace");
        }
    }
    Ok(())
}

/// The process that dialled may be gone, or in a pid namespace that is not ours: then all are looked
/// at.
fn look_up(met: Option<Event>) -> Vec<Found> {
    if let Some(event) = met
        && let Ok(found) = netns::of_process(event.pid)
        && found.cookie == event.netns
    {
        return vec![found];
    }
    netns::all()
}
