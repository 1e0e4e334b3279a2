//! Keeps `LB_NETNS` filled while some Service's source ranges need it: namespaces are looked up when a
//! program meets an unknown one, when such a Service appears, and again from time to time, for
//! addresses change.

use std::{path::PathBuf, time::Duration};

use lb_common::netns::NetnsVal;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    maps::{kernel::Map, pinned::Pinned},
    netns::{self, Found},
};

/// How long addresses are believed.
const REFRESH: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A program met this one: its cookie, and a process inside.
    Unknown {
        /// The cookie.
        cookie: u64,
        /// The process, by its id in the init pid namespace.
        pid: u32,
    },
    /// Every namespace that can be found.
    Scan,
}

/// Answers requests until nobody asks any more.
///
/// # Errors
/// The map cannot be opened.
pub async fn run(bpffs_root: PathBuf, mut requests: mpsc::Receiver<Request>) -> anyhow::Result<()> {
    let mut is_in_use = false;
    loop {
        let request = match timeout(REFRESH, requests.recv()).await {
            Ok(Some(request)) => request,
            Ok(None) => anyhow::bail!("nobody asks for network namespaces any more"),
            Err(_) if is_in_use => Request::Scan,
            Err(_) => continue,
        };
        is_in_use = true;
        let root = bpffs_root.clone();
        let answered = tokio::task::spawn_blocking(move || answer(&root, request)).await?;
        if let Err(error) = answered {
            tracing::warn!(%error, "addresses of network namespaces could not be written");
        }
    }
}

fn answer(bpffs_root: &std::path::Path, request: Request) -> anyhow::Result<()> {
    let map = Map::open(bpffs_root, "LB_NETNS")?;
    let known = Pinned::open(bpffs_root)?.netns()?;
    for found in look_up(request) {
        if known.get(&found.cookie) != Some(&found.addrs) && found.addrs != NetnsVal::default() {
            map.put(&found.cookie, &found.addrs, || found.cookie.to_string())?;
            tracing::debug!(cookie = found.cookie, addrs = ?found.addrs, "network namespace");
        }
    }
    Ok(())
}

/// The process may be gone, or in a pid namespace that is not ours: then all are looked at.
fn look_up(request: Request) -> Vec<Found> {
    if let Request::Unknown { cookie, pid } = request
        && let Ok(found) = netns::of_process(pid)
        && found.cookie == cookie
    {
        return vec![found];
    }
    netns::all()
}
