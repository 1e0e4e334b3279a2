//! kube-proxy's metrics, as far as they mean something here, under its names, types and labels (section 1.Q of the
//! behaviour list). Those of iptables, ipvs and nftables are kube-proxy's alone, as are those of its conntrack
//! cleaner: there is none here.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeMetric as _,
    metrics::{MetricType, gauge::ConstGauge, histogram::Histogram},
};

use super::{Encoder, counters, gauge, gauges};
use crate::observe::{AddressFamily, State, health::ANSWERS, sync::FamilySync};

/// Name, help, and where it is.
type OfHistogram = (&'static str, &'static str, fn(&FamilySync) -> &Histogram);
type OfTime = (
    &'static str,
    &'static str,
    fn(&FamilySync) -> Option<Timestamp>,
);

const HISTOGRAMS: [OfHistogram; 4] = [
    (
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "SyncProxyRules latency in seconds",
        |family| &family.durations,
    ),
    (
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "SyncProxyRules latency in seconds for full resyncs",
        |family| &family.full,
    ),
    (
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "SyncProxyRules latency in seconds for partial resyncs",
        |family| &family.partial,
    ),
    (
        "kubeproxy_network_programming_duration_seconds",
        "In Cluster Network Programming Latency in seconds",
        |family| &family.programming,
    ),
];

const TIMES: [OfTime; 2] = [
    (
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "The last time proxy rules were successfully synced",
        FamilySync::applied_at,
    ),
    (
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "The last time a sync of proxy rules was queued",
        FamilySync::queued_at,
    ),
];

pub(super) fn encode(encoder: &mut Encoder<'_>, state: &State) -> fmt::Result {
    for (name, help, histogram) in HISTOGRAMS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for family in AddressFamily::ALL {
            let label = [("ip_family", family.label())];
            histogram(state.family(family)).encode(metric.encode_family(&label)?)?;
        }
    }
    for (name, help, time) in TIMES {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for family in AddressFamily::ALL {
            let label = [("ip_family", family.label())];
            let at = time(state.family(family)).map_or(0.0, |at| at.as_duration().as_secs_f64());
            ConstGauge::new(at).encode(metric.encode_family(&label)?)?;
        }
    }
    changes(encoder, state)?;
    no_local(encoder, state)?;
    answers(encoder)?;
    requests(encoder, state)
}

fn changes(encoder: &mut Encoder<'_>, state: &State) -> fmt::Result {
    let kinds = ["service", "endpoint"];
    for ((kind, all), pending) in kinds.into_iter().zip(state.changes()).zip(state.pending()) {
        let name = format!("kubeproxy_sync_proxy_rules_{kind}_changes");
        let help = format!("Cumulative proxy rules {kind} changes");
        counters(encoder, &name, &help, [([("", ""); 0], all)])?;
        let help = format!("Pending proxy rules {kind} changes");
        gauge(encoder, &format!("{name}_pending"), &help, pending)?;
    }
    Ok(())
}

/// A gauge, despite its name.
fn no_local(encoder: &mut Encoder<'_>, state: &State) -> fmt::Result {
    let samples = AddressFamily::ALL.into_iter().flat_map(|family| {
        let counts = state.family(family).no_local();
        let by_policy = [("internal", counts.internal), ("external", counts.external)];
        by_policy.map(|(policy, count)| {
            let labels = [("ip_family", family.label()), ("traffic_policy", policy)];
            (labels, count)
        })
    });
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    let help = "Number of services with a Local traffic policy and no endpoints";
    gauges(encoder, name, help, samples)
}

fn answers(encoder: &mut Encoder<'_>) -> fmt::Result {
    for (name, help, counts) in [
        (
            "kubeproxy_proxy_healthz",
            "Cumulative proxy healthz HTTP status",
            &ANSWERS.healthz,
        ),
        (
            "kubeproxy_proxy_livez",
            "Cumulative proxy livez HTTP status",
            &ANSWERS.livez,
        ),
    ] {
        let counted = ["200", "503"].into_iter().zip(counts);
        let samples =
            counted.map(|(code, count): (_, &AtomicU64)| ([("code", code)], count.load(Relaxed)));
        counters(encoder, name, help, samples)?;
    }
    Ok(())
}

/// Under client-go's names.
fn requests(encoder: &mut Encoder<'_>, state: &State) -> fmt::Result {
    let requests = state.requests();
    let (host, all) = (requests.host(), requests.counts());
    let samples = all.iter().map(|(method, code, count)| {
        let labels = [("code", code.as_str()), ("host", host), ("method", method)];
        (labels, *count)
    });
    let help = "Number of HTTP requests, partitioned by status code, method, and host";
    counters(encoder, "rest_client_requests", help, samples)?;
    let help = "Request latency in seconds, broken down by verb, and host";
    let name = "rest_client_request_duration_seconds";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (method, durations) in requests.durations() {
        let labels = [("host", host), ("verb", &method)];
        durations.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
