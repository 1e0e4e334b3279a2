//! What deserves an event in the API (section 1.V of the behaviour list). Told without waiting: the data plane never
//! depends on whether an event can be written, and without an API server nobody listens.

use tokio::sync::mpsc;

use crate::model::ObjectKey;

/// Events that may wait for the API server; those beyond are only logged.
const BACKLOG: usize = 64;

/// The object that an event is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Regarding {
    /// This node.
    Node,
    /// A Service.
    Service(ObjectKey),
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// What it is about.
    pub regarding: Regarding,
    /// Type Warning, else Normal.
    pub is_warning: bool,
    /// As kube-proxy names it.
    pub reason: &'static str,
    /// As kube-proxy names it.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

impl Notice {
    /// The agent serves.
    pub fn starting() -> Self {
        Self {
            regarding: Regarding::Node,
            is_warning: false,
            reason: "Starting",
            action: "StartKubeProxy",
            note: "lb-agent serves this node".to_owned(),
        }
    }

    /// A server of the agent cannot start, and the agent ends for it.
    pub fn server_failed(reason: &'static str, note: String) -> Self {
        Self {
            regarding: Regarding::Node,
            is_warning: true,
            reason,
            action: "StartKubeProxy",
            note,
        }
    }

    /// The healthCheckNodePort of a Service cannot be listened on.
    pub fn health_check_failed(service: ObjectKey, note: String) -> Self {
        Self {
            regarding: Regarding::Service(service),
            is_warning: true,
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            note,
        }
    }
}

/// Where to tell.
#[derive(Clone, Debug)]
pub struct Notices(mpsc::Sender<Notice>);

impl Notices {
    /// And where they come out.
    pub fn channel() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), receiver)
    }

    /// Tells; what nobody takes is lost.
    pub fn tell(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(notice) {
            tracing::debug!(%error, "an event is not written");
        }
    }
}
