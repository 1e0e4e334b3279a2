//! Medians of interleaved rounds, and how sure they are.

use serde::Serialize;

/// What rounds gave, in the unit of the row.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Summary {
    pub median: f64,
    /// 95 % confidence interval of the median, by order statistics: no assumption about the noise.
    pub low: f64,
    pub high: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: usize,
}

impl Summary {
    /// `None` of no rounds.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rounds = sorted.len();
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let rank = rank(rounds);
        Some(Self {
            median: (sorted.get((rounds - 1) / 2)? + sorted.get(rounds / 2)?) / 2.0,
            low: *sorted.get(rank)?,
            high: *sorted.get(rounds - 1 - rank)?,
            min: first,
            max: last,
            rounds,
        })
    }
}

/// How many values may be left out on each side so that the median lies between the rest with 95 %:
/// a value is below the median like a coin falls. Too few rounds leave out none.
fn rank(rounds: usize) -> usize {
    let n = i32::try_from(rounds).unwrap_or(i32::MAX);
    let (mut term, mut tail) = (0.5_f64.powi(n), 0.0);
    for k in 0..n {
        tail += term;
        if tail > 0.025 {
            return usize::try_from(k).unwrap_or(0).saturating_sub(1);
        }
        term *= f64::from(n - k) / f64::from(k + 1);
    }
    0
}
