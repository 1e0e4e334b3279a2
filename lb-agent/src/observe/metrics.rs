//! Prometheus metrics, and the other paths of kube-proxy's metrics server (rule 121).
//!
//! | metric | type | labels |
//! |---|---|---|
//! | `lb_socket_events_total` | counter | `reason`: hits and refusals, the labels of `lb_common::reason` |
//! | `lb_map_entries`, `lb_map_capacity` | gauge | `map` |
//! | `lb_objects_skipped`, `lb_services_failed`, `lb_synced` | gauge | |
//! | `lb_programs_attached`, `lb_programs_effective` | gauge | 1 when all are |
//! | `lb_drift_repaired_total` | counter | |
//! | `lb_flows`, `lb_flow_entries_swept_total` | gauge, counter | `ip_family` |
//! | `lb_apply_duration_seconds` | histogram | `ip_family` |
//!
//! Where kube-proxy has the very thing, it is there under kube-proxy's name, too.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{
    Router,
    extract::State as Shared,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use lb_common::reason::Counter;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    health::ANSWERS,
    state::{AddressFamily, State},
};
use crate::maps::pinned::{Fill, Pinned, PinnedError};

/// The registry of one agent and its paths.
pub fn router(state: Arc<State>, bpffs_root: &Path) -> Router {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Metrics {
        state,
        maps: MapReader {
            root: bpffs_root.to_owned(),
            last: RwLock::default(),
        },
    }));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok" }))
        .route("/proxyMode", get(proxy_mode))
        .with_state(Arc::new(registry))
}

