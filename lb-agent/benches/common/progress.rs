//! How far a part is, and how long it will still take.

use std::time::{Duration, Instant};

/// One line at most in this time.
const PERIOD: Duration = Duration::from_secs(2);

pub struct Progress {
    part: &'static str,
    start: Instant,
    said: Instant,
    done: u32,
    of: u32,
}

impl Progress {
    pub fn new(part: &'static str, of: usize) -> Self {
        xtask::say::step(part);
        Self {
            part,
            start: Instant::now(),
            said: Instant::now(),
            done: 0,
            of: u32::try_from(of).unwrap_or(u32::MAX),
        }
    }

    pub fn step(&mut self) {
        self.done += 1;
        if self.said.elapsed() < PERIOD || self.done == self.of {
            return;
        }
        self.said = Instant::now();
        let left = self.start.elapsed() / self.done * self.of.saturating_sub(self.done);
        xtask::say::step(&format!(
            "{}: round {} of {}, about {:.0} s left",
            self.part,
            self.done,
            self.of,
            left.as_secs_f64().ceil()
        ));
    }
}
