//! `deploy/systemd`: what systemd itself says of the unit.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails: the line says most"
)]

use std::fs;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Completion, Trial};

const UNIT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/systemd/lb-agent.service"
);
const INSTALLED: &str = "/usr/local/bin/lb-agent";

fn main() -> ExitCode {
    let trials = vec![
        Trial::ignorable_test("systemd_finds_nothing_wrong_with_the_unit", verify),
        Trial::test(
            "the_agent_takes_the_flags_of_the_unit_with_the_example",
            || {
                flags();
                Ok(())
            },
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// The unit, with the agent where it is here.
fn unit() -> String {
    let unit = fs::read_to_string(UNIT).unwrap();
    assert!(unit.contains(INSTALLED));
    unit.replace(INSTALLED, env!("CARGO_BIN_EXE_lb-agent"))
}

/// What it does not know systemd ignores with a word, so silence is what counts.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the form that libtest-mimic wants"
)]
fn verify() -> Result<Completion, libtest_mimic::Failed> {
    if which::which("systemd-analyze").is_err() {
        return Ok(Completion::ignored_with("no systemd-analyze here"));
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("lb-agent.service");
    fs::write(&copy, unit()).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&copy)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("lb-agent"), "{said}");
    Ok(Completion::Completed)
}

fn flags() {
    let unit = unit();
    let value = |name: &str| {
        unit.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
    };
    let flags = value("Environment=LB_AGENT_FLAGS=");
    let command = value("ExecStart=");
    let (program, arguments) = command.split_once(' ').unwrap();
    assert_eq!(arguments, "run $LB_AGENT_FLAGS");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/manifests");
    let there = flags.replace("/etc/lb-agent/manifests", example);
    assert_ne!(flags, there);
    let output = Command::new(program)
        .args(["config", "explain", &there])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
