//! Counting, and telling the agent of rare things.

use lb_common::{
    event::{Event, EventKind},
    id::ServiceId,
    net::{Addr6, BePort, Proto},
    reason::{Counter, PACKET_COUNTERS},
};

use crate::{
    maps::{add_one, output},
    sock_addr::{now_ns, pid},
};

/// Counts one.
#[inline(always)]
pub fn count(counter: Counter) {
    add_one(counter as u32);
}

/// Counts one for a packet: in the upper half of the map, for packets interrupt socket calls.
#[inline(always)]
pub fn count_packet(counter: Counter) {
    count_packet_at(counter as u32);
}

/// Counts one for a packet, by the counter's index.
#[inline(always)]
pub fn count_packet_at(counter: u32) {
    add_one(counter + PACKET_COUNTERS);
}

/// Who and what an event is about.
pub struct About {
    pub netns: u64,
    pub service: ServiceId,
    pub family: u8,
    pub addr: Addr6,
    pub port: BePort,
    pub proto: Proto,
}

/// Reports a rare thing; false when the ring is full. Out of line, and so with a number as result
/// (see lb_common::decide).
#[inline(never)]
pub fn report(kind: EventKind, about: &About) -> bool {
    let event = Event {
        time_ns: now_ns(),
        netns: about.netns,
        kind: kind.0,
        pid: pid(),
        service: about.service,
        family: about.family as u32,
        addr: about.addr,
        port: about.port,
        proto: about.proto,
        pad: [0; 5],
    };
    let told = output(&event);
    if !told {
        count(Counter::EventLost);
    }
    told
}
