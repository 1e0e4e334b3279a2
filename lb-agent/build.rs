//! Builds the BPF object and puts it where `include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb"))` finds it.
//!
//! It is the very function `cargo xtask build-ebpf` calls, so `cargo build -p lb-agent` on plain stable needs no step
//! before it: bpf-linker is installed into the checkout's own target folder when it is missing. Without the feature
//! `embed` nothing happens here.

#[path = "../xtask/src/ebpf.rs"]
#[expect(unreachable_pub, reason = "written as a module of xtask's library")]
mod ebpf;
#[path = "../xtask/src/tools.rs"]
#[expect(
    unreachable_pub,
    dead_code,
    reason = "written as a module of xtask's library"
)]
mod tools;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_EMBED").is_none() {
        return Ok(());
    }
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest
        .parent()
        .ok_or("lb-agent lies outside its workspace")?;
    watch(workspace);
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let object = ebpf::build(workspace, &arch, &|line| eprintln!("{line}"))?;
    fs::copy(&object, Path::new(&variable("OUT_DIR")?).join(ebpf::OBJECT))?;
    Ok(())
}

/// Has cargo run this again when the object would come out differently. A path that does not exist counts as changed,
/// so an object or linker that was removed is made anew.
fn watch(workspace: &Path) {
    for source in ebpf::SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    for module in ["ebpf.rs", "tools.rs"] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join("xtask/src").join(module).display()
        );
    }
    println!(
        "cargo::rerun-if-changed={}",
        tools::tools_dir(workspace).join("bin/bpf-linker").display()
    );
}

fn variable(name: &'static str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
