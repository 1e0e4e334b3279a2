use std::{collections::BTreeMap, time::Duration};

use lb_common::{map_table::find, reason::Counter};

use super::{own::Readings, *};
use crate::{
    maps::pinned::Fill,
    observe::{AddressFamily, Applied},
    plan::NoLocal,
    reconcile::Counted,
};

/// The page of an agent that has done a little of everything.
fn page() -> String {
    let state = Arc::new(State::default());
    state.queued(AddressFamily::IPv4);
    state.applied(
        AddressFamily::IPv4,
        Applied::in_part(Duration::from_millis(3)),
    );
    state.programmed(AddressFamily::IPv6, Duration::from_secs(2));
    let no_local = NoLocal {
        internal: 1,
        external: 2,
    };
    state.set_no_local(AddressFamily::IPv6, no_local);
    let counted = |services, slices| Counted { services, slices };
    state.set_news(counted(8, 5), counted(2, 1));
    state.add_repaired(2);
    state.add_failures(3);
    state.requests().set_host("10.0.0.1:6443");
    let took = Duration::from_millis(7);
    state.requests().count("GET", Some(200), took);
    state.requests().count("GET", None, took);
    let readings = Readings {
        counters: vec![(Counter::NoEndpoints, 5)],
        fills: vec![Fill {
            spec: find("LB4_SLOTS").expect("a map"),
            entries: 3,
            capacity: 64,
        }],
    };
    let maps = MapReader::with(Path::new("/nowhere"), readings);
    let mut text = String::new();
    encode(&mut text, &registry(Metrics { state, maps })).expect("a text");
    text::older(&text)
}

#[test]
fn samples_say_what_the_agent_noted() {
    let text = page();
    for line in [
        "lb_socket_events_total{reason=\"no_endpoints\"} 5",
        "lb_map_entries{map=\"LB4_SLOTS\"} 3",
        "lb_map_capacity{map=\"LB4_SLOTS\"} 64",
        "lb_objects_skipped 0",
        "lb_services_failed 0",
        "lb_service_failures_total 3",
        "lb_drift_repaired_total 2",
        "lb_apply_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "lb_apply_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 0",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"1.0\",ip_family=\"IPv6\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"2.0\",ip_family=\"IPv6\"} 1",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\",ip_family=\"IPv6\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"115.0\",ip_family=\"IPv6\"} 1",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"300.0\",ip_family=\"IPv6\"} 1",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv6\"} 0.0",
        "kubeproxy_sync_proxy_rules_service_changes_total 8",
        "kubeproxy_sync_proxy_rules_service_changes_pending 2",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 5",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 1",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"} 2",
        "rest_client_requests_total{code=\"200\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
        "rest_client_requests_total{code=\"<error>\",host=\"10.0.0.1:6443\",method=\"GET\"} 1",
        "rest_client_request_duration_seconds_count{host=\"10.0.0.1:6443\",verb=\"GET\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

/// Section 1.Q of the behaviour list: those that mean something here.
const OF_KUBE_PROXY: [(&str, &str, &[&str]); 22] = [
    (
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "histogram",
        &["ip_family"],
    ),
    (
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "histogram",
        &["ip_family"],
    ),
    (
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "histogram",
        &["ip_family"],
    ),
    (
        "kubeproxy_network_programming_duration_seconds",
        "histogram",
        &["ip_family"],
    ),
    (
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "gauge",
        &["ip_family"],
    ),
    (
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "gauge",
        &["ip_family"],
    ),
    (
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "gauge",
        &[],
    ),
    (
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "counter",
        &[],
    ),
    (
        "kubeproxy_sync_proxy_rules_service_changes_pending",
        "gauge",
        &[],
    ),
    (
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "counter",
        &[],
    ),
    (
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "gauge",
        &["ip_family", "traffic_policy"],
    ),
    ("kubeproxy_proxy_healthz_total", "counter", &["code"]),
    ("kubeproxy_proxy_livez_total", "counter", &["code"]),
    (
        "kubernetes_build_info",
        "gauge",
        &[
            "build_date",
            "compiler",
            "git_commit",
            "git_tree_state",
            "git_version",
            "go_version",
            "major",
            "minor",
            "platform",
        ],
    ),
    (
        "rest_client_requests_total",
        "counter",
        &["code", "host", "method"],
    ),
    (
        "rest_client_request_duration_seconds",
        "histogram",
        &["host", "verb"],
    ),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_start_time_seconds", "gauge", &[]),
    ("process_virtual_memory_bytes", "gauge", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_max_fds", "gauge", &[]),
];

/// Names of labels, without a histogram's own.
fn labels_of(line: &str) -> Vec<&str> {
    let set = line
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let pairs = set.map_or("", |(set, _)| set).split(',');
    let names = pairs.filter_map(|pair| pair.split_once('=').map(|(name, _)| name));
    names.filter(|name| *name != "le").collect()
}

#[test]
fn names_types_and_labels_are_those_of_kube_proxy() {
    let text = page();
    let types: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    for (name, kind, labels) in OF_KUBE_PROXY {
        assert_eq!(types.get(name), Some(&kind), "{name}");
        let sample = text.lines().find(|line| line.starts_with(name));
        let sample = sample.unwrap_or_else(|| panic!("no sample of {name}"));
        let mut found = labels_of(sample);
        found.sort_unstable();
        assert_eq!(found, labels, "{name}");
    }
    for name in types.keys() {
        let is_known = OF_KUBE_PROXY.iter().any(|(known, ..)| known == name);
        assert!(name.starts_with("lb_") || is_known, "{name}");
    }
}

#[test]
fn who_asks_for_openmetrics_gets_it() {
    let asked = |accept: &'static str| {
        let accept = accept.parse().expect("a value");
        takes_openmetrics(&HeaderMap::from_iter([(header::ACCEPT, accept)]))
    };
    assert!(asked(
        "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    ));
    assert!(!asked("text/plain;version=0.0.4;q=1,*/*;q=0.1"));
    assert!(!takes_openmetrics(&HeaderMap::new()));
}

/// The dashboard of `deploy/grafana` asks for nothing that is not there.
#[test]
fn the_dashboard_knows_the_metrics_and_their_reasons() {
    let page = page();
    let dashboard = include_str!("../../../../deploy/grafana/lb-agent.json");
    let dashboard: Value = serde_json::from_str(dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let exprs: Vec<&str> = targets
        .flatten()
        .filter_map(|target| target["expr"].as_str())
        .collect();
    let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut asked = 0;
    for expr in exprs {
        for word in expr.split(|c| !is_word(c)) {
            let is_metric = ["lb_", "kubeproxy_", "process_", "rest_"]
                .iter()
                .any(|prefix| word.starts_with(prefix));
            if is_metric {
                let name = word.strip_suffix("_bucket").unwrap_or(word);
                assert!(
                    page.contains(&format!("# TYPE {name} ")),
                    "{name} in {expr}"
                );
                asked += 1;
            }
        }
        for reasons in expr.split("reason=~\"").skip(1) {
            let reasons = reasons.split('"').next().unwrap_or_default();
            for reason in reasons.split('|').filter(|reason| !reason.contains('*')) {
                let mut known = Counter::ALL.iter();
                assert!(known.any(|c| c.label() == reason), "{reason} in {expr}");
            }
        }
    }
    assert!(asked > 20, "{asked} metrics");
}
