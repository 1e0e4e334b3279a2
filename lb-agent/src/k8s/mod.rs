//! The Kubernetes source: finds the API server, watches what the agent needs of it, and turns every
//! object into the plain data of [`crate::model`] at once. No other module uses kube.
//!
//! ```text
//!  client -> watcher of kube -> watch (errors, pace) -> follow (bookkeeping) -> events
//!  (outage:   (list, watch,                              (convert, names)  (Services: handover)
//!   log)       relist)
//! ```

mod client;
pub mod convert;
mod events;
mod follow;
mod guard;
mod handover;
mod kind;
mod outage;
mod requests;
mod watch;

use std::{path::Path, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Endpoints, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{Client, runtime::watcher::Config};
use tokio::sync::mpsc;

pub use client::ClientError;

use crate::{
    config::{ApiRate, EndpointsSource},
    model::{Event, Kind, Label},
    observe::{notice::Notice, requests::Requests},
};

/// Both labels of rule 2, left out by the server: adding one to an object is its deletion, removing
/// it its addition (rule 3).
const NOT_FOREIGN: &str =
    "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// Services of other proxies, each in one of two selections: a selector cannot say "or".
const FOREIGN: [(Label, &str); 2] = [
    (Label::ProxyName, "service.kubernetes.io/service-proxy-name"),
    (
        Label::Headless,
        "service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
    ),
];

/// News of Services on their way to [`handover`].
const BACKLOG: usize = 64;

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
        rate: Option<ApiRate>,
        requests: Arc<Requests>,
    ) -> Result<Self, ClientError> {
        let client = client::open(kubeconfig, master, rate, requests).await?;
        Ok(Self { client })
    }

    /// One future per kind and one that hands Services over; each runs until nobody listens to
    /// `events`.
    pub fn watches(
        &self,
        endpoints: EndpointsSource,
        node_name: &str,
        events: &mpsc::Sender<Event>,
    ) -> Vec<BoxFuture<'static, ()>> {
        let (services, of_services) = mpsc::channel(BACKLOG);
        let ours = || Config::default().labels(NOT_FOREIGN);
        let this = Config::default().fields(&format!("metadata.name={node_name}"));
        let mut watches = vec![
            self.watch::<Service>(ours(), &services),
            match endpoints {
                EndpointsSource::Slices => self.watch::<EndpointSlice>(ours(), events),
                EndpointsSource::Endpoints => self.watch::<Endpoints>(ours(), events),
            },
            self.watch::<Node>(this, events),
            self.watch::<ServiceCIDR>(Config::default(), events),
        ];
        for (label, selector) in FOREIGN {
            let (client, config) = (self.client.clone(), Config::default().labels(selector));
            let kind = Kind::Foreign(label);
            let watch = watch::run::<Service>(client, config, kind, services.clone());
            watches.push(Box::pin(watch));
        }
        watches.push(Box::pin(handover::run(of_services, events.clone())));
        watches
    }

    /// Writes events about this node and its Services until nobody can tell any more.
    pub fn write_events(
        &self,
        node_name: &str,
        notices: mpsc::Receiver<Notice>,
    ) -> BoxFuture<'static, ()> {
        let writer = events::run(self.client.clone(), node_name.to_owned(), notices);
        Box::pin(writer)
    }

    fn watch<K: kind::Watched>(
        &self,
        config: Config,
        to: &mpsc::Sender<Event>,
    ) -> BoxFuture<'static, ()> {
        let watch = watch::run::<K>(self.client.clone(), config, K::KIND, to.clone());
        Box::pin(watch)
    }
}
