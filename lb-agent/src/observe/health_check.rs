//! The healthCheckNodePort servers (rules 103 to 112): load balancers ask each node whether it has endpoints of a
//! Service. One listener for each port and address; whom it answers for is looked up at each request, so a port
//! that goes from one Service to another is never closed in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State as Shared,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::sleep,
};

use super::{
    health,
    notice::{Notice, Notices},
    state::State,
};
use crate::{model::ObjectKey, plan::HealthChecks};

/// Pause before an address that could not be listened on is tried again.
const RETRY: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 128;
const WEIGHT: &str = "X-Load-Balancing-Endpoint-Weight";

/// Follows what is wanted; never ends by itself.
pub async fn run(
    state: Arc<State>,
    node: String,
    mut wanted: watch::Receiver<Arc<HealthChecks>>,
    notices: Notices,
) {
    let mut servers = Servers {
        state,
        node,
        wanted: wanted.clone(),
        notices,
        open: BTreeMap::new(),
        failing: BTreeSet::new(),
        taken: BTreeSet::new(),
    };
    loop {
        let now = Arc::clone(&wanted.borrow_and_update());
        servers.follow(&now);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = sleep(RETRY), if !servers.failing.is_empty() => {}
        }
    }
}

struct Servers {
    state: Arc<State>,
    node: String,
    wanted: watch::Receiver<Arc<HealthChecks>>,
    notices: Notices,
    /// Dropping the sender ends the server.
    open: BTreeMap<SocketAddr, oneshot::Sender<()>>,
    /// Told already.
    failing: BTreeSet<(SocketAddr, ObjectKey)>,
    taken: BTreeSet<ObjectKey>,
}

impl Servers {
    fn follow(&mut self, wanted: &HealthChecks) {
        let places = wanted.places();
        self.open.retain(|place, _| places.contains(place));
        let before = std::mem::take(&mut self.failing);
        for place in places {
            if self.open.contains_key(&place) {
                continue;
            }
            let Some(check) = wanted.checks.get(&place.port()) else {
                continue;
            };
            match listen(place) {
                Ok(listener) => {
                    tracing::info!(service = %check.service, address = %place, "answers health checks");
                    let stop = self.serve(listener, place);
                    self.open.insert(place, stop);
                }
                Err(error) => {
                    let failure = (place, check.service.clone());
                    if !before.contains(&failure) {
                        self.tell(&check.service, &format!("on {place}: {error}"));
                    }
                    self.failing.insert(failure);
                }
            }
        }
        for (service, (port, first)) in &wanted.taken {
            if !self.taken.contains(service) {
                let why = format!("on port {port}: it is that of Service {first}");
                self.tell(service, &why);
            }
        }
        self.taken = wanted.taken.keys().cloned().collect();
    }

    /// Rule 112.
    fn tell(&self, service: &ObjectKey, why: &str) {
        tracing::warn!(%service, "health checks of the load balancer are not answered {why}; tried again every 5 s");
        let note = format!(
            "node {} cannot answer health checks of the load balancer {why}",
            self.node
        );
        self.notices
            .tell(Notice::health_check_failed(service.clone(), note));
    }

    fn serve(&self, listener: TcpListener, place: SocketAddr) -> oneshot::Sender<()> {
        let (stop, stopped) = oneshot::channel::<()>();
        let asked = Asked {
            state: Arc::clone(&self.state),
            wanted: self.wanted.clone(),
            place,
        };
        let router = Router::new().fallback(answer).with_state(asked);
        tokio::spawn(async move {
            let ended = axum::serve(listener, router).with_graceful_shutdown(async {
                // Resolves when the sender is dropped, which is the sign.
                stopped.await.ok();
            });
            if let Err(error) = ended.await {
                tracing::warn!(address = %place, %error, "a health check server has ended");
            }
        });
        stop
    }
}

/// An IPv6 socket takes IPv6 alone, for IPv4 has its own.
fn listen(place: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(place),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if place.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&place.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[derive(Clone)]
struct Asked {
    state: Arc<State>,
    wanted: watch::Receiver<Arc<HealthChecks>>,
    place: SocketAddr,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// Any path, any method (rule 105).
async fn answer(Shared(asked): Shared<Asked>) -> Response {
    let wanted = Arc::clone(&asked.wanted.borrow());
    match wanted.checks.get(&asked.place.port()) {
        Some(check) => {
            let local = check.local_endpoints(asked.place.ip());
            let healthy = health::is_healthy(&asked.state, Instant::now());
            respond(&check.service, local, healthy)
        }
        // On a connection from before the Service went.
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Rules 106 to 108.
fn respond(service: &ObjectKey, local_endpoints: usize, healthy: bool) -> Response {
    let code = if local_endpoints > 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = Body {
        service: Name {
            namespace: &service.namespace,
            name: &service.name,
        },
        local_endpoints,
        service_proxy_healthy: healthy,
    };
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json".to_owned()),
        (
            header::X_CONTENT_TYPE_OPTIONS.as_str(),
            "nosniff".to_owned(),
        ),
        (WEIGHT, local_endpoints.to_string()),
    ];
    (code, headers, tabbed(&body)).into_response()
}

fn tabbed(body: &Body<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
    // Strings, a number and a switch always serialise, and memory takes them.
    body.serialize(&mut writer).ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_indented_by_tabs() {
        let body = Body {
            service: Name {
                namespace: "shop",
                name: "web",
            },
            local_endpoints: 2,
            service_proxy_healthy: true,
        };
        let want = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(String::from_utf8_lossy(&tabbed(&body)), want);
    }

    #[test]
    fn good_is_only_a_healthy_agent_with_an_endpoint_here() {
        let service = ObjectKey::new("shop", "web");
        for (local, healthy, want) in [
            (2, true, StatusCode::OK),
            (0, true, StatusCode::SERVICE_UNAVAILABLE),
            (2, false, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let response = respond(&service, local, healthy);
            assert_eq!(response.status(), want, "{local} {healthy}");
            let headers = response.headers();
            assert_eq!(headers["content-type"], "application/json");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers[WEIGHT.to_lowercase()], local.to_string());
        }
    }
}
