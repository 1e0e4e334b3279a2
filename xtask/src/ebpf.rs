//! Builds the BPF object from `lb-ebpf`: the one way to do it, for `cargo xtask build-ebpf` and, through
//! `lb-agent/build.rs` which includes this file, for every build of the agent. Hence std alone.
//!
//! The object is built on the pinned stable toolchain: `RUSTC_BOOTSTRAP` is set for this one child (the target has no
//! prebuilt `core`), never for the workspace, where build scripts of other crates would think they are on nightly.
//! One target folder serves all profiles and feature sets of the agent, so `core` is built once per checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::tools::{self, Progress, ToolError};

/// The BPF target: little endian, like every machine this is built for.
pub const TARGET: &str = "bpfel-unknown-none";
/// The object's file name, which is the name of the one program of `lb-ebpf`.
pub const OBJECT: &str = "lb";
/// What the object is made from, relative to the workspace; a change in any of it makes a new object.
pub const SOURCES: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "lb-common/Cargo.toml",
    "lb-common/src",
    "lb-ebpf/Cargo.toml",
    "lb-ebpf/src",
];

/// Installs what is missing, builds the object if anything it is made from or by has changed, and returns its path.
/// `arch` is the architecture the programs will run on, in Rust's words (`x86_64`): it decides where a program finds
/// the registers of the kernel.
///
/// # Errors
/// When a tool cannot be installed or the programs do not compile; the compiler's words are on stderr then.
pub fn build(workspace: &Path, arch: &str, progress: Progress<'_>) -> Result<PathBuf, ToolError> {
    tools::ensure_rust_src(workspace, progress)?;
    let linker = tools::ensure_bpf_linker(workspace, progress)?;
    progress("building the BPF object");
    let target_dir = workspace.join("target").join("ebpf");
    let mut cargo = tools::cargo(workspace);
    cargo.args([
        "rustc",
        "--release",
        "--package",
        "lb-ebpf",
        "--bin",
        OBJECT,
    ]);
    cargo
        .args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target_dir);
    cargo.arg("--").args(link_flags(&linker)?);
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(arch).join("\x1f"));
    tools::run(
        &mut cargo,
        "building the BPF object",
        "see the compiler's words above",
    )?;
    Ok(target_dir.join(TARGET).join("release").join(OBJECT))
}

/// The compiler flags of every crate in the object, for clippy as well: map types of `lb-common` reach the kernel's
/// BTF only if that crate has debug information too.
#[must_use]
pub fn flags(arch: &str) -> [String; 2] {
    [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
    ]
}

/// The flags of the last step alone, so that a new linker makes one crate anew and not `core`.
fn link_flags(linker: &Path) -> Result<Vec<String>, ToolError> {
    Ok(vec![
        format!("-Clinker={}", linker.display()),
        // cargo does not watch the linker: as part of the flags its identity makes cargo link again.
        format!("--cfg=linked_by=\"{}\"", identity(linker)?),
        "-Clink-arg=--btf".to_owned(),
        // Without this memset, memmove and big compares become byte loops, which do not load without CAP_PERFMON.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // The linker tries a linker script as a library first and says so, to no harm.
        "-Alinker_messages".to_owned(),
    ])
}

/// What tells one build of a program from another: its size in bytes and time of change in nanoseconds.
fn identity(program: &Path) -> Result<String, ToolError> {
    let file = |source| ToolError::File {
        path: program.to_owned(),
        source,
    };
    let meta = fs::metadata(program).map_err(file)?;
    let changed = meta
        .modified()
        .map_err(file)?
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_nanos());
    Ok(format!("{} {changed}", meta.len()))
}
