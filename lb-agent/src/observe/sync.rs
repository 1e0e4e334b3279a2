//! How far each family's changes have come: what health and the metrics of syncs are made of (rules 115, 124 to 130).

use std::{
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};

use crate::plan::NoLocal;

/// A family of addresses; each is synced on its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "as `ipFamilies` spells them")]
pub enum AddressFamily {
    IPv4,
    IPv6,
}

impl AddressFamily {
    /// Both.
    pub const ALL: [Self; 2] = [Self::IPv4, Self::IPv6];

    /// As `ipFamilies` spells it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }
}

/// What came of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// From its begin to its end, the kernel included.
    pub took: Duration,
    /// Everything was looked at.
    pub is_full: bool,
    /// Nothing waits for another try.
    pub is_success: bool,
    /// Not one Service can be applied. One that cannot, for it does not fit, leaves the node healthy: it would not fit
    /// elsewhere either, and load balancers would be left without any node.
    pub is_stuck: bool,
}

impl Applied {
    /// All went well with what had changed.
    pub const fn in_part(took: Duration) -> Self {
        Self {
            took,
            is_full: false,
            is_success: true,
            is_stuck: false,
        }
    }
}

/// One family's changes.
#[derive(Debug)]
pub(super) struct FamilySync {
    /// The oldest change that is not applied.
    pending: RwLock<Option<Instant>>,
    /// Milliseconds since 1970; 0: never.
    queued_ms: AtomicI64,
    /// Milliseconds since 1970; 0: never.
    applied_ms: AtomicI64,
    /// Seconds from an apply's begin to its end.
    pub(super) durations: Histogram,
    pub(super) full: Histogram,
    pub(super) partial: Histogram,
    /// Seconds from when a change of endpoints came to pass until it was in force.
    pub(super) programming: Histogram,
    no_local: [AtomicU64; 2],
}

impl Default for FamilySync {
    fn default() -> Self {
        // Section 1.Q: 0.001 x 2^n, 15 buckets.
        let syncs = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let waits = linear_buckets(0.25, 0.25, 2)
            .chain(linear_buckets(1.0, 1.0, 59))
            .chain(linear_buckets(60.0, 5.0, 12))
            .chain(linear_buckets(120.0, 30.0, 7));
        Self {
            pending: RwLock::new(None),
            queued_ms: AtomicI64::new(0),
            applied_ms: AtomicI64::new(0),
            durations: syncs(),
            full: syncs(),
            partial: syncs(),
            programming: Histogram::new(waits),
            no_local: Default::default(),
        }
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

fn time(ms: &AtomicI64) -> Option<Timestamp> {
    let ms = ms.load(Relaxed);
    Timestamp::from_millisecond(ms).ok().filter(|_| ms != 0)
}

impl FamilySync {
    pub(super) fn queued(&self) {
        self.queued_ms.store(now_ms(), Relaxed);
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.get_or_insert_with(Instant::now);
    }

    /// The time of the last sync counts successes alone (rule 127).
    pub(super) fn applied(&self, applied: Applied) {
        let seconds = applied.took.as_secs_f64();
        self.durations.observe(seconds);
        let of_kind = if applied.is_full {
            &self.full
        } else {
            &self.partial
        };
        of_kind.observe(seconds);
        if applied.is_success {
            self.applied_ms.store(now_ms(), Relaxed);
        }
        if !applied.is_stuck {
            *self.pending.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    pub(super) fn set_no_local(&self, counts: NoLocal) {
        let [internal, external] = &self.no_local;
        internal.store(counts.internal, Relaxed);
        external.store(counts.external, Relaxed);
    }

    pub(super) fn no_local(&self) -> NoLocal {
        let [internal, external] = &self.no_local;
        NoLocal {
            internal: internal.load(Relaxed),
            external: external.load(Relaxed),
        }
    }

    /// Rule 115: no change has waited too long; while there is none, for ever.
    pub(super) fn is_healthy(&self, now: Instant, patience: Duration) -> bool {
        let pending = *self.pending.read().unwrap_or_else(PoisonError::into_inner);
        pending.is_none_or(|since| now.saturating_duration_since(since) < patience)
    }

    pub(super) fn queued_at(&self) -> Option<Timestamp> {
        time(&self.queued_ms)
    }

    pub(super) fn applied_at(&self) -> Option<Timestamp> {
        time(&self.applied_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const TOOK: Duration = Duration::from_millis(3);

    fn later() -> Instant {
        Instant::now() + PATIENCE + Duration::from_secs(1)
    }

    #[test]
    fn a_change_that_waits_too_long_makes_its_family_unhealthy() {
        let family = FamilySync::default();
        assert!(family.is_healthy(later(), PATIENCE), "nothing is pending");
        family.queued();
        assert!(family.is_healthy(Instant::now(), PATIENCE));
        assert!(!family.is_healthy(later(), PATIENCE));
        family.applied(Applied::in_part(TOOK));
        assert!(family.is_healthy(later(), PATIENCE), "applied");
    }

    #[test]
    fn a_later_change_does_not_hide_one_that_waits() {
        let family = FamilySync::default();
        family.queued();
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        family.queued();
        assert!(!family.is_healthy(begun + PATIENCE - Duration::from_millis(10), PATIENCE));
    }

    #[test]
    fn only_success_is_a_sync_and_only_being_stuck_is_ill_health() {
        let one_fails = Applied {
            is_success: false,
            ..Applied::in_part(TOOK)
        };
        let all_fail = Applied {
            is_stuck: true,
            ..one_fails
        };
        for (applied, is_synced, is_healthy) in [
            (Applied::in_part(TOOK), true, true),
            (one_fails, false, true),
            (all_fail, false, false),
        ] {
            let family = FamilySync::default();
            family.queued();
            family.applied(applied);
            assert_eq!(family.applied_at().is_some(), is_synced, "{applied:?}");
            assert_eq!(
                family.is_healthy(later(), PATIENCE),
                is_healthy,
                "{applied:?}"
            );
        }
    }
}
