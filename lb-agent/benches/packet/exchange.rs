//! Whole connections from outside: connect, a request, its answer, close; and one that carries much.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::{
    objects::Backend, peer::Peer, plane::Plane, progress::Progress, report::Row, worker::Act,
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    /// Exchanges, or MiB.
    pub count: usize,
}

/// Connections a second, or throughput, by peer; the target is against nftables.
pub fn measure(planes: &[Plane], act: Act, effort: Effort) -> Result<Vec<Row>> {
    let (what, unit) = if matches!(act, Act::Bulk) {
        ("bulk", "MiB/s")
    } else {
        ("TCP connections", "/s")
    };
    let mut rows = Vec::new();
    for backend in Backend::ALL {
        let mut ns: BTreeMap<Peer, Vec<f64>> = BTreeMap::new();
        let title = match (act, backend) {
            (Act::Bulk, Backend::Remote) => "bulk, remote backend",
            (Act::Bulk, Backend::Local) => "bulk, local backend",
            (_, Backend::Remote) => "whole connections, remote backend",
            (_, Backend::Local) => "whole connections, local backend",
        };
        for plane in planes {
            plane.forget()?;
        }
        let mut progress = Progress::new(title, effort.rounds + 1);
        for round in 0..=effort.rounds {
            for turn in 0..planes.len() {
                let plane = &planes[(turn + round) % planes.len()];
                let value = plane.act(act, backend, effort.count)?;
                if round > 0 {
                    ns.entry(plane.peer).or_default().push(value);
                }
            }
            progress.step();
        }
        rows.extend(rows_of(
            &ns,
            &format!("{what}, {} backend", backend.name()),
            unit,
            effort,
        ));
    }
    Ok(rows)
}

fn rows_of(
    ns: &BTreeMap<Peer, Vec<f64>>,
    what: &str,
    unit: &'static str,
    effort: Effort,
) -> Vec<Row> {
    let note = format!("{} a round", effort.count);
    let row = |name: String, unit, values: &[f64], target| {
        Row::of(name, unit, values, target, note.clone())
    };
    let mut rows = Vec::new();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = effort.count as f64;
    for (peer, values) in ns {
        let rates: Vec<f64> = values.iter().map(|ns| count * 1e9 / ns).collect();
        rows.extend(row(format!("{what}: {}", peer.name()), unit, &rates, None));
    }
    let mut compare = |peer: Peer, other: Peer, target| {
        let (Some(a), Some(b)) = (ns.get(&peer), ns.get(&other)) else {
            return;
        };
        let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| b / a).collect();
        let name = format!("{what}: {} / {}", peer.name(), other.name());
        rows.extend(row(name, "", &ratios, target));
    };
    compare(Peer::Ours, Peer::Nftables, Some((true, 1.0)));
    compare(Peer::Ours, Peer::Iptables, Some((true, 1.0)));
    for peer in [Peer::Ours, Peer::Nftables, Peer::Iptables] {
        compare(peer, Peer::Direct, None);
    }
    rows
}
