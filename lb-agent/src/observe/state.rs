//! What the agent says of itself while it runs: written by its main loop, read by health and metrics.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::{attached::Attachment, devices::DeviceStatus, requests::Requests};

/// How long a change may wait before the agent is unhealthy: twice kube-proxy's sync period (rule 115).
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

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

/// One family's changes.
#[derive(Debug)]
pub(super) struct Family {
    /// The oldest change that is not applied.
    pending: RwLock<Option<Instant>>,
    /// Milliseconds since 1970; 0: never.
    queued_ms: AtomicI64,
    /// Milliseconds since 1970; 0: never.
    applied_ms: AtomicI64,
    /// Seconds from an apply's begin to its end.
    pub(super) durations: Histogram,
}

/// The agent's state.
#[derive(Debug)]
pub struct State {
    families: [Family; 2],
    started: AtomicBool,
    synced: AtomicBool,
    node_eligible: AtomicBool,
    attachments: RwLock<Vec<Attachment>>,
    devices: RwLock<Vec<DeviceStatus>>,
    skipped: AtomicU64,
    failed: AtomicU64,
    repaired: AtomicU64,
    /// Flows of packets, each family's, as of the last time through its table.
    flows: [AtomicU64; 2],
    /// Entries of flows that were over.
    swept: [AtomicU64; 2],
    requests: Arc<Requests>,
}

impl Default for State {
    fn default() -> Self {
        let family = || Family {
            pending: RwLock::new(None),
            queued_ms: AtomicI64::new(0),
            applied_ms: AtomicI64::new(0),
            // Rule 1.Q: 0.001 x 2^n, 15 buckets.
            durations: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
        };
        Self {
            families: [family(), family()],
            started: AtomicBool::new(false),
            synced: AtomicBool::new(false),
            node_eligible: AtomicBool::new(true),
            attachments: RwLock::new(Vec::new()),
            devices: RwLock::new(Vec::new()),
            skipped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            repaired: AtomicU64::new(0),
            flows: Default::default(),
            swept: Default::default(),
            requests: Arc::default(),
        }
    }
}

