//! `cargo xtask check`: what a reader should not have to look for. Formatting, lints on the host and for the BPF
//! target, documentation, licences. All of it runs; what failed is named at the end.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;

use crate::say::{self, Colour, colour};
use crate::{ebpf, tools, workspace};

/// Checks licences and sources of all dependencies by `deny.toml`. It takes two minutes to build once.
const CARGO_DENY_VERSION: &str = "0.20.2";

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 6] = [
    ("format", format),
    ("clippy", clippy),
    ("clippy, each crate alone", clippy_alone),
    ("clippy, BPF target", clippy_bpf),
    ("rustdoc", rustdoc),
    ("licences and sources", licences),
];

/// Runs all checks and prints how each came out.
///
/// # Errors
/// None of its own: a check that cannot run has failed.
pub fn run() -> Result<ExitCode> {
    let mut rows = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for (name, check) in STEPS {
        say::step(name);
        let begun = Instant::now();
        let outcome = match check() {
            Ok(()) => colour(Colour::Green, "ok"),
            Err(error) => {
                code = ExitCode::FAILURE;
                colour(Colour::Red, &format!("failed: {error:#}"))
            }
        };
        rows.push(format!(
            "{name:<26}{:>6.1} s  {outcome}",
            begun.elapsed().as_secs_f64()
        ));
    }
    say::heading("checks");
    rows.iter().for_each(say::line);
    let reason =
        "skipped: the list of advisories is a git repository outside the package registries";
    say::line(format!(
        "{:<26}{:>6}    {}",
        "advisories",
        "",
        colour(Colour::Yellow, reason)
    ));
    Ok(code)
}

fn format() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["fmt", "--all", "--check"]);
    done(&mut cargo, "cargo fmt --check", "cargo fmt")
}

fn clippy() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]);
    done(&mut cargo, "clippy", "mend what it names above")
}

/// In the workspace's one build the agent gives lb-common a feature, and `embed` is on: without both it must do too.
fn clippy_alone() -> Result<()> {
    for package in [&["lb-common"][..], &["lb-agent", "--no-default-features"]] {
        let mut cargo = workspace::cargo();
        cargo
            .args(["clippy", "--package"])
            .args(package)
            .args(["--", "--deny", "warnings"]);
        let what = format!("clippy --package {}", package.join(" "));
        done(&mut cargo, &what, "mend what it names above")?;
    }
    Ok(())
}

/// The same lints for the code that runs in the kernel, which the host's build does not see.
fn clippy_bpf() -> Result<()> {
    let root = workspace::root();
    tools::ensure_rust_src(&root, &say::step)?;
    let mut cargo = tools::cargo(&root);
    cargo.args([
        "clippy",
        "--release",
        "--package",
        "lb-ebpf",
        "--bin",
        ebpf::OBJECT,
    ]);
    cargo.args(["-Zbuild-std=core", "--target", ebpf::TARGET, "--target-dir"]);
    cargo.arg(root.join("target").join("ebpf"));
    cargo.args(["--", "--deny", "warnings"]);
    cargo.env("RUSTC_BOOTSTRAP", "1");
    let flags = ebpf::flags(std::env::consts::ARCH).join("\x1f");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    done(
        &mut cargo,
        "clippy for the BPF target",
        "mend what it names above",
    )
}

fn rustdoc() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["doc", "--no-deps", "--document-private-items"]);
    cargo.env("RUSTDOCFLAGS", "--deny warnings");
    done(&mut cargo, "rustdoc", "mend what it names above")
}

fn licences() -> Result<()> {
    let root = workspace::root();
    let version = CARGO_DENY_VERSION;
    let deny = tools::ensure_cargo_tool(&root, "cargo-deny", version, "two minutes", &say::step)?;
    let mut deny = Command::new(deny);
    deny.current_dir(&root)
        .args(["--locked", "check", "licenses", "bans", "sources"]);
    done(
        &mut deny,
        "cargo-deny",
        "choose another crate, or allow it in deny.toml with a reason",
    )
}

fn done(command: &mut Command, what: &str, remedy: &str) -> Result<()> {
    Ok(tools::run(command, what, remedy)?)
}
