//! What the agent says of itself while it runs: written by its main loop, read by health and metrics.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use std::time::{Duration, Instant};

use super::{
    attached::Attachment,
    devices::DeviceStatus,
    requests::Requests,
    sync::{AddressFamily, Applied, FamilySync},
};
use crate::{plan::NoLocal, reconcile::Counted};

/// The agent's state.
#[derive(Debug)]
pub struct State {
    families: [FamilySync; 2],
    /// How long a change may wait before the agent is unhealthy (rule 115).
    patience: Duration,
    /// News of Services and slices, and those not yet in force.
    changes: [AtomicU64; 2],
    pending: [AtomicU64; 2],
    failures: AtomicU64,
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
        Self::new(Duration::from_secs(30))
    }
}

fn of<T>([v4, v6]: &[T; 2], family: AddressFamily) -> &T {
    match family {
        AddressFamily::IPv4 => v4,
        AddressFamily::IPv6 => v6,
    }
}

/// What the agent notes.
impl State {
    /// Nothing is attached or synced. A change may wait for twice the sync period.
    pub fn new(sync_period: Duration) -> Self {
        Self {
            families: Default::default(),
            patience: sync_period * 2,
            changes: Default::default(),
            pending: Default::default(),
            failures: AtomicU64::new(0),
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

    /// A change of a family wants to be applied.
    pub fn queued(&self, family: AddressFamily) {
        self.family(family).queued();
    }

    /// What was queued for a family was taken up.
    pub fn applied(&self, family: AddressFamily, applied: Applied) {
        self.family(family).applied(applied);
    }

    /// A change of endpoints is in force; it came to pass so long ago (rule 128).
    pub fn programmed(&self, family: AddressFamily, after: Duration) {
        let waits = &self.family(family).programming;
        waits.observe(after.as_secs_f64());
    }

    /// Service ports of a family that a Local policy drops here.
    pub fn set_no_local(&self, family: AddressFamily, counts: NoLocal) {
        self.family(family).set_no_local(counts);
    }

    /// News so far, and those that are not yet in force.
    pub fn set_news(&self, all: Counted, pending: Counted) {
        for (counts, counted) in [(&self.changes, all), (&self.pending, pending)] {
            let [services, slices] = counts;
            services.store(counted.services, Relaxed);
            slices.store(counted.slices, Relaxed);
        }
    }

    /// So many Services could not be applied this time.
    pub fn add_failures(&self, services: usize) {
        self.failures.fetch_add(services as u64, Relaxed);
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
    pub(super) fn family(&self, family: AddressFamily) -> &FamilySync {
        let [v4, v6] = &self.families;
        match family {
            AddressFamily::IPv4 => v4,
            AddressFamily::IPv6 => v6,
        }
    }

    /// Has no change of a family waited for too long (rule 115)?
    pub(super) fn keeps_up(&self, family: AddressFamily, now: Instant) -> bool {
        self.family(family).is_healthy(now, self.patience)
    }

    /// Services, slices.
    pub(super) fn changes(&self) -> [u64; 2] {
        self.changes.each_ref().map(|count| count.load(Relaxed))
    }

    /// Services, slices.
    pub(super) fn pending(&self) -> [u64; 2] {
        self.pending.each_ref().map(|count| count.load(Relaxed))
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
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
