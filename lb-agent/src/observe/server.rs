//! Keeps a router served at an address. A failed bind is tried again (rules 120, 123): the address
//! may belong to the node later, or to the agent that is on its way out.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use tokio::net::TcpListener;

const RETRY: Duration = Duration::from_secs(5);

/// Serves for ever; an address that is none waits for ever.
pub(super) async fn keep(name: &'static str, address: Option<SocketAddr>, router: Router) {
    let Some(address) = address else {
        return std::future::pending().await;
    };
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
            Err(error) if !failing => {
                tracing::warn!(server = name, %address, %error, "cannot listen, tries again every 5 s");
                failing = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}
