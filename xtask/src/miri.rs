//! Miri: runs a program in an interpreter that knows what is undefined. It comes with nightlies alone, so this is the
//! one place that uses one: a dated one, whose language is that of the pinned toolchain.

use std::process::{Command, Stdio};

use crate::{say, tools, workspace};

/// The last nightly of 1.98. Moves with `rust-toolchain.toml`.
const TOOLCHAIN: &str = "nightly-2026-07-02";

/// Cases of each property test: the interpreter is some hundred times slower than the machine.
const PROPERTY_CASES: &str = "8";

/// Installs Miri if needed and returns the command that runs lb-common's tests in it.
///
/// # Errors
/// Why it cannot be had, in words.
pub fn test_command() -> Result<Command, String> {
    ensure()?;
    let root = workspace::root();
    let mut rustup = Command::new("rustup");
    tools::without_outer_build(&mut rustup);
    rustup
        .current_dir(&root)
        .args(["run", TOOLCHAIN, "cargo", "miri", "test", "--no-fail-fast"])
        .args(["--package", "lb-common", "--lib", "--tests", "--target-dir"])
        .arg(root.join("target").join("miri"))
        .arg("--")
        .env("PROPTEST_CASES", PROPERTY_CASES)
        // proptest reads the clock and the folder it runs in.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation");
    Ok(rustup)
}

fn ensure() -> Result<(), String> {
    if has_miri() {
        return Ok(());
    }
    say::step(&format!(
        "installing Miri (rustup toolchain install {TOOLCHAIN})"
    ));
    let installed = Command::new("rustup")
        .args(["toolchain", "install", TOOLCHAIN, "--profile", "minimal"])
        .args(["--component", "miri", "--component", "rust-src"])
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    match installed {
        Ok(status) if status.success() && has_miri() => Ok(()),
        Ok(_) => Err(format!(
            "rustup cannot get Miri of {TOOLCHAIN}; its words are above"
        )),
        Err(_) => Err("Miri comes through rustup, which is not here".to_owned()),
    }
}

fn has_miri() -> bool {
    let listed = Command::new("rustup")
        .args(["component", "list", "--installed", "--toolchain", TOOLCHAIN])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(listed) = listed else { return false };
    let text = String::from_utf8_lossy(&listed.stdout);
    let has = |component: &str| text.lines().any(|line| line.starts_with(component));
    has("miri") && has("rust-src")
}
