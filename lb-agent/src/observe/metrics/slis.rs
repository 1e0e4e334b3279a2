//! `/metrics/slis`: what is well and what is not, one by one, and how often that was asked, under the names that all
//! of Kubernetes has for it.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use prometheus_client::collector::Collector;

use super::{Encoder, counters, gauges};
use crate::observe::{AddressFamily, State, health::ANSWERS};

#[derive(Debug)]
pub(super) struct Slis(pub(super) Arc<State>);

impl Collector for Slis {
    fn encode(&self, mut encoder: Encoder<'_>) -> fmt::Result {
        let (state, now) = (&self.0, Instant::now());
        let families = AddressFamily::ALL.into_iter();
        let syncs = families.map(|family| (family.label(), "livez", state.keeps_up(family, now)));
        let checks = [
            ("attached", "livez", state.is_attached()),
            ("effective", "livez", state.is_effective()),
            ("node", "healthz", state.is_node_eligible()),
        ];
        let samples = checks
            .into_iter()
            .chain(syncs)
            .map(|(name, kind, is_good)| ([("name", name), ("type", kind)], u64::from(is_good)));
        let help = "This metric records the result of a single healthcheck.";
        gauges(&mut encoder, "kubernetes_healthcheck", help, samples)?;
        let asked = [("healthz", &ANSWERS.healthz), ("livez", &ANSWERS.livez)];
        let samples = asked.into_iter().flat_map(|(kind, counts)| {
            let outcomes = ["success", "error"].into_iter().zip(counts);
            outcomes.map(move |(status, count)| {
                let labels = [("name", "proxy"), ("status", status), ("type", kind)];
                (labels, count.load(Relaxed))
            })
        });
        let help = "This metric records the results of all healthcheck.";
        counters(&mut encoder, "kubernetes_healthchecks", help, samples)
    }
}
