//! This agent's own metrics.
//!
//! | metric | type | labels |
//! |---|---|---|
//! | `lb_socket_events_total` | counter | `reason`: hits and refusals, the labels of `lb_common::reason` |
//! | `lb_map_entries`, `lb_map_capacity` | gauge | `map` |
//! | `lb_objects_skipped`, `lb_services_failed`, `lb_synced` | gauge | |
//! | `lb_service_failures_total`, `lb_drift_repaired_total` | counter | |
//! | `lb_programs_attached`, `lb_programs_effective`, `lb_node_eligible` | gauge | 1 when all are, when it is |
//! | `lb_flows`, `lb_flow_entries_swept_total` | gauge, counter | `ip_family` |
//! | `lb_apply_duration_seconds` | histogram | `ip_family` |

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use lb_common::reason::Counter;
use prometheus_client::{encoding::EncodeMetric as _, metrics::MetricType};

use super::{Encoder, counters, gauge, gauges};
use crate::{
    maps::pinned::{Fill, Pinned, PinnedError},
    observe::{AddressFamily, State},
};

/// Counters and fills of the pinned maps. When they cannot be read, the last ones stand: a counter
/// that fell would look like a restart.
#[derive(Debug)]
pub(super) struct MapReader {
    root: PathBuf,
    last: RwLock<Readings>,
}

#[derive(Clone, Default, Debug)]
pub(super) struct Readings {
    pub(super) counters: Vec<(Counter, u64)>,
    pub(super) fills: Vec<Fill>,
}

impl MapReader {
    pub(super) fn new(root: &Path) -> Self {
        Self::with(root, Readings::default())
    }

    pub(super) fn with(root: &Path, readings: Readings) -> Self {
        Self {
            root: root.to_owned(),
            last: RwLock::new(readings),
        }
    }

    pub(super) fn read(&self) -> Readings {
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

pub(super) fn encode(encoder: &mut Encoder<'_>, state: &State, readings: &Readings) -> fmt::Result {
    let events = readings.counters.iter();
    let events = events.map(|(counter, count)| ([("reason", counter.label())], *count));
    let help = "What the socket programs did, by reason";
    counters(encoder, "lb_socket_events", help, events)?;
    fills(encoder, &readings.fills)?;
    objects(encoder, state)?;
    programs(encoder, state)?;
    flows(encoder, state)?;
    let help = "Applying a batch of changes";
    let name = "lb_apply_duration_seconds";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for family in AddressFamily::ALL {
        let durations = &state.family(family).durations;
        durations.encode(metric.encode_family(&[("ip_family", family.label())])?)?;
    }
    Ok(())
}

fn fills(encoder: &mut Encoder<'_>, fills: &[Fill]) -> fmt::Result {
    let entries = |fill: &Fill| u64::try_from(fill.entries).unwrap_or(u64::MAX);
    let used = fills
        .iter()
        .map(|fill| ([("map", fill.spec.name)], entries(fill)));
    gauges(encoder, "lb_map_entries", "Entries in use", used)?;
    let fits = fills.iter();
    let fits = fits.map(|fill| ([("map", fill.spec.name)], u64::from(fill.capacity)));
    gauges(encoder, "lb_map_capacity", "Entries that fit", fits)
}

fn objects(encoder: &mut Encoder<'_>, state: &State) -> fmt::Result {
    for (name, help, value) in [
        (
            "lb_objects_skipped",
            "Objects left out, for they are bad",
            state.skipped(),
        ),
        (
            "lb_services_failed",
            "Services whose last change could not be applied",
            state.failed(),
        ),
        (
            "lb_synced",
            "The maps are complete",
            u64::from(state.is_synced()),
        ),
        (
            "lb_node_eligible",
            "Load balancers may send traffic to this node",
            u64::from(state.is_node_eligible()),
        ),
    ] {
        gauge(encoder, name, help, value)?;
    }
    for (name, help, value) in [
        (
            "lb_service_failures",
            "Changes of a Service that could not be applied, tries again included",
            state.failures(),
        ),
        (
            "lb_drift_repaired",
            "Map entries that somebody else had changed",
            state.repaired(),
        ),
    ] {
        counters(encoder, name, help, [([("", ""); 0], value)])?;
    }
    Ok(())
}

fn programs(encoder: &mut Encoder<'_>, state: &State) -> fmt::Result {
    let attached = u64::from(state.is_attached());
    let help = "Every program is attached";
    gauge(encoder, "lb_programs_attached", help, attached)?;
    let effective = u64::from(state.is_effective());
    let help = "Every hook runs our program";
    gauge(encoder, "lb_programs_effective", help, effective)
}

fn flows(encoder: &mut Encoder<'_>, state: &State) -> fmt::Result {
    let each = |count: fn(&State, AddressFamily) -> u64| {
        let families = AddressFamily::ALL.into_iter();
        families.map(move |family| ([("ip_family", family.label())], count(state, family)))
    };
    let help = "Flows of packets that live, as of the last time through the table";
    gauges(encoder, "lb_flows", help, each(State::flows))?;
    let help = "Entries of flows of packets that were over";
    counters(encoder, "lb_flow_entries_swept", help, each(State::swept))
}
