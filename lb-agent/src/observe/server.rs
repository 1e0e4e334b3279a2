//! Keeps a router served at an address. A failed bind is tried again (rules 120, 123): the address
//! may belong to the node later, or to the agent that is on its way out. With `--bind-address-hard-fail`
//! it ends the agent.

use std::{future::pending, net::SocketAddr, time::Duration};

use axum::Router;
use tokio::net::TcpListener;

use super::notice::{Notice, Notices};

const RETRY: Duration = Duration::from_secs(5);

/// One of the agent's servers.
pub(super) struct Server {
    pub(super) name: &'static str,
    /// Reason of the event that tells of a failure.
    pub(super) failure: &'static str,
    /// `None`: off.
    pub(super) address: Option<SocketAddr>,
    /// A failed bind is the end.
    pub(super) hard_fail: bool,
}

/// Serves for ever; a server that is off waits for ever.
///
/// # Errors
/// The address cannot be listened on, and that is to be the end.
pub(super) async fn keep(server: Server, router: Router, notices: &Notices) -> anyhow::Result<()> {
    let Some(address) = server.address else {
        return pending().await;
    };
    let name = server.name;
    let mut failing = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(server = name, %address, "serving");
                failing = false;
                if let Err(error) = axum::serve(listener, router.clone()).await {
                    tracing::warn!(server = name, %address, %error, "stopped serving, starts again");
                }
            }
            Err(error) if server.hard_fail => {
                let why = format!("the {name} server cannot listen on {address}: {error}");
                notices.tell(Notice::server_failed(server.failure, why.clone()));
                anyhow::bail!(
                    "{why}; free the address, give another one, or leave out --bind-address-hard-fail"
                );
            }
            Err(error) if !failing => {
                tracing::warn!(server = name, %address, %error, "cannot listen, tries again every 5 s");
                failing = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}
