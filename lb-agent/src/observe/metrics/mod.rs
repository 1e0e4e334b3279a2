//! Prometheus metrics, and the other paths of kube-proxy's metrics server (rule 121).
//!
//! | where | what |
//! |---|---|
//! | `own` | metrics of this agent, `lb_*` |
//! | `proxy` | what kube-proxy has and means something here, under kube-proxy's names, types and labels |
//! | `process` | `process_*` and `kubernetes_build_info` |
//! | `slis` | `/metrics/slis` |
//! | `text` | the older of the two text formats |

mod own;
mod process;
mod proxy;
mod slis;
mod text;

use std::{fmt, path::Path, sync::Arc};

use axum::{
    Router,
    extract::State as Shared,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use serde_json::{Value, json};

use self::own::MapReader;
use super::state::State;

/// The newer format, for who asks for it.
const OPENMETRICS: &str = "application/openmetrics-text";
const OPENMETRICS_KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_KIND: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The key of `/configz` that kube-proxy's configuration is under.
const CONFIG: &str = "kubeproxy.config.k8s.io";

/// The registries of one agent and its paths.
pub fn router(state: Arc<State>, bpffs_root: &Path, config: Value) -> Router {
    let all = registry(Metrics {
        state: Arc::clone(&state),
        maps: MapReader::new(bpffs_root),
    });
    let slis = registry(slis::Slis(state));
    let config = Arc::new(json!({ CONFIG: config }).to_string());
    let config = move || async move {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (kind, config.as_str().to_owned())
    };
    Router::new()
        .route("/metrics", get(metrics).with_state(all))
        .route("/metrics/slis", get(metrics).with_state(slis))
        .route("/healthz", get(|| async { "ok" }))
        .route("/proxyMode", get(proxy_mode))
        .route("/configz", get(config))
}

fn registry(collector: impl Collector) -> Arc<Registry> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector));
    Arc::new(registry)
}

async fn metrics(Shared(registry): Shared<Arc<Registry>>, asked: HeaderMap) -> Response {
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &registry).map(|()| text)
    });
    let Ok(Ok(text)) = encoded.await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if takes_openmetrics(&asked) {
        ([(header::CONTENT_TYPE, OPENMETRICS_KIND)], text).into_response()
    } else {
        let text = text::older(&text);
        ([(header::CONTENT_TYPE, TEXT_KIND)], text).into_response()
    }
}

fn takes_openmetrics(asked: &HeaderMap) -> bool {
    let accept = asked
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|kinds| kinds.contains(OPENMETRICS))
}

async fn proxy_mode() -> impl IntoResponse {
    ([(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], "ebpf")
}

type Encoder<'a> = DescriptorEncoder<'a>;

/// Everything, read when it is asked for.
#[derive(Debug)]
struct Metrics {
    state: Arc<State>,
    maps: MapReader,
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: Encoder<'_>) -> fmt::Result {
        own::encode(&mut encoder, &self.state, &self.maps.read())?;
        proxy::encode(&mut encoder, &self.state)?;
        process::encode(&mut encoder)
    }
}

/// Labels and value of one sample.
type Sample<'a, const N: usize> = ([(&'a str, &'a str); N], u64);

fn gauge(encoder: &mut Encoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    gauges(encoder, name, help, [([("", ""); 0], value)])
}

fn gauges<'a, const N: usize>(
    encoder: &mut Encoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a, N>>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        if N == 0 {
            return value.encode(metric);
        }
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// `name` without `_total`, which is added.
fn counters<'a, const N: usize>(
    encoder: &mut Encoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a, N>>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        let value = ConstCounter::new(value);
        if N == 0 {
            return value.encode(metric);
        }
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
