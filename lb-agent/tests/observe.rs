//! The servers of `observe` as clients meet them, on loopback: no privileges, no maps.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_agent::observe::{AddressFamily, Applied, Servers, State, notice::Notices, serve};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A running pair of servers; ends with its runtime.
struct Served {
    _runtime: Runtime,
    state: Arc<State>,
    healthz: SocketAddr,
    metrics: SocketAddr,
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

fn start(healthz: SocketAddr, metrics: SocketAddr) -> Served {
    let state = Arc::new(State::default());
    let runtime = Runtime::new().expect("a runtime");
    let servers = Servers {
        healthz: Some(healthz),
        metrics: Some(metrics),
        hard_fail: false,
        bpffs_root: "/nowhere".into(),
        cgroup: "/nowhere".into(),
        config: json!({"kind": "KubeProxyConfiguration"}),
    };
    let (notices, _) = Notices::channel();
    runtime.spawn(serve(Arc::clone(&state), servers, notices));
    Served {
        _runtime: runtime,
        state,
        healthz,
        metrics,
    }
}

/// Status, head and body; tries until something listens.
fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    get_as(address, path, "*/*")
}

fn get_as(address: SocketAddr, path: &str, accept: &str) -> (u16, String, String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    write!(stream, "GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head.split(' ').nth(1).expect("a status").parse();
    (
        status.expect("a number"),
        head.to_lowercase(),
        body.to_owned(),
    )
}

#[test]
fn healthz_also_asks_whether_the_node_is_eligible() {
    let served = start(free(), free());
    assert_eq!(get(served.healthz, "/healthz").0, 200);
    served.state.set_node_eligible(false);
    let (status, head, body) = get(served.healthz, "/healthz");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 503);
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert_eq!(
        (&body["nodeEligible"], &body["healthy"]),
        (&false.into(), &true.into())
    );
    let (status, _, body) = get(served.healthz, "/livez");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 200, "livez ignores the node");
    assert_eq!(body.get("nodeEligible"), None);
    assert_eq!(body["status"]["IPv6"]["healthy"], true);
    served.state.set_node_eligible(true);
    let (status, _, body) = get(served.healthz, "/healthz");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["nodeEligible"]), (200, &true.into()));
    assert_eq!(body["lastUpdated"], body["currentTime"], "rule 118");
    assert_eq!(get(served.healthz, "/other").0, 404);
}

#[test]
fn the_metrics_server_answers_the_paths_of_kube_proxy() {
    let served = start(free(), free());
    assert_eq!(get(served.metrics, "/healthz").2, "ok");
    let (status, head, mode) = get(served.metrics, "/proxyMode");
    assert_eq!((status, mode.as_str()), (200, "ebpf"));
    assert!(head.contains("content-type: text/plain"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    served.state.applied(
        AddressFamily::IPv4,
        Applied::in_part(Duration::from_millis(1)),
    );
    let (status, head, text) = get(served.metrics, "/metrics");
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let name = "kubeproxy_proxy_livez";
    assert!(text.contains(&format!("# TYPE {name}_total counter\n")));
    let openmetrics = "application/openmetrics-text;version=1.0.0";
    let (_, head, newer) = get_as(served.metrics, "/metrics", openmetrics);
    assert!(
        head.contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    assert!(newer.contains(&format!("# TYPE {name} counter\n")) && newer.ends_with("# EOF\n"));
    assert!(
        text.contains("lb_apply_duration_seconds_count{ip_family=\"IPv4\"} 1\n"),
        "{text}"
    );
    let (_, head, config) = get(served.metrics, "/configz");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert!(head.contains("content-type: application/json"), "{head}");
    let kind = &config["kubeproxy.config.k8s.io"]["kind"];
    assert_eq!(kind, "KubeProxyConfiguration");
    let (_, _, slis) = get(served.metrics, "/metrics/slis");
    for line in [
        "kubernetes_healthcheck{name=\"attached\",type=\"livez\"} 1",
        "kubernetes_healthcheck{name=\"node\",type=\"healthz\"} 1",
        "kubernetes_healthcheck{name=\"IPv6\",type=\"livez\"} 1",
    ] {
        assert!(slis.lines().any(|l| l == line), "{slis}");
    }
    assert!(slis.contains("kubernetes_healthchecks_total{"), "{slis}");
    assert_eq!(get(served.metrics, "/other").0, 404);
}

#[test]
fn an_address_that_is_taken_is_served_once_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let served = start(address, free());
    assert_eq!(
        get(served.metrics, "/healthz").0,
        200,
        "the other server goes on"
    );
    drop(taken);
    assert_eq!(get(address, "/livez").0, 200);
}
