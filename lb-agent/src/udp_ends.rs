//! Connected UDP sockets whose backend no longer serves (rules 89 to 92). No hook runs when they send, so they would send
//! there for ever: they are ended, and their owners dial again. Policy, hints and draining end none (rule 90), TCP is
//! never touched (rule 88), nor is a socket that dialled no Service.
//!
//! What a socket dialled is in `LB_PEERS`. Namespaces are entered only while some socket there has such a backend. A socket
//! whose place was taken when it dialled is not seen: what it dialled is in its own storage.

use std::{collections::BTreeMap, io, net::IpAddr, path::PathBuf, time::Duration};

use lb_common::{
    net::{Addr4, Addr6, BePort},
    service::BackendFlags,
    socket::{Peer, SocketVal},
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    maps::{
        family::Family,
        pinned::{Pinned, PinnedError},
    },
    netns,
    sock_diag::connected_udp,
};

/// Losses within this time are looked after together.
const GATHER: Duration = Duration::from_millis(200);
/// Pause before sockets are looked at again after an error.
const PAUSE: Duration = Duration::from_secs(5);

/// Looks whenever a backend of a UDP port was lost, and once at the start for what was lost meanwhile; for ever.
///
/// # Errors
/// Whoever tells of losses is gone.
pub async fn run(bpffs_root: PathBuf, mut lost: watch::Receiver<u64>) -> anyhow::Result<()> {
    loop {
        lost.changed().await?;
        sleep(GATHER).await;
        lost.mark_unchanged();
        let root = bpffs_root.clone();
        match spawn_blocking(move || Pinned::open(&root).and_then(|pinned| end(&pinned))).await? {
            Ok(0) => {}
            Ok(sockets) => tracing::info!(
                sockets,
                "ended connected UDP sockets whose backend no longer serves"
            ),
            Err(error) => {
                tracing::warn!(%error, "connected UDP sockets could not be looked at");
                sleep(PAUSE).await;
                lost.mark_changed();
            }
        }
    }
}

/// Ends the sockets; returns how many.
fn end(pinned: &Pinned) -> Result<usize, PinnedError> {
    let orphans = orphans(pinned)?;
    if orphans.is_empty() {
        return Ok(0);
    }
    let ended = netns::in_each(|| {
        end_here(&orphans).unwrap_or_else(|error| {
            tracing::warn!(%error, "connected UDP sockets of a network namespace could not be looked at");
            0
        })
    });
    Ok(ended.into_iter().sum())
}

/// Sockets of any protocol, by their cookies, whose backend no longer serves, and where that was.
fn orphans(pinned: &Pinned) -> Result<BTreeMap<u64, SocketVal>, PinnedError> {
    let (v4, v6) = (
        pinned.backend_array::<Addr4>()?,
        pinned.backend_array::<Addr6>()?,
    );
    let held = |peer: &Peer| peer.socket != 0 && peer.val.family != 0;
    let serves = |val: &SocketVal| match val.family {
        4 => v4
            .get(val.backend_id.0)
            .is_some_and(|b| still::<Addr4>(b, val)),
        _ => v6
            .get(val.backend_id.0)
            .is_some_and(|b| still::<Addr6>(b, val)),
    };
    let peers = pinned.peers()?.into_iter().filter(held);
    Ok(peers
        .filter(|peer| !serves(&peer.val))
        .map(|peer| (peer.socket, peer.val))
        .collect())
}

fn still<A: Family>(backend: A::Backend, val: &SocketVal) -> bool {
    let backend: lb_common::service::Backend<A> = backend.into();
    backend.serves(val.service, val.generation, BackendFlags::SERVING)
}

/// The namespace of the calling thread.
fn end_here(orphans: &BTreeMap<u64, SocketVal>) -> io::Result<usize> {
    let sockets = connected_udp()?.into_iter();
    let ended = sockets.filter(|socket| {
        let id = &socket.found.header.socket_id;
        let orphan = orphans.get(&socket.cookie());
        orphan.is_some_and(|val| is_peer(val, id.destination_address, id.destination_port))
            && socket.end()
    });
    Ok(ended.count())
}

/// Has the socket not been connected elsewhere since?
fn is_peer(val: &SocketVal, ip: IpAddr, port: u16) -> bool {
    let mapped = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    val.is_peer(&Addr6::from(mapped), BePort::new(port))
}
