//! Where the news come from: one of the two sources, and this host's own addresses, as one stream.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use crate::{
    config::{self, EndpointsSource},
    host_addrs::HostAddrs,
    k8s,
    manifests::Manifests,
    model::Event,
    observe::requests::Requests,
};

/// News that may wait for a reader: enough for a burst, little enough to slow a source that is
/// ahead by far.
const BACKLOG: usize = 1024;

/// A source at work. The addresses of this host come first. Dropping it stops it.
#[derive(Debug)]
pub struct Source {
    events: mpsc::Receiver<Event>,
    tasks: JoinSet<anyhow::Result<()>>,
    api: Option<k8s::Api>,
}

impl Source {
    /// Starts what the configuration names. A cluster that does not answer is waited for; the first
    /// lists (`Event::Replace` of every kind) come when it does.
    ///
    /// # Errors
    /// What no waiting mends: a folder that cannot be read, a kubeconfig that makes no sense, a
    /// kernel without netlink or inotify.
    pub async fn start(
        source: &config::Source,
        endpoints: EndpointsSource,
        node_name: &str,
        requests: Arc<Requests>,
    ) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        let addresses = HostAddrs::open()?;
        sender.send(addresses.news()).await?;
        let addresses = addresses.run(sender.clone());
        tasks.spawn(async { addresses.await.context("following interface addresses") });
        let mut server = None;
        match source {
            config::Source::Manifests(folder) => {
                let manifests = Manifests::open(folder, node_name).await?.run(sender);
                tasks.spawn(async { manifests.await.context("following the manifests") });
            }
            config::Source::Kubernetes {
                kubeconfig,
                master,
                rate,
            } => {
                let (kubeconfig, master) = (kubeconfig.as_deref(), master.as_deref());
                let api = k8s::Api::open(kubeconfig, master, *rate, requests).await?;
                for watch in api.watches(endpoints, node_name, &sender) {
                    tasks.spawn(async {
                        watch.await;
                        Ok(())
                    });
                }
                server = Some(api);
            }
        }
        Ok(Self {
            events,
            tasks,
            api: server,
        })
    }

    /// The API server, where the news come from one.
    pub fn api(&self) -> Option<&k8s::Api> {
        self.api.as_ref()
    }

    /// The next news. May be dropped while waiting; nothing is lost then.
    ///
    /// # Errors
    /// A part of the source has ended, which none does by itself: the process must end with the
    /// reason.
    pub async fn next(&mut self) -> anyhow::Result<Event> {
        tokio::select! {
            biased;
            Some(ended) = self.tasks.join_next() => Err(reason(ended)),
            event = self.events.recv() => event.ok_or_else(|| anyhow!("every source has ended")),
        }
    }

    /// News that has already come; `None`: there is none just now.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

fn reason(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("a source has ended without a reason; report this as a bug"),
        Ok(Err(error)) => error,
        Err(error) => anyhow::Error::new(error).context("a source was broken off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    type End = fn() -> anyhow::Result<()>;

    async fn start(folder: &std::path::Path) -> anyhow::Result<Source> {
        let source = config::Source::Manifests(folder.to_owned());
        Source::start(&source, EndpointsSource::Slices, "one", Arc::default()).await
    }

    #[tokio::test]
    async fn host_addresses_come_first_and_then_the_lists() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut source = start(folder.path()).await.expect("a source");
        let first = source.next().await.expect("an event");
        assert!(matches!(first, Event::HostAddrs(_)), "{first:?}");
        for kind in Kind::ALL {
            let event = source.next().await.expect("an event");
            assert_eq!(event, Event::Replace(kind, vec![]));
        }
    }

    #[tokio::test]
    async fn a_part_that_ends_is_an_error_with_its_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let table: [(&str, End); 3] = [
            ("broken", || Err(anyhow!("broken"))),
            (
                "a source has ended without a reason; report this as a bug",
                || Ok(()),
            ),
            ("a source was broken off", || panic!("on purpose")),
        ];
        for (expected, end) in table {
            let mut source = start(folder.path()).await.expect("a source");
            source.tasks.spawn(async move { end() });
            let error = loop {
                if let Err(error) = source.next().await {
                    break error;
                }
            };
            assert_eq!(error.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_missing_ends_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(start(&folder.path().join("no")).await.is_err());
    }
}
