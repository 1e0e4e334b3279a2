//! Requests to the API server, as client-go counts them: dashboards of kube-proxy look at them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;

/// Seconds, client-go's buckets.
const BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];

/// What was asked so far, by method and outcome.
#[derive(Debug, Default)]
pub struct Requests {
    host: OnceLock<String>,
    counts: Mutex<BTreeMap<(String, String), u64>>,
    durations: Mutex<BTreeMap<String, Histogram>>,
}

impl Requests {
    /// The server that is asked, once for all.
    pub fn set_host(&self, host: &str) {
        self.host.get_or_init(|| host.to_owned());
    }

    /// One request and what came of it: an HTTP status, or none.
    pub fn count(&self, method: &str, status: Option<u16>, took: Duration) {
        let code = status.map_or_else(|| "<error>".to_owned(), |status| status.to_string());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((method.to_owned(), code)).or_default() += 1;
        let mut durations = self
            .durations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let durations = durations
            .entry(method.to_owned())
            .or_insert_with(|| Histogram::new(BUCKETS));
        durations.observe(took.as_secs_f64());
    }

    pub(super) fn host(&self) -> &str {
        self.host.get().map_or("", String::as_str)
    }

    /// Method, code, count.
    pub(super) fn counts(&self) -> Vec<(String, String, u64)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let all = counts.iter();
        all.map(|((method, code), count)| (method.clone(), code.clone(), *count))
            .collect()
    }

    pub(super) fn durations(&self) -> Vec<(String, Histogram)> {
        let durations = self
            .durations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all = durations.iter();
        all.map(|(method, durations)| (method.clone(), durations.clone()))
            .collect()
    }
}
