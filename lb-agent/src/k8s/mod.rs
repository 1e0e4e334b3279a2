//! The Kubernetes source: finds the API server, watches what the agent needs of it, and turns every
//! object into the plain data of [`crate::model`] at once. No other module uses kube.
//!
//! ```text
//!  client -> watcher of kube -> watch (errors, pace) -> follow (bookkeeping) -> events
//!  (outage:   (list, watch,                              (convert, names)
//!   log)       relist)
//! ```

mod client;
pub mod convert;
mod follow;
mod guard;
mod kind;
mod outage;
mod watch;

use std::path::Path;

use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{Client, runtime::watcher::Config};
use tokio::sync::mpsc;

pub use client::ClientError;

use crate::{config::EndpointsSource, model::Event};

/// Both labels of rule 2, left out by the server: adding one to an object is its deletion, removing
/// it its addition (rule 3).
const NOT_FOREIGN: &str =
    "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// A cluster's API server.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// The server that a kubeconfig names, `--master`, or the one of the cluster we run in. Nothing
    /// is sent yet.
    ///
    /// # Errors
    /// It cannot be told which server is meant, or its certificates cannot be read.
    pub async fn open(
        kubeconfig: Option<&Path>,
        master: Option<&str>,
    ) -> Result<Self, ClientError> {
        let client = client::open(kubeconfig, master).await?;
        Ok(Self { client })
    }

    /// One future per kind; each runs until nobody listens to `events`.
    pub fn watches(
        &self,
        endpoints: EndpointsSource,
        node_name: &str,
        events: &mpsc::Sender<Event>,
    ) -> Vec<BoxFuture<'static, ()>> {
        let (api, to) = (&self.client, events);
        let all = || Config::default().labels(NOT_FOREIGN);
        let own = Config::default().fields(&format!("metadata.name={node_name}"));
        vec![
            Box::pin(watch::run::<Service>(api.clone(), all(), to.clone())),
            match endpoints {
                EndpointsSource::Slices => {
                    Box::pin(watch::run::<EndpointSlice>(api.clone(), all(), to.clone()))
                }
                EndpointsSource::Endpoints => {
                    Box::pin(watch::run::<Endpoints>(api.clone(), all(), to.clone()))
                }
            },
            Box::pin(watch::run::<Node>(api.clone(), own, to.clone())),
            Box::pin(watch::run::<ServiceCIDR>(
                api.clone(),
                Config::default(),
                to.clone(),
            )),
        ]
    }
}
