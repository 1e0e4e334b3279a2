//! The agent's own health (rules 114 to 119): `/healthz` for load balancers, which also asks whether
//! the node is eligible, and `/livez` for the kubelet.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use axum::{
    Router,
    extract::State as Shared,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{state::State, sync::AddressFamily};

/// Answers given so far, process-wide: 200 and 503 of each path.
pub(super) static ANSWERS: Answers = Answers {
    healthz: [AtomicU64::new(0), AtomicU64::new(0)],
    livez: [AtomicU64::new(0), AtomicU64::new(0)],
};

const NEVER: &str = "0001-01-01T00:00:00Z";

/// `kubeproxy_proxy_healthz_total` and `kubeproxy_proxy_livez_total`.
pub(super) struct Answers {
    pub(super) healthz: [AtomicU64; 2],
    pub(super) livez: [AtomicU64; 2],
}

/// The two paths.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .with_state(state)
}

/// The JSON of both paths: kube-proxy's keys (rule 118) and ours.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyHealth>,
    /// Every program is attached, and every device is served.
    attached: bool,
    /// Every hook runs our program.
    effective: bool,
    /// The maps are complete.
    synced: bool,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

async fn healthz(Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    let health = health(&state, Instant::now(), Some(state.is_node_eligible()));
    let good = health.healthy && health.node_eligible == Some(true);
    answer(health, good, &ANSWERS.healthz)
}

async fn livez(Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    let health = health(&state, Instant::now(), None);
    let good = health.healthy;
    answer(health, good, &ANSWERS.livez)
}

/// Is the agent healthy (rule 115), whatever its node?
pub(super) fn is_healthy(state: &State, now: Instant) -> bool {
    let mut families = AddressFamily::ALL.into_iter();
    let keeps_up = families.all(|family| state.keeps_up(family, now));
    keeps_up && state.is_attached() && state.is_effective()
}

/// Healthy while starting up, and while nothing waits too long and the programs are in effect.
fn health(state: &State, now: Instant, node_eligible: Option<bool>) -> Health {
    let status: BTreeMap<_, _> = AddressFamily::ALL
        .iter()
        .map(|family| {
            let of_family = state.family(*family);
            let health = FamilyHealth {
                last_updated: text(of_family.applied_at()),
                healthy: state.keeps_up(*family, now),
            };
            (family.label(), health)
        })
        .collect();
    let (attached, effective) = (state.is_attached(), state.is_effective());
    let applied = AddressFamily::ALL
        .iter()
        .filter_map(|f| state.family(*f).applied_at());
    Health {
        last_updated: text(applied.max()),
        current_time: Timestamp::now().to_string(),
        node_eligible,
        healthy: is_healthy(state, now),
        status,
        attached,
        effective,
        synced: state.is_synced(),
    }
}

/// What never was is Go's zero time, for clients that read a time there.
fn text(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

/// A good answer was updated now, for clients that look at nothing else (rule 118).
fn answer(mut health: Health, good: bool, count: &'static [AtomicU64; 2]) -> impl IntoResponse {
    let [ok, unavailable] = count;
    let (code, counter) = if good {
        health.last_updated.clone_from(&health.current_time);
        (StatusCode::OK, ok)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, unavailable)
    };
    counter.fetch_add(1, Relaxed);
    // Strings, booleans and maps with string keys always serialise.
    let body = serde_json::to_string(&health).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (code, headers, body)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::{attached::Attachment, devices::DeviceStatus};

    fn attachment(attached: bool, effective: bool) -> Attachment {
        Attachment {
            program: "lb_connect4",
            hook: "cgroup/connect4",
            program_id: attached.then_some(7),
            attached,
            effective,
            problem: (!effective).then(|| "gone".to_owned()),
        }
    }

    #[test]
    fn an_agent_that_starts_up_is_healthy_but_not_synced() {
        let state = State::default();
        let health = health(&state, Instant::now(), None);
        assert!(health.healthy && health.attached && health.effective);
        assert!(!health.synced);
        state.set_synced();
        assert!(super::health(&state, Instant::now(), None).synced);
    }

    #[test]
    fn a_program_that_the_hook_does_not_run_is_unhealthy() {
        let state = State::default();
        state.note_attachments(&[attachment(true, false)]);
        let health = health(&state, Instant::now(), None);
        assert!(health.attached && !health.effective && !health.healthy);
        state.note_attachments(&[attachment(true, true)]);
        assert!(super::health(&state, Instant::now(), None).healthy);
    }

    #[test]
    fn a_device_that_is_not_served_is_unhealthy() {
        let device = |problem: Option<&str>| DeviceStatus {
            device: "eth0".to_owned(),
            index: 2,
            roles: vec!["uplink"],
            masquerade: Vec::new(),
            programs: Vec::new(),
            problem: problem.map(str::to_owned),
        };
        let state = State::default();
        state.note_devices(vec![device(Some("no program runs there"))]);
        let health = health(&state, Instant::now(), None);
        assert!(!health.attached && !health.healthy);
        state.note_devices(vec![device(None)]);
        assert!(super::health(&state, Instant::now(), None).healthy);
    }

    #[test]
    fn one_family_that_waits_too_long_is_named() {
        let state = State::default();
        state.queued(AddressFamily::IPv6);
        let later = Instant::now() + Duration::from_secs(61);
        let health = health(&state, later, Some(true));
        assert!(!health.healthy);
        assert!(health.status["IPv4"].healthy && !health.status["IPv6"].healthy);
    }

    #[test]
    fn a_change_may_wait_for_twice_the_sync_period() {
        let state = State::new(Duration::from_secs(5));
        state.queued(AddressFamily::IPv4);
        for (after, is_healthy) in [(9, true), (11, false)] {
            let then = Instant::now() + Duration::from_secs(after);
            assert_eq!(health(&state, then, None).healthy, is_healthy, "{after} s");
            assert_eq!(super::is_healthy(&state, then), is_healthy, "{after} s");
        }
    }

    #[test]
    fn a_good_answer_was_updated_now() {
        let state = State::default();
        let health = health(&state, Instant::now(), Some(true));
        assert_eq!(health.last_updated, NEVER);
        let now = health.current_time.clone();
        let response = answer(health, true, &ANSWERS.livez).into_response();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert!(!now.is_empty());
    }
}
