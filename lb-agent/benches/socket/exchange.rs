//! Whole exchanges between two pods: connect, a request, its answer, close, through a ClusterIP of a large
//! cluster and straight to the backend, in turn.

use std::net::SocketAddrV4;

use anyhow::Result;
use xtask::lab::Place;

use crate::{
    objects::{self, Here, SERVER_PORT},
    progress::Progress,
    report::Row,
    worker::{Act, Worker},
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    pub exchanges: usize,
}

const VIA: usize = 0;
const DIRECT: usize = 1;

/// Exchanges a second through the ClusterIP over those straight to the backend. One process does both, on the CPU of the
/// server.
pub fn measure(client: &Place, here: &Here, effort: Effort) -> Result<Vec<Row>> {
    let direct = vec![SocketAddrV4::new(here.server, SERVER_PORT)];
    let lists = vec![vec![objects::WEB], direct];
    let client = Worker::start(client, lists)?;
    let mut rows = Vec::new();
    for (name, act, title) in [
        ("TCP", Act::Tcp, "whole TCP connections"),
        ("UDP", Act::Udp, "whole UDP exchanges"),
    ] {
        let run = |worker: &Worker, list| -> Result<f64> {
            let done = worker.act(act, list, effort.exchanges)?;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let mean = done.ns as f64 / effort.exchanges as f64;
            Ok(mean)
        };
        let (mut ratios, mut vias, mut directs) = (vec![], vec![], vec![]);
        let mut progress = Progress::new(title, effort.rounds + 1);
        for round in 0..=effort.rounds {
            // In turn first and last, so that a drift of the machine favours neither.
            let (via, plain) = if round % 2 == 0 {
                let via = run(&client, VIA)?;
                (via, run(&client, DIRECT)?)
            } else {
                let plain = run(&client, DIRECT)?;
                (run(&client, VIA)?, plain)
            };
            progress.step();
            if round == 0 {
                continue;
            }
            ratios.push(plain / via);
            vias.push(via / 1000.0);
            directs.push(plain / 1000.0);
        }
        let row = |name: String, unit, values: &[f64], target| {
            let note = format!("{} exchanges a round", effort.exchanges);
            Row::of(name, unit, values, target, note)
        };
        rows.extend(
            [
                row(
                    format!("{name} via ClusterIP / direct"),
                    "",
                    &ratios,
                    Some((true, 0.99)),
                ),
                row(format!("{name} via ClusterIP"), "us", &vias, None),
                row(format!("{name} direct"), "us", &directs, None),
            ]
            .into_iter()
            .flatten(),
        );
    }
    client.stop()?;
    Ok(rows)
}
