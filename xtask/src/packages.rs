//! Programs of the distribution that tests and demo call. On Debian and its kin root gets them installed; elsewhere
//! they are named, and what needs them is skipped.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::say;

/// A program and the Debian packages that bring it and what it does not run without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// The program's name.
    pub name: &'static str,
    /// Their names, with spaces between.
    pub package: &'static str,
}

/// Makes network namespaces and routes.
pub const IP: Program = Program {
    name: "ip",
    package: "iproute2",
};
/// Shows maps as an operator would look at them.
pub const BPFTOOL: Program = Program {
    name: "bpftool",
    package: "bpftool",
};

/// Writes rules as CNI plugins and kube-proxy have them.
pub const NFT: Program = Program {
    name: "nft",
    package: "nftables",
};
/// Switches offloads of devices.
pub const ETHTOOL: Program = Program {
    name: "ethtool",
    package: "ethtool",
};

/// Compiles the little C of some crates for the other architecture; with headers, for musl's own are not asked for.
pub const CC_ARM64: Program = Program {
    name: "aarch64-linux-gnu-gcc",
    package: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
};
/// As [`CC_ARM64`].
pub const CC_AMD64: Program = Program {
    name: "x86_64-linux-gnu-gcc",
    package: "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
};

/// Installs what is missing of `programs`.
///
/// # Errors
/// What is missing and cannot be installed, in words.
pub fn ensure(programs: &[Program]) -> Result<(), String> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<&str> = missing
        .iter()
        .flat_map(|program| program.package.split(' '))
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    let list = names.join(" ");
    if !nix::unistd::geteuid().is_root() || which::which("apt-get").is_err() {
        return Err(format!("install first: {list}"));
    }
    say::step(&format!("installing {list} (apt-get)"));
    apt_get(&["update"]);
    apt_get(&[&["install", "--yes", "--no-install-recommends"], &names[..]].concat());
    match self::missing(programs).first() {
        None => Ok(()),
        Some(program) => Err(format!(
            "apt-get gives no {}; install {} by hand",
            program.name, program.package
        )),
    }
}

fn missing(programs: &[Program]) -> Vec<Program> {
    let there = |program: &&Program| which::which(program.name).is_err();
    programs.iter().filter(there).copied().collect()
}

/// Runs apt-get. That it failed shows in what is still missing after it.
fn apt_get(arguments: &[&str]) {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "--quiet"]).args(arguments);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command.stdout(std::io::stderr()).status().ok();
}
