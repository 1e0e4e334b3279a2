//! The programs on devices, packet by packet (root): the built object, attached to nothing, run by
//! BPF_PROG_TEST_RUN over maps that the agent's own code has filled.
//!
//! Every fixture says packets in, verdicts and packets out byte for byte, every counter that moves, and every
//! flow that is there in the end. `fuzz` as first word runs random packets against the same code on the host
//! instead; see `fuzz`.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../lb-common/tests/common/frame.rs"]
mod frame;
#[path = "../../../lb-common/tests/common/packet.rs"]
mod packet;

mod answers;
mod colliders;
mod fixture;
mod flows;
mod fragments;
mod full;
mod fuzz;
mod headers;
mod hops;
mod icmp;
mod no_redirect;
mod paths;
mod refusals;
mod rig;
mod world;

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};
use xtask::lab::Netns;

use fixture::Fixture;
use rig::Rig;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "fuzz") {
        return fuzz(&words);
    }
    let arguments = Arguments::from_args();
    let reason = xtask::lab::missing();
    if let Some(reason) = &reason {
        eprintln!("ignored: {reason}");
        return run(arguments, None);
    }
    // All of it on one thread inside the namespace: routes and sockets are looked up in the caller's.
    let ran = Netns::new().and_then(|netns| {
        let inside = netns.clone();
        netns.within(move || Ok(run(arguments, Some(Rig::new(&inside)?))))
    });
    ran.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn fuzz(words: &[String]) -> ExitCode {
    let ran = fuzz::Options::parse(words).and_then(|options| {
        let netns = Netns::new()?;
        let inside = netns.clone();
        netns.within(move || fuzz::run(&mut Rig::new(&inside)?, &options))
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Arguments, rig: Option<Rig>) -> ExitCode {
    arguments.test_threads = Some(1);
    let is_ignored = rig.is_none();
    let rig = Arc::new(Mutex::new(rig));
    let trials = fixtures()
        .into_iter()
        .map(|fixture| trial(fixture, &rig).with_ignored_flag(is_ignored))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn fixtures() -> Vec<Fixture> {
    [
        paths::fixtures(),
        no_redirect::fixtures(),
        flows::fixtures(),
        headers::fixtures(),
        refusals::fixtures(),
        full::fixtures(),
        answers::fixtures(),
        hops::fixtures(),
        icmp::fixtures(),
        fragments::fixtures(),
        colliders::fixtures(),
    ]
    .concat()
}

fn trial(fixture: Fixture, rig: &Arc<Mutex<Option<Rig>>>) -> Trial {
    let rig = Arc::clone(rig);
    let name = fixture.name.clone();
    let test = move || -> Result<()> {
        let mut rig = rig.lock().unwrap_or_else(PoisonError::into_inner);
        fixture.run(rig.as_mut().context("not there")?)
    };
    Trial::test(name, move || test().map_err(|e| format!("{e:#}").into())).with_kind("packet")
}
