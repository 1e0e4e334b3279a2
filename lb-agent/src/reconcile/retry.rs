//! Services whose last write failed: tried again with growing pauses, reported when it begins and
//! when it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::model::ObjectKey;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Failure {
    reason: String,
    pause: Duration,
    at: Instant,
}

/// Who failed, and when to try again.
#[derive(Debug, Default)]
pub struct Retry {
    failures: BTreeMap<ObjectKey, Failure>,
}

impl Retry {
    /// The write failed.
    pub fn failed(&mut self, key: &ObjectKey, reason: &str, now: Instant) {
        let before = self.failures.get(key);
        if before.is_none_or(|failure| failure.reason != reason) {
            tracing::error!(service = %key, "not applied, what was in force stays: {reason}");
        }
        let pause = before.map_or(FIRST, |failure| (failure.pause * 2).min(LONGEST));
        self.failures.insert(
            key.clone(),
            Failure {
                reason: reason.to_owned(),
                pause,
                at: now + pause,
            },
        );
    }

    /// The write succeeded.
    pub fn succeeded(&mut self, key: &ObjectKey) {
        if self.failures.remove(key).is_some() {
            tracing::info!(service = %key, "applied after failures");
        }
    }

    /// Is this one waiting for another try?
    pub fn has(&self, key: &ObjectKey) -> bool {
        self.failures.contains_key(key)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.failures.len()
    }

    /// Is one due?
    pub fn is_due(&self, now: Instant) -> bool {
        self.failures.values().any(|failure| failure.at <= now)
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.at).min()
    }

    /// Those that are due.
    pub fn take_due(&self, now: Instant) -> BTreeSet<ObjectKey> {
        let due = self
            .failures
            .iter()
            .filter(|(_, failure)| failure.at <= now);
        due.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute_and_end_with_success() {
        let (mut retry, key, start) = (
            Retry::default(),
            ObjectKey::new("shop", "web"),
            Instant::now(),
        );
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            retry.failed(&key, "map LB4_SLOTS is full", start);
            assert_eq!(retry.next(), Some(start + Duration::from_secs(pause)));
        }
        assert!(!retry.is_due(start + Duration::from_secs(59)));
        assert_eq!(
            retry.take_due(start + Duration::from_secs(60)),
            BTreeSet::from([key.clone()])
        );
        retry.succeeded(&key);
        assert_eq!((retry.len(), retry.next()), (0, None));
    }
}