async fn metrics(Shared(registry): Shared<Arc<Registry>>) -> impl IntoResponse {
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &registry).map(|()| text)
    });
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match encoded.await {
        Ok(Ok(text)) => Ok(([(header::CONTENT_TYPE, kind)], text)),
        Ok(Err(_)) | Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn proxy_mode() -> impl IntoResponse {
    ([(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], "ebpf")
}

/// Everything, read when it is asked for.
#[derive(Debug)]
struct Metrics {
    state: Arc<State>,
    maps: MapReader,
}

/// Counters and fills of the pinned maps. When they cannot be read, the last ones stand: a counter
/// that fell would look like a restart.
#[derive(Debug)]
struct MapReader {
    root: PathBuf,
    last: RwLock<Readings>,
}

#[derive(Clone, Default, Debug)]
struct Readings {
    counters: Vec<(Counter, u64)>,
    fills: Vec<Fill>,
}

impl MapReader {
    fn read(&self) -> Readings {
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        match self.readings() {
            Ok(readings) => *last = readings,
            Err(error) => tracing::debug!(%error, "maps cannot be read for metrics"),
        }
        last.clone()
    }

    fn readings(&self) -> Result<Readings, PinnedError> {
        let pinned = Pinned::open(&self.root)?;
        Ok(Readings {
            counters: pinned.counters()?,
            fills: pinned.fills()?,
        })
    }
}

type Encoder<'a> = DescriptorEncoder<'a>;

impl Collector for Metrics {
    fn encode(&self, mut encoder: Encoder<'_>) -> fmt::Result {
        let readings = self.maps.read();
        socket_events(&mut encoder, &readings.counters)?;
        map_fills(&mut encoder, &readings.fills)?;
        self.objects(&mut encoder)?;
        self.programs(&mut encoder)?;
        self.flows(&mut encoder)?;
        self.applies(&mut encoder)?;
        self.answers(&mut encoder)?;
        self.requests(&mut encoder)
    }
}

fn socket_events(encoder: &mut Encoder<'_>, counters: &[(Counter, u64)]) -> fmt::Result {
    let help = "What the socket programs did, by reason";
    let mut family =
        encoder.encode_descriptor("lb_socket_events", help, None, MetricType::Counter)?;
    for (counter, count) in counters {
        let label = [("reason", counter.label())];
        ConstCounter::new(*count).encode(family.encode_family(&label)?)?;
    }
    Ok(())
}

fn map_fills(encoder: &mut Encoder<'_>, fills: &[Fill]) -> fmt::Result {
    let size = |fill: &Fill| i64::try_from(fill.entries).unwrap_or(i64::MAX);
    let mut entries =
        encoder.encode_descriptor("lb_map_entries", "Entries in use", None, MetricType::Gauge)?;
    for fill in fills {
        let label = [("map", fill.spec.name)];
        ConstGauge::new(size(fill)).encode(entries.encode_family(&label)?)?;
    }
    let mut capacity = encoder.encode_descriptor(
        "lb_map_capacity",
        "Entries that fit",
        None,
        MetricType::Gauge,
    )?;
    for fill in fills {
        let label = [("map", fill.spec.name)];
        ConstGauge::new(i64::from(fill.capacity)).encode(capacity.encode_family(&label)?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut Encoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

impl Metrics {
    fn objects(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let state = &self.state;
        gauge(
            encoder,
            "lb_objects_skipped",
            "Objects left out, for they are bad",
            state.skipped(),
        )?;
        gauge(
            encoder,
            "lb_services_failed",
            "Service ports whose last change could not be applied",
            state.failed(),
        )?;
        gauge(
            encoder,
            "lb_synced",
            "The maps are complete",
            u64::from(state.is_synced()),
        )?;
        let help = "Map entries that somebody else had changed";
        let metric =
            encoder.encode_descriptor("lb_drift_repaired", help, None, MetricType::Counter)?;
        ConstCounter::new(state.repaired()).encode(metric)
    }

    fn programs(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let state = &self.state;
        gauge(
            encoder,
            "lb_programs_attached",
            "Every program is attached",
            u64::from(state.is_attached()),
        )?;
        gauge(
            encoder,
            "lb_programs_effective",
            "Every hook runs our program",
            u64::from(state.is_effective()),
        )
    }

    fn flows(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let help = "Flows of packets that live, as of the last time through the table";
        let mut flows = encoder.encode_descriptor("lb_flows", help, None, MetricType::Gauge)?;
        for family in AddressFamily::ALL {
            let label = [("ip_family", family.label())];
            let count = i64::try_from(self.state.flows(family)).unwrap_or(i64::MAX);
            ConstGauge::new(count).encode(flows.encode_family(&label)?)?;
        }
        let help = "Entries of flows of packets that were over";
        let name = "lb_flow_entries_swept";
        let mut swept = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for family in AddressFamily::ALL {
            let label = [("ip_family", family.label())];
            ConstCounter::new(self.state.swept(family)).encode(swept.encode_family(&label)?)?;
        }
        Ok(())
    }

    fn applies(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        for (name, help) in [
            ("lb_apply_duration_seconds", "Applying a batch of changes"),
            (
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
            ),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for family in AddressFamily::ALL {
                let label = [("ip_family", family.label())];
                let durations = &self.state.family(family).durations;
                durations.encode(metric.encode_family(&label)?)?;
            }
        }
        type Time = fn(&State, AddressFamily) -> Option<jiff::Timestamp>;
        let times: [(&str, &str, Time); 2] = [
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                |state, family| state.family(family).applied_at(),
            ),
            (
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
                |state, family| state.family(family).queued_at(),
            ),
        ];
        for (name, help, time) in times {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for family in AddressFamily::ALL {
                let label = [("ip_family", family.label())];
                let at = time(&self.state, family).map_or(0.0, |at| at.as_duration().as_secs_f64());
                ConstGauge::new(at).encode(metric.encode_family(&label)?)?;
            }
        }
        Ok(())
    }

    /// Under client-go's names.
    fn requests(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let requests = self.state.requests();
        let host = requests.host();
        let help = "Number of HTTP requests, partitioned by status code, method, and host";
        let name = "rest_client_requests";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (method, code, count) in requests.counts() {
            let labels = [("code", code.as_str()), ("host", host), ("method", &method)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        let help = "Request latency in seconds, broken down by verb and host";
        let name = "rest_client_request_duration_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (method, durations) in requests.durations() {
            let labels = [("host", host), ("verb", &method)];
            durations.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn answers(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        for (name, help, counts) in [
            (
                "kubeproxy_proxy_healthz",
                "Answers of /healthz",
                &ANSWERS.healthz,
            ),
            ("kubeproxy_proxy_livez", "Answers of /livez", &ANSWERS.livez),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            let counted = ["200", "503"].into_iter().zip(counts);
            for (code, count) in
                counted.map(|(code, count): (_, &AtomicU64)| (code, count.load(Relaxed)))
            {
                ConstCounter::new(count).encode(metric.encode_family(&[("code", code)])?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_common::map_table::find;

    use super::*;

    #[test]
    fn metrics_carry_the_names_that_dashboards_know() {
        let state = Arc::new(State::default());
        state.applied(AddressFamily::IPv4, Duration::from_millis(3));
        state.add_repaired(2);
        let readings = Readings {
            counters: vec![(Counter::NoEndpoints, 5)],
            fills: vec![Fill {
                spec: find("LB4_SLOTS").expect("a map"),
                entries: 3,
                capacity: 64,
            }],
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Metrics {
            state,
            maps: MapReader {
                root: "/nowhere".into(),
                last: RwLock::new(readings),
            },
        }));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a text");
        for line in [
            "lb_socket_events_total{reason=\"no_endpoints\"} 5",
            "lb_map_entries{map=\"LB4_SLOTS\"} 3",
            "lb_map_capacity{map=\"LB4_SLOTS\"} 64",
            "lb_objects_skipped 0",
            "lb_services_failed 0",
            "lb_drift_repaired_total 2",
            "lb_apply_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "lb_apply_duration_seconds_bucket{le=\"0.004\",ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 0.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
