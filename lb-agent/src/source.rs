//! Where the news come from: one of the two sources, and this host's own addresses, as one stream.

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
};

/// News that may wait for a reader: enough for a burst, little enough to slow a source that is
/// ahead by far.
const BACKLOG: usize = 1024;

/// A source at work. The addresses of this host come first. Dropping it stops it.
#[derive(Debug)]
pub struct Source {
    events: mpsc::Receiver<Event>,
    tasks: JoinSet<anyhow::Result<()>>,
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
    ) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        let addresses = HostAddrs::open()?;
        sender.send(addresses.news()).await?;
        let addresses = addresses.run(sender.clone());
        tasks.spawn(async { addresses.await.context("following interface addresses") });
        match source {
            config::Source::Manifests(folder) => {
                let manifests = Manifests::open(folder, node_name).await?.run(sender);
                tasks.spawn(async { manifests.await.context("following the manifests") });
            }
            config::Source::Kubernetes { kubeconfig, master } => {
                let api = k8s::Api::open(kubeconfig.as_deref(), master.as_deref()).await?;
                for watch in api.watches(endpoints, node_name, &sender) {
                    tasks.spawn(async {
                        watch.await;
                        Ok(())
                    });
                }
            }
        }
        Ok(Self { events, tasks })
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
