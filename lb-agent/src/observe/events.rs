//! Rare events from the programs: logged once per kind and service, and those that ask for something
//! handed on.

use std::{collections::BTreeSet, io, path::Path};

use aya::maps::{Map, MapData, RingBuf};
use lb_common::{
    event::{Event, EventKind},
    id::ServiceId,
};
use tokio::sync::mpsc;

use crate::maps::{pinned::maps_dir, sys};

/// Conditions told apart in the log; beyond these, new ones are counted by the programs alone.
const MAX_CONDITIONS: usize = 4096;

/// Reads the event ring until reading fails.
///
/// Events of kind [`EventKind::NETNS_UNKNOWN`] go to `unknown`; when that is full they are dropped,
/// for the next connection of that namespace asks again.
///
/// # Errors
/// The ring cannot be opened or read. The data plane works without; the caller decides.
pub async fn follow(bpffs_root: &Path, unknown: mpsc::Sender<Event>) -> io::Result<()> {
    let pin = maps_dir(bpffs_root).join("LB_EVENTS");
    let map = MapData::from_pin(&pin).map_err(io::Error::other)?;
    let ring = RingBuf::try_from(Map::from_map_data(map).map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    let mut ring = sys::ring_events(ring)?;
    let mut seen = Seen::default();
    loop {
        let mut ready = ring.readable_mut().await?;
        while let Some(record) = ready.get_inner_mut().next() {
            let Ok(event) = bytemuck::try_pod_read_unaligned::<Event>(&record) else {
                tracing::warn!(
                    bytes = record.len(),
                    "an event of another size: programs and agent differ"
                );
                continue;
            };
            if seen.is_new(&event) {
                log(&event);
            }
            if EventKind(event.kind) == EventKind::NETNS_UNKNOWN && unknown.try_send(event).is_err()
            {
                tracing::debug!(netns = event.netns, "too many unknown namespaces at once");
            }
        }
        ready.clear_ready();
    }
}

/// What has been logged.
#[derive(Default)]
struct Seen(BTreeSet<(u32, u32, ServiceId)>);

impl Seen {
    fn is_new(&mut self, event: &Event) -> bool {
        self.0.len() < MAX_CONDITIONS && self.0.insert((event.kind, event.family, event.service))
    }
}

fn log(event: &Event) {
    let (addr, port) = (event.addr, event.port.host());
    let (service, netns, pid) = (event.service.0, event.netns, event.pid);
    match EventKind(event.kind) {
        EventKind::NETNS_UNKNOWN => tracing::info!(
            ?addr,
            port,
            service,
            netns,
            pid,
            "refused: loadBalancerSourceRanges need the client's address, and its network namespace is new; looking it up"
        ),
        EventKind::BIND_REFUSED => tracing::warn!(
            ?addr,
            port,
            pid,
            "refused a bind to a NodePort that is served here (--protect-node-ports)"
        ),
        EventKind::RACED => tracing::warn!(
            ?addr,
            port,
            service,
            "refused: backend lists changed under the program four times in a row"
        ),
        EventKind(kind) => tracing::warn!(kind, service, "an event of an unknown kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_logged_once_for_each_service() {
        let event = |kind: EventKind, service| Event {
            kind: kind.0,
            service: ServiceId(service),
            ..Event::default()
        };
        let mut seen = Seen::default();
        assert!(seen.is_new(&event(EventKind::RACED, 1)));
        assert!(!seen.is_new(&event(EventKind::RACED, 1)));
        assert!(seen.is_new(&event(EventKind::RACED, 2)));
        assert!(seen.is_new(&event(EventKind::NETNS_UNKNOWN, 1)));
    }
}
