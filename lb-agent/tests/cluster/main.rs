//! The agent against a real control plane: etcd, kube-apiserver and, for slices made from Pods,
//! kube-controller-manager.
//!
//! Every test has a laboratory node with the real agent; what counts is who answers the node's own connections.
//! Tests that break the control plane have one of their own, the others share one.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails: the line says most"
)]

/// Tests by the names of their functions, which are the sentences that they prove.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => { &[$((stringify!($test), $test as fn())),+] };
}

mod api;
mod node;
mod objects;
mod plane;

mod access;
mod chart;
mod controllers;
mod deployed;
mod endpoints;
mod events;
mod examples;
mod labels;
mod node_object;
mod outage;
mod service_cidr;
mod services;
mod slices;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use plane::{PROGRAMS, Plane};

/// Tests at a time: they wait for the most part.
const THREADS: usize = 4;

/// A test: its name and its code.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let (missing, no_controllers) = if arguments.list {
        (None, None)
    } else {
        what_is_missing()
    };
    let no_helm = missing.clone().or_else(|| {
        let is_asked = !arguments.list
            && chart::TESTS
                .iter()
                .any(|(name, _)| is_asked(&arguments, name));
        is_asked.then(why_no_helm).flatten()
    });
    let groups: [(&[Test], &Option<String>); 13] = [
        // Those that wait longest come first.
        (node_object::TESTS, &missing),
        (outage::TESTS, &missing),
        (access::TESTS, &missing),
        (slices::TESTS, &missing),
        (events::TESTS, &missing),
        (deployed::TESTS, &missing),
        (examples::TESTS, &missing),
        (chart::TESTS, &no_helm),
        (services::TESTS, &missing),
        (labels::TESTS, &missing),
        (controllers::TESTS, &no_controllers),
        (endpoints::TESTS, &missing),
        (service_cidr::TESTS, &missing),
    ];
    let trials = groups.into_iter().flat_map(|(tests, missing)| {
        tests
            .iter()
            .map(|(name, test)| trial(name, *test, missing.clone()))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    Plane::end_shared();
    conclusion.exit_code()
}

/// Whether the words of the command line leave this test in.
fn is_asked(arguments: &Arguments, name: &str) -> bool {
    let matches = |word: &String| match arguments.exact {
        true => name == word,
        false => name.contains(word.as_str()),
    };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

/// Why the chart cannot be rendered, in words.
fn why_no_helm() -> Option<String> {
    match xtask::cluster::ensure_helm() {
        Ok(Some(helm)) => {
            chart::HELM
                .set(helm)
                .expect("this is the only place that sets it");
            None
        }
        Ok(None) => Some(xtask::cluster::NO_HELM.to_owned()),
        Err(error) => panic!("helm cannot be built: {error:#}"),
    }
}

fn trial(name: &'static str, test: fn(), missing: Option<String>) -> Trial {
    Trial::ignorable_test(name, move || {
        if let Some(reason) = missing {
            return Ok(Completion::ignored_with(reason));
        }
        test();
        Ok(Completion::Completed)
    })
}

/// Why no test can run here, in words; and why none that needs controllers can.
fn what_is_missing() -> (Option<String>, Option<String>) {
    if let Some(reason) = xtask::lab::missing() {
        return (Some(reason.clone()), Some(reason));
    }
    let programs = match xtask::cluster::ensure_binaries() {
        Ok(Some(programs)) => programs,
        Ok(None) => {
            let reason = Some(xtask::cluster::NO_BINARIES.to_owned());
            return (reason.clone(), reason);
        }
        Err(error) => panic!("the control plane cannot be built: {error:#}"),
    };
    let has_controllers = programs.join("kube-controller-manager").is_file();
    PROGRAMS
        .set(programs)
        .expect("this is the only place that sets it");
    let reason = "KUBEBUILDER_ASSETS names a folder without kube-controller-manager";
    (None, (!has_controllers).then(|| reason.to_owned()))
}
