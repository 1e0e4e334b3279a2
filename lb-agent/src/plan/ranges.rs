//! Which addresses and ports may be a Service's: what the programs compare before they look an
//! address up as a NodePort, and where an unknown address is refused (rules 83 and 84).

use std::{collections::BTreeMap, fmt, net::IpAddr};

use lb_common::{
    config::{AddrRange, AddrRanges, Config, MAX_RANGES, OWNED},
    net::{Addr4, Addr6, BePort},
};

use super::{
    Facts, Family,
    family::{bounds, from_number, number},
};
use crate::model::Store;

/// NodePorts of a cluster that has not set `--service-node-port-range`.
pub const DEFAULT_NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// The ranges of one family, and what had to be given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranges<A: Family> {
    /// What the programs get.
    pub ranges: AddrRanges<A>,
    /// Ranges that did not fit: unknown addresses in them are not refused.
    pub disowned: Vec<Disowned<A>>,
}

/// A part of a ServiceCIDR in which unknown addresses are not refused, for the programs look at no
/// more than [`MAX_RANGES`] ranges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Disowned<A> {
    /// First address.
    pub lo: A,
    /// Last address.
    pub hi: A,
}

impl<A: Family> fmt::Display for Disowned<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown addresses from {:?} to {:?} are let through: ServiceCIDRs and the networks in them \
             make more than {} ranges; merge ServiceCIDRs or move pod networks out of them",
            self.lo,
            self.hi,
            MAX_RANGES - 1
        )
    }
}

/// `base` with both families' ranges, the detector's and the NodePorts filled in, and what the operator should
/// know about it.
pub fn compile(store: &Store, facts: &Facts, base: &Config) -> (Config, Vec<String>) {
    let (nodeport_lo, nodeport_hi) = node_ports(store.node_ports());
    let (v4, v6) = (
        service_ranges::<Addr4>(store, facts),
        service_ranges::<Addr6>(store, facts),
    );
    let warnings = (v4.disowned.iter().map(Disowned::to_string))
        .chain(v6.disowned.iter().map(Disowned::to_string))
        .collect();
    let detector = |is_on, flag| if is_on { flag } else { 0 };
    let flags = base.flags
        | detector(facts.family::<Addr4>().has_detector, Config::DETECTOR4)
        | detector(facts.family::<Addr6>().has_detector, Config::DETECTOR6);
    let config = Config {
        flags,
        nodeport_lo,
        nodeport_hi,
        ranges4: v4.ranges,
        ranges6: v6.ranges,
        pods4: pod_ranges(facts),
        pods6: pod_ranges(facts),
        ..*base
    };
    (config, warnings)
}

/// What the detector takes for pods' addresses: one range per family for kube-proxy (rule 81), here as many as
/// fit.
fn pod_ranges<A: Family>(facts: &Facts) -> AddrRanges<A> {
    let nets = facts.family::<A>().detector_ranges.iter();
    let spans = merge(nets.filter_map(bounds::<A>).collect());
    let mut ranges = AddrRanges {
        len: 0,
        ranges: [range((0, 0), 0); MAX_RANGES],
    };
    for (place, span) in ranges.ranges.iter_mut().zip(spans) {
        *place = range(span, 0);
        ranges.len += 1;
    }
    ranges
}

