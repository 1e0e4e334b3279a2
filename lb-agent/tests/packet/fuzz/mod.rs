//! Random and mutated packets through the loaded programs, held against the same code on the host.
//!
//! Before each packet the oracle gets the flows that the kernel has, so every packet stands for itself, and one
//! that fails can be made smaller. What the kernel chose at random is read from the flow that it made, and must be
//! one of those that the oracle could have made.

mod generate;
mod oracle;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lb_common::net::{Addr4, Addr6};

use crate::rig::{NEXT, REDIRECT, Ran, Rig, SHOT};
use generate::{Random, Shot};
use oracle::Oracle;

/// Packets between two resets of the flow tables.
const ROUND: u32 = 300;
/// How often a smaller packet is tried.
const SHRINKS: u32 = 3_000;

/// What to do, by the words after `fuzz`.
pub struct Options {
    pub time: Duration,
    pub seed: u64,
}

impl Options {
    /// `--seconds N [--seed S]`
    pub fn parse(words: &[String]) -> Result<Self> {
        let value = |name: &str| {
            let at = words.iter().position(|word| word == name)?;
            words.get(at + 1)
        };
        let seconds = value("--seconds").map_or(Ok(10), |text| text.parse())?;
        let seed = match value("--seed") {
            Some(text) => text.parse()?,
            None => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)?
                .subsec_nanos()
                .into(),
        };
        Ok(Self {
            time: Duration::from_secs(seconds),
            seed,
        })
    }
}

#[derive(Default)]
struct Tally {
    passed: u64,
    dropped: u64,
    sent: u64,
    refused_by_kernel: u64,
}

/// Both families' oracles.
struct Oracles {
    v4: Oracle<Addr4>,
    v6: Oracle<Addr6>,
}

impl Oracles {
    fn put(&mut self, images: &Images) {
        self.v4.put_image(&images.0);
        self.v6.put_image(&images.1);
    }

    /// Runs a packet and compares. `None`: the kernel does not take such a packet for a test.
    fn check(&mut self, rig: &Rig, shot: &Shot) -> Result<Option<Ran>> {
        let device = shot.device(rig);
        let Ok(ran) = rig.run(shot.side.program(), device, 0, &shot.bytes) else {
            return Ok(None);
        };
        match shot.bytes.get(12..14) {
            Some([0x08, 0x00]) => self.v4.compare(rig, shot, &ran)?,
            Some([0x86, 0xdd]) => self.v6.compare(rig, shot, &ran)?,
            _ if ran.verdict == NEXT && ran.bytes == shot.bytes => {}
            _ => bail!("neither IPv4 nor IPv6, and not left alone"),
        }
        Ok(Some(ran))
    }
}

/// Runs until the time is up.
///
/// # Errors
/// The first difference, with seed and packet.
pub fn run(rig: &mut Rig, options: &Options) -> Result<()> {
    let seed = options.seed;
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    // Some ports, so that flows do not run out of them at once.
    rig.config.snat_hi = lb_common::net::BePort::new(crate::world::SNAT_PORT + 400);
    let mut oracles = Oracles {
        v4: Oracle::new(rig)?,
        v6: Oracle::new(rig)?,
    };
    let (start, mut said) = (Instant::now(), Instant::now());
    let (mut tally, mut count) = (Tally::default(), 0_u64);
    while start.elapsed() < options.time {
        if count % u64::from(ROUND) == 0 {
            oracles.v4.compare_all(rig)?;
            oracles.v6.compare_all(rig)?;
            rig.reset()?;
            oracles.put(&Images::default());
        }
        count += 1;
        let shot = Shot::any(&mut random, &oracles.v4.keys(), &oracles.v6.keys());
        let before = (oracles.v4.image(), oracles.v6.image());
        match oracles.check(rig, &shot) {
            Ok(None) => tally.refused_by_kernel += 1,
            Ok(Some(ran)) => match ran.verdict {
                NEXT => tally.passed += 1,
                SHOT => tally.dropped += 1,
                REDIRECT => tally.sent += 1,
                other => bail!("seed {seed}, packet {count}: verdict {other}"),
            },
            Err(error) => {
                let smallest = shrink(rig, &mut oracles, &before, shot)?;
                return Err(error).with_context(|| {
                    format!("seed {seed}, packet {count}, smallest: {smallest:?}")
                });
            }
        }
        if said.elapsed() > Duration::from_secs(1) {
            said = Instant::now();
            say(&tally, start.elapsed());
        }
    }
    say(&tally, start.elapsed());
    Ok(())
}

fn say(tally: &Tally, time: Duration) {
    let Tally {
        passed,
        dropped,
        sent,
        refused_by_kernel,
    } = tally;
    eprintln!(
        "{:>4} s  passed {passed}, dropped {dropped}, sent {sent}, not taken for tests {refused_by_kernel}",
        time.as_secs()
    );
}

type Images = (oracle::Image<Addr4>, oracle::Image<Addr6>);

/// The smallest packet that still differs, over the same flows: cut from behind, then byte by byte to zero.
fn shrink(rig: &mut Rig, oracles: &mut Oracles, before: &Images, shot: Shot) -> Result<Shot> {
    let mut smallest = shot;
    let mut tries = SHRINKS;
    let mut still_fails = |rig: &mut Rig, shot: &Shot| -> Result<bool> {
        rig.reset()?;
        before.0.restore(rig)?;
        before.1.restore(rig)?;
        oracles.put(before);
        Ok(oracles.check(rig, shot).is_err())
    };
    let mut cut = smallest.bytes.len() / 2;
    while cut > 0 && tries > 0 {
        tries -= 1;
        let mut shorter = smallest.clone();
        shorter.bytes.truncate(smallest.bytes.len() - cut);
        if still_fails(rig, &shorter)? {
            smallest = shorter;
        } else {
            cut /= 2;
        }
    }
    for at in 14..smallest.bytes.len() {
        let mut plainer = smallest.clone();
        if tries == 0 || std::mem::take(&mut plainer.bytes[at]) == 0 {
            continue;
        }
        tries -= 1;
        if still_fails(rig, &plainer)? {
            smallest = plainer;
        }
    }
    Ok(smallest)
}
