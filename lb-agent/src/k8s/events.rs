//! Writes events to the API (events.k8s.io/v1), as kube-proxy, which is where tools look for them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::sleep};

use crate::observe::notice::{Notice, Regarding};

/// As kube-proxy reports.
const CONTROLLER: &str = "kube-proxy";
/// How often one event is tried: an event is worth little once it is late.
const TRIES: u32 = 6;
/// Before the second try, then doubled.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes what comes until nobody can tell any more.
pub(super) async fn run(client: Client, node: String, mut notices: mpsc::Receiver<Notice>) {
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(node.clone()),
    };
    let recorder = Recorder::new(client, reporter);
    let mut failing = false;
    while let Some(notice) = notices.recv().await {
        match publish(&recorder, &node, &notice).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, reason = notice.reason, "events cannot be written; allow create and patch of events.k8s.io events");
            }
            Err(_) => {}
        }
    }
}

async fn publish(recorder: &Recorder, node: &str, notice: &Notice) -> kube::Result<()> {
    let (event, regarding) = (event(notice), reference(node, &notice.regarding));
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match recorder.publish(&event, &regarding).await {
            Err(error) if !is_final(&error) => tracing::debug!(%error, "an event is tried again"),
            done => return done,
        }
        sleep(pause).await;
        pause *= 2;
    }
    recorder.publish(&event, &regarding).await
}

/// The server has said no: it would say so again.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}

fn event(notice: &Notice) -> Event {
    Event {
        type_: if notice.is_warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: notice.reason.to_owned(),
        note: Some(notice.note.clone()),
        action: notice.action.to_owned(),
        secondary: None,
    }
}

/// The uids are not those of the objects: kube-proxy writes names there, and kubectl looks for these.
fn reference(node: &str, regarding: &Regarding) -> ObjectReference {
    match regarding {
        Regarding::Node => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        Regarding::Service(key) => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(key.to_string()),
            ..ObjectReference::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectKey;

    #[test]
    fn events_name_their_object_as_kube_proxy_names_it() {
        let node = reference("one", &Regarding::Node);
        assert_eq!(
            (node.kind.as_deref(), node.uid.as_deref(), node.namespace),
            (Some("Node"), Some("one"), None)
        );
        let service = reference("one", &Regarding::Service(ObjectKey::new("shop", "web")));
        assert_eq!(
            (service.uid.as_deref(), service.namespace.as_deref()),
            (Some("shop/web"), Some("shop"))
        );
    }

    #[test]
    fn what_the_server_refuses_is_not_asked_again() {
        let answer = |code| {
            let status = kube::core::Status {
                code,
                ..kube::core::Status::default()
            };
            kube::Error::Api(Box::new(status))
        };
        assert!(is_final(&answer(403)) && is_final(&answer(404)));
        assert!(!is_final(&answer(429)) && !is_final(&answer(503)));
    }
}
