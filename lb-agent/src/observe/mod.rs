//! What operators see of a running agent: metrics, health, rare events, and whether the kernel really
//! runs our programs.
//!
//! The agent writes one [`State`]; everything here reads it, and the pinned maps. Nothing here can
//! stop the agent unless told so: an address that cannot be bound is tried again.

pub mod attached;
pub mod devices;
pub mod events;
pub mod health;
pub mod health_check;
pub mod metrics;
pub mod notice;
pub mod requests;
pub mod rules;
mod server;
mod state;
mod sync;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

pub use state::State;
pub use sync::{AddressFamily, Applied};

use notice::Notices;
use server::Server;

/// How often the kernel is asked whether it still runs our programs.
const WATCH_PERIOD: Duration = Duration::from_secs(5);

/// Where to serve what.
#[derive(Clone, Debug)]
pub struct Servers {
    /// `--healthz-bind-address`
    pub healthz: Option<SocketAddr>,
    /// `--metrics-bind-address`
    pub metrics: Option<SocketAddr>,
    /// `--bind-address-hard-fail`
    pub hard_fail: bool,
    /// `--bpffs-root`, for counters and fills.
    pub bpffs_root: PathBuf,
    /// The cgroup that is served.
    pub cgroup: PathBuf,
    /// kube-proxy's configuration, for `/configz`.
    pub config: serde_json::Value,
}

/// Serves health and metrics, and watches the programs; ends only with an error.
///
/// # Errors
/// With [`Servers::hard_fail`]: an address cannot be listened on.
pub async fn serve(state: Arc<State>, servers: Servers, notices: Notices) -> anyhow::Result<()> {
    let healthz = Server {
        name: "healthz",
        failure: "FailedToStartProxierHealthcheck",
        address: servers.healthz,
        hard_fail: servers.hard_fail,
    };
    let metrics = Server {
        name: "metrics",
        failure: "FailedToStartMetricServer",
        address: servers.metrics,
        hard_fail: servers.hard_fail,
    };
    let of_health = health::router(Arc::clone(&state));
    let of_metrics = metrics::router(Arc::clone(&state), &servers.bpffs_root, servers.config);
    tokio::try_join!(
        server::keep(healthz, of_health, &notices),
        server::keep(metrics, of_metrics, &notices),
        watch(state, servers.bpffs_root, servers.cgroup)
    )?;
    Ok(())
}

/// Asks the kernel, from time to time, what it runs; logs when that changes.
async fn watch(state: Arc<State>, bpffs_root: PathBuf, cgroup: PathBuf) -> anyhow::Result<()> {
    loop {
        if state.is_started() {
            let (root, cgroup) = (bpffs_root.clone(), cgroup.clone());
            let looked = tokio::task::spawn_blocking(move || attached::attachments(&root, &cgroup));
            if let Ok(found) = looked.await {
                state.note_attachments(&found);
            }
            let root = bpffs_root.clone();
            let looked = tokio::task::spawn_blocking(move || devices::devices(&root));
            if let Ok(Ok(found)) = looked.await {
                state.note_devices(found);
            }
        }
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}
