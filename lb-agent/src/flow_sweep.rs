//! Takes away flows that are over, a few at a time: on the packet path a flow that is over is only replaced
//! when another takes its tuple.
//!
//! The embryonic tables look after themselves (LRU) and are not touched.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use lb_common::{
    flow::{FlowKey, FlowVal},
    net::{Addr4, Addr6},
    track::Timeouts,
};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::{
    maps::{family::Family, kernel::Map, pinned::Pinned, sys::Cursor},
    observe::{AddressFamily, State},
};

/// Time between two steps, each of a family.
const STEP: Duration = Duration::from_secs(1);
/// Entries looked at in a step: a table of the default size is through in a minute.
const ENTRIES: u32 = 4_096;

/// Sweeps both families until the process ends.
///
/// # Errors
/// The tables cannot be opened.
pub async fn run(root: PathBuf, state: Arc<State>) -> anyhow::Result<()> {
    let mut v4 = Sweep::<Addr4>::open(&root)?;
    let mut v6 = Sweep::<Addr6>::open(&root)?;
    let mut ticks = interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (root, state) = (root.clone(), Arc::clone(&state));
        (v4, v6) = spawn_blocking(move || {
            let timeouts = Pinned::open(&root).and_then(|pinned| pinned.config());
            match timeouts {
                Ok(config) => {
                    v4.step(&config.timeouts, AddressFamily::IPv4, &state);
                    v6.step(&config.timeouts, AddressFamily::IPv6, &state);
                }
                Err(error) => tracing::debug!(%error, "no timeouts: nothing is swept"),
            }
            (v4, v6)
        })
        .await?;
    }
}

/// One family's table, and where we are in it.
struct Sweep<A: Family> {
    map: Map<FlowKey<A>, FlowVal<A>>,
    place: Cursor,
    /// Entries met since the last begin that stay.
    stay: u64,
    is_failing: bool,
}

impl<A: Family> Sweep<A>
where
    FlowKey<A>: bytemuck::Pod,
    FlowVal<A>: bytemuck::Pod,
{
    fn open(root: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            map: Map::open(root, A::MAPS.flows).context("sweeping flows")?,
            place: Cursor::default(),
            stay: 0,
            is_failing: false,
        })
    }

    fn step(&mut self, timeouts: &Timeouts, family: AddressFamily, state: &State) {
        match self.sweep_some(timeouts, now_s()) {
            Ok(swept) => {
                self.is_failing = false;
                state.add_swept(family, swept);
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                tracing::warn!(%error, family = family.label(), "flows that are over stay for now");
            }
            Err(_) => {}
        }
        if self.place.is_at_start() {
            state.set_flows(family, self.stay / 2);
            self.stay = 0;
        }
    }

    /// The next entries; returns how many were taken away.
    fn sweep_some(&mut self, timeouts: &Timeouts, now_s: u32) -> anyhow::Result<u64> {
        let entries: Vec<(FlowKey<A>, FlowVal<A>)> = self.map.some(&mut self.place, ENTRIES)?;
        let mut swept = 0;
        for (key, val) in entries {
            if !self.is_over(timeouts, &key, &val, now_s)? {
                self.stay += 1;
                continue;
            }
            // The other half has the same times within a packet's: both are over.
            let other = val.other_key(key.proto);
            swept += self.forget(&key)? + self.forget(&other)?;
        }
        Ok(swept)
    }

    /// A packet of either half keeps both.
    fn is_over(
        &self,
        timeouts: &Timeouts,
        key: &FlowKey<A>,
        val: &FlowVal<A>,
        now_s: u32,
    ) -> anyhow::Result<bool> {
        let is_over = |val: &FlowVal<A>| timeouts.is_over(key.proto, val.flags, val.seen_s, now_s);
        if !is_over(val) {
            return Ok(false);
        }
        let other: Option<FlowVal<A>> = self.map.lookup(&val.other_key(key.proto))?;
        if other.is_some_and(|other| !is_over(&other)) {
            return Ok(false);
        }
        // A while has passed since the batch was read.
        let again: Option<FlowVal<A>> = self.map.lookup(key)?;
        Ok(again.is_some_and(|again| is_over(&again)))
    }

    fn forget(&self, key: &FlowKey<A>) -> anyhow::Result<u64> {
        Ok(u64::from(self.map.remove(key)?))
    }
}

/// Seconds since boot, by the clock of flows (CLOCK_MONOTONIC).
pub fn now_s() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map(|now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX))
        .unwrap_or(0)
}
