//! What the tests share: a case with its laboratory, pods that serve, and words for what clients saw.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Completion, Failed, Trial};
use nix::errno::Errno;
use xtask::lab::traffic::{Asked, Dial};
use xtask::lab::{Agent, Lab, Node, Place, Pod, Serve, missing, panic_text};

pub use xtask::lab::eventually;

/// How long a change of the manifests may take until sockets see it.
pub const SOON: Duration = Duration::from_secs(10);

/// Map sizes of the agents under test. Two hundred agents with maps of the default size would spend most of their time
/// on clearing memory.
pub const SIZES: [(&str, &str); 6] = [
    ("--max-services", "4096"),
    ("--max-slots", "16384"),
    ("--max-backends", "8192"),
    ("--max-frontends", "8192"),
    ("--max-source-ranges", "1024"),
    ("--max-flows", "8192"),
];

/// A test in a laboratory of its own. The name is the sentence that it proves.
pub fn case(
    group: &str,
    name: &str,
    test: impl FnOnce(&Lab) -> Result<()> + Send + 'static,
) -> Trial {
    let run = move || {
        let lab = new_lab()?;
        judge(&lab, || test(&lab))
    };
    Trial::test(name, run)
        .with_kind(group)
        .with_ignored_flag(missing().is_some())
}

/// A [`case`] that calls a program which not every machine has: without it the case is ignored, and the reason told.
pub fn case_with(
    program: &'static str,
    group: &str,
    name: &str,
    test: impl FnOnce(&Lab) -> Result<()> + Send + 'static,
) -> Trial {
    case_unless(group, name, move || needs(program), test)
}

/// A [`case`] that is ignored where `obstacle` tells a reason.
pub fn case_unless(
    group: &str,
    name: &str,
    obstacle: impl FnOnce() -> Option<String> + Send + 'static,
    test: impl FnOnce(&Lab) -> Result<()> + Send + 'static,
) -> Trial {
    let run = move || {
        if let Some(reason) = obstacle() {
            return Ok(Completion::ignored_with(reason));
        }
        let lab = new_lab()?;
        judge(&lab, || test(&lab))?;
        Ok(Completion::Completed)
    };
    Trial::ignorable_test(name, run)
        .with_kind(group)
        .with_ignored_flag(missing().is_some())
}

/// Why a test that calls `program` cannot run here.
pub fn needs(program: &str) -> Option<String> {
    which::which(program)
        .is_err()
        .then(|| format!("needs the program {program}"))
}

/// Tests that look at one scene, which the first of them builds and the last takes down.
pub struct Scene<S> {
    group: &'static str,
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    build: fn(&Lab) -> Result<S>,
    built: Mutex<Option<Arc<Built<S>>>>,
}

/// The scene falls before its laboratory: fields are dropped in order.
struct Built<S> {
    scene: S,
    lab: Lab,
}

impl<S: Send + Sync + 'static> Scene<S> {
    pub fn new(group: &'static str, build: fn(&Lab) -> Result<S>) -> Self {
        let shared = Shared {
            build,
            built: Mutex::new(None),
        };
        Self {
            group,
            shared: Arc::new(shared),
        }
    }

    pub fn case(&self, name: &str, test: impl FnOnce(&S) -> Result<()> + Send + 'static) -> Trial {
        let shared = Arc::clone(&self.shared);
        let run = move || {
            let built = shared.get()?;
            judge(&built.lab, || test(&built.scene))
        };
        Trial::test(name, run)
            .with_kind(self.group)
            .with_ignored_flag(missing().is_some())
    }
}

impl<S> Shared<S> {
    fn get(&self) -> Result<Arc<Built<S>>, Failed> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = built.as_ref() {
            return Ok(Arc::clone(built));
        }
        let lab = new_lab()?;
        let mut scene = None;
        judge(&lab, || {
            scene = Some((self.build)(&lab)?);
            Ok(())
        })?;
        let scene = scene.ok_or("the scene was not built")?;
        Ok(Arc::clone(built.insert(Arc::new(Built { scene, lab }))))
    }
}