fn of<T>([v4, v6]: &[T; 2], family: AddressFamily) -> &T {
    match family {
        AddressFamily::IPv4 => v4,
        AddressFamily::IPv6 => v6,
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

fn time(ms: &AtomicI64) -> Option<Timestamp> {
    let ms = ms.load(Relaxed);
    Timestamp::from_millisecond(ms).ok().filter(|_| ms != 0)
}

/// What the agent notes.
impl State {
    /// A change of a family wants to be applied.
    pub fn queued(&self, family: AddressFamily) {
        let family = self.family(family);
        family.queued_ms.store(now_ms(), Relaxed);
        let mut pending = family
            .pending
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        pending.get_or_insert_with(Instant::now);
    }

    /// Everything queued for a family has been applied; it took so long.
    pub fn applied(&self, family: AddressFamily, took: Duration) {
        let family = self.family(family);
        family.applied_ms.store(now_ms(), Relaxed);
        family.durations.observe(took.as_secs_f64());
        *family
            .pending
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The data plane is attached: from now on the kernel is asked whether it stays so.
    pub fn set_started(&self) {
        self.started.store(true, Relaxed);
    }

    /// Every source has delivered its first list, and the maps are complete.
    pub fn set_synced(&self) {
        self.synced.store(true, Relaxed);
    }

    /// May load balancers send traffic to this node (rule 117)?
    pub fn set_node_eligible(&self, eligible: bool) {
        self.node_eligible.store(eligible, Relaxed);
    }

    /// Objects left out at the moment.
    pub fn set_skipped(&self, objects: usize) {
        self.skipped.store(objects as u64, Relaxed);
    }

    /// Service ports whose last change could not be applied.
    pub fn set_failed(&self, services: usize) {
        self.failed.store(services as u64, Relaxed);
    }

    /// Map entries that somebody else had changed.
    pub fn add_repaired(&self, entries: usize) {
        self.repaired.fetch_add(entries as u64, Relaxed);
    }

    /// So many flows of packets live in a family's table.
    pub fn set_flows(&self, family: AddressFamily, flows: u64) {
        of(&self.flows, family).store(flows, Relaxed);
    }

    /// So many entries of flows that were over were taken away.
    pub fn add_swept(&self, family: AddressFamily, entries: u64) {
        of(&self.swept, family).fetch_add(entries, Relaxed);
    }

    /// What the kernel runs; a change is logged.
    pub(super) fn note_attachments(&self, found: &[Attachment]) {
        let mut known = self
            .attachments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for now in found {
            let before = known.iter().find(|a| a.program == now.program);
            match (before.and_then(|a| a.problem.as_ref()), &now.problem) {
                (old, Some(problem)) if old != Some(problem) => {
                    tracing::error!(program = now.program, problem, "a program is not in effect");
                }
                (Some(_), None) => {
                    tracing::info!(program = now.program, "the program is in effect again");
                }
                _ => {}
            }
        }
        found.clone_into(&mut known);
    }
}

/// Devices, which come and go.
impl State {
    /// What the kernel runs on devices; a change is logged.
    pub(super) fn note_devices(&self, found: Vec<DeviceStatus>) {
        let mut known = (self.devices.write()).unwrap_or_else(PoisonError::into_inner);
        for now in &found {
            let before = known.iter().find(|d| d.index == now.index);
            match (before.and_then(|d| d.problem.as_ref()), &now.problem) {
                (old, Some(problem)) if old != Some(problem) => {
                    tracing::error!(device = now.device, problem, "a device is not served");
                }
                (Some(_), None) => tracing::info!(device = now.device, "served again"),
                _ => {}
            }
        }
        *known = found;
    }

    fn are_devices_served(&self) -> bool {
        let known = (self.devices.read()).unwrap_or_else(PoisonError::into_inner);
        known.iter().all(|device| device.problem.is_none())
    }
}

/// What is asked of it.
impl State {
    pub(super) fn family(&self, family: AddressFamily) -> &Family {
        let [v4, v6] = &self.families;
        match family {
            AddressFamily::IPv4 => v4,
            AddressFamily::IPv6 => v6,
        }
    }

    /// Requests to the API server, which its client counts.
    pub fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    pub(super) fn is_started(&self) -> bool {
        self.started.load(Relaxed)
    }

    /// See [`State::set_synced`].
    pub fn is_synced(&self) -> bool {
        self.synced.load(Relaxed)
    }

    pub(super) fn is_node_eligible(&self) -> bool {
        self.node_eligible.load(Relaxed)
    }

    /// Every program is attached, on devices, too, as far as is known: nothing is asked before the start.
    pub fn is_attached(&self) -> bool {
        let known = self
            .attachments
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        known.iter().all(|a| a.attached) && self.are_devices_served()
    }

    /// Every hook runs our program, as far as is known.
    pub fn is_effective(&self) -> bool {
        let known = self
            .attachments
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        known.iter().all(|a| a.effective)
    }

    pub(super) fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    pub(super) fn flows(&self, family: AddressFamily) -> u64 {
        of(&self.flows, family).load(Relaxed)
    }

    pub(super) fn swept(&self, family: AddressFamily) -> u64 {
        of(&self.swept, family).load(Relaxed)
    }

    pub(super) fn repaired(&self) -> u64 {
        self.repaired.load(Relaxed)
    }
}

impl Family {
    /// Rule 115: no change has waited too long; while there is none, for ever.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        let pending = *self.pending.read().unwrap_or_else(PoisonError::into_inner);
        pending.is_none_or(|since| now.saturating_duration_since(since) < PATIENCE)
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

    #[test]
    fn a_change_that_waits_too_long_makes_its_family_unhealthy() {
        let state = State::default();
        let family = state.family(AddressFamily::IPv6);
        let later = || Instant::now() + PATIENCE + Duration::from_secs(1);
        assert!(family.is_healthy(later()), "nothing is pending");
        state.queued(AddressFamily::IPv6);
        assert!(family.is_healthy(Instant::now()));
        assert!(!family.is_healthy(later()));
        assert!(
            state.family(AddressFamily::IPv4).is_healthy(later()),
            "the other family"
        );
        state.applied(AddressFamily::IPv6, Duration::from_millis(3));
        assert!(family.is_healthy(later()), "applied");
    }

    #[test]
    fn a_later_change_does_not_hide_one_that_waits() {
        let state = State::default();
        state.queued(AddressFamily::IPv4);
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        state.queued(AddressFamily::IPv4);
        let family = state.family(AddressFamily::IPv4);
        assert!(!family.is_healthy(begun + PATIENCE - Duration::from_millis(10)));
    }
}