/// ServiceCIDRs without the addresses in them that are pods' or this node's, for a refusal must
/// never eat their traffic; and one range, not owned, that spans the ClusterIPs outside of those.
pub fn service_ranges<A: Family>(store: &Store, facts: &Facts) -> Ranges<A> {
    let nets = store.service_cidrs().flat_map(|cidr| &cidr.cidrs);
    let mut owned = merge(nets.filter_map(bounds::<A>).collect());
    let hosts = facts
        .family::<A>()
        .own_addrs
        .iter()
        .chain(&facts.host_addrs);
    let hosts = hosts
        .filter_map(|ip| A::from_ip(*ip))
        .map(|addr| (number(addr), number(addr)));
    let pods = facts.pod_nets.iter().filter_map(bounds::<A>);
    for taken in hosts.chain(pods) {
        owned = subtract(owned, taken);
    }
    // The widest are kept: that leaves the fewest addresses where a mistake goes unnoticed.
    owned.sort_by_key(|(lo, hi)| (std::cmp::Reverse(hi - lo), *lo));
    let rest = owned.split_off(owned.len().min(MAX_RANGES - 1));
    owned.sort_unstable();

    let mut all: Vec<AddrRange<A>> = owned.iter().map(|span| range(*span, OWNED)).collect();
    all.extend(span_outside::<A>(store.cluster_ips(), &owned).map(|span| range(span, 0)));
    let nowhere = range((0, 0), 0);
    let mut ranges = AddrRanges {
        len: 0,
        ranges: [nowhere; MAX_RANGES],
    };
    for (place, range) in ranges.ranges.iter_mut().zip(all) {
        *place = range;
        ranges.len += 1;
    }
    Ranges {
        ranges,
        disowned: rest.into_iter().map(disown).collect(),
    }
}

/// The default range, widened by what is in use.
pub fn node_ports(in_use: &BTreeMap<u16, u32>) -> (BePort, BePort) {
    let (lo, hi) = DEFAULT_NODE_PORTS;
    let first = in_use.keys().next().copied().unwrap_or(lo);
    let last = in_use.keys().next_back().copied().unwrap_or(hi);
    (BePort::new(first.min(lo)), BePort::new(last.max(hi)))
}

type Span = (u128, u128);

fn range<A: Family>((lo, hi): Span, flags: u32) -> AddrRange<A> {
    AddrRange {
        lo: from_number(lo),
        hi: from_number(hi),
        flags,
    }
}

fn disown<A: Family>((lo, hi): Span) -> Disowned<A> {
    Disowned {
        lo: from_number(lo),
        hi: from_number(hi),
    }
}

/// Sorted, without overlaps, neighbours joined.
fn merge(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::new();
    for (lo, hi) in spans {
        match merged.last_mut() {
            Some(last) if lo <= last.1.saturating_add(1) => last.1 = last.1.max(hi),
            Some(_) | None => merged.push((lo, hi)),
        }
    }
    merged
}

fn subtract(spans: Vec<Span>, (from, to): Span) -> Vec<Span> {
    let mut left = Vec::new();
    for (lo, hi) in spans {
        if to < lo || hi < from {
            left.push((lo, hi));
            continue;
        }
        if lo < from {
            left.push((lo, from - 1));
        }
        if to < hi {
            left.push((to + 1, hi));
        }
    }
    left
}

/// From the first to the last ClusterIP that is in none of the (sorted) spans. Jumps over the
/// spans, so that the cost does not grow with the Services in them.
fn span_outside<A: Family>(ips: &BTreeMap<IpAddr, u32>, spans: &[Span]) -> Option<Span> {
    let ip = |number| from_number::<A>(number).ip();
    let holds = |number| spans.iter().find(|(lo, hi)| (*lo..=*hi).contains(&number));
    let last_of_all = if A::FAMILY == 4 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    let value = |ip: &IpAddr| A::from_ip(*ip).map(number);

    let mut start = 0;
    let first = loop {
        let mut next = ips.range(ip(start)..=ip(last_of_all));
        let found = value(next.next()?.0)?;
        let Some((_, hi)) = holds(found) else {
            break found;
        };
        if *hi == last_of_all {
            return None;
        }
        start = hi + 1;
    };
    let mut end = last_of_all;
    loop {
        // `first` is there and in no span: the walk ends at it at the latest.
        let found = value(ips.range(ip(first)..=ip(end)).next_back()?.0)?;
        let Some((lo, _)) = holds(found) else {
            return Some((first, found));
        };
        end = lo - 1;
    }
}