pub fn new_lab() -> Result<Lab, Failed> {
    let lab = Lab::new().map_err(|error| format!("{error:#}"))?;
    let lab = lab.with_agent(env!("CARGO_BIN_EXE_lb-agent"));
    Ok(SIZES.into_iter().fold(lab, |lab, (flag, entries)| {
        lab.with_agent_flag(flag, entries)
    }))
}

/// Runs a test and, when it fails, adds what the laboratory looks like.
pub fn judge(lab: &Lab, test: impl FnOnce() -> Result<()>) -> Result<(), Failed> {
    let failure = match catch_unwind(AssertUnwindSafe(test)) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(cause) => panic_text(cause.as_ref()),
    };
    Err(format!("{failure}\n\n{}", lab.report()).into())
}

/// A pod with a server on it, both on port `port` of TCP and UDP.
pub struct Server {
    pub pod: Pod,
    pub serve: Serve,
}

/// Pods of `node` that serve on `port` and answer with their names.
pub fn servers<const N: usize>(node: &Node, names: [&str; N], port: u16) -> Result<[Server; N]> {
    let made: Result<Vec<Server>> = names
        .iter()
        .map(|name| {
            let pod = node.pod(name)?;
            let serve = pod.serve(port)?;
            Ok(Server { pod, serve })
        })
        .collect();
    made?.try_into().ok().context("as many servers as names")
}

/// How many of the dials each server answered; a dial that failed is an error.
pub fn tally(asked: Vec<Asked>) -> Result<BTreeMap<String, usize>> {
    let mut tally = BTreeMap::new();
    for answer in asked {
        *tally.entry(answer?.by).or_insert(0) += 1;
    }
    Ok(tally)
}

/// The servers that answer, of `count` dials from `place`.
pub fn who(place: &Place, dial: &Dial, count: usize) -> Result<Vec<String>> {
    let tally = tally(place.ask_many(dial, count)?).with_context(|| format!("{dial}"))?;
    Ok(tally.into_keys().collect())
}

/// How a dial that must fail fails.
pub fn errno(place: &Place, dial: &Dial) -> Result<Errno> {
    match place.ask(dial)? {
        Ok(answer) => bail!("{dial} was answered: {answer:?}"),
        Err(failure) => Ok(Errno::from_raw(failure.errno)),
    }
}

/// Expects that `dial` fails with `expected`, and before a second packet could be sent: no refusal waits for an answer.
pub fn expect_refusal(place: &Place, dial: &Dial, expected: Errno) -> Result<()> {
    let (asked, took) = place.exec(|| {
        let start = std::time::Instant::now();
        let asked = dial.ask();
        Ok((asked, start.elapsed()))
    })?;
    let Err(failure) = asked else {
        bail!("{} dialled {dial} and was answered", place.name);
    };
    ensure!(
        failure.is(expected),
        "{} dialled {dial}: {failure}, not {expected}",
        place.name
    );
    ensure!(
        took < Duration::from_millis(800),
        "{dial} was refused only after {took:?}"
    );
    Ok(())
}

/// Waits until exactly `expected` answer, whom `count` dials are enough to see.
pub fn soon_who(place: &Place, dial: &Dial, count: usize, expected: &[&str]) -> Result<()> {
    eventually(SOON, || {
        let seen = who(place, dial, count)?;
        ensure!(seen == expected, "{seen:?} answer, not {expected:?}");
        Ok(())
    })
}

/// Waits until `dial` fails with `expected`.
pub fn soon_refused(place: &Place, dial: &Dial, expected: Errno) -> Result<()> {
    eventually(SOON, || {
        let seen = errno(place, dial)?;
        ensure!(seen == expected, "{seen}, not {expected}");
        Ok(())
    })
}

/// The counter `reason` of the node's agent.
pub fn counted(agent: &Agent, reason: &str) -> Result<u64> {
    let status = agent.status()?;
    let counters = status["counters"].as_array().context("no counters")?;
    let counter = counters.iter().find(|counter| counter["reason"] == reason);
    counter
        .and_then(|counter| counter["count"].as_u64())
        .with_context(|| format!("no counter {reason}"))
}

/// A number that the agent tells of itself in `status`, such as `skippedObjects`.
pub fn told(agent: &Agent, name: &str) -> Result<u64> {
    let status = agent.status()?;
    status["agent"][name]
        .as_u64()
        .with_context(|| format!("no {name}"))
}
