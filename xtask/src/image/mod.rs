//! `cargo xtask image`: the static binary as an OCI image, in one file that every container runtime imports. No
//! registry, no daemon and no base image have part in it, and the same binary always gives the same bytes.

mod arch;
mod layer;
mod layout;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::{build, say, workspace};

pub use arch::Arch;
pub use layout::archive;

/// What to put into the archive, and where that goes.
#[derive(Debug, Args)]
pub struct Options {
    /// For this architecture; given twice, the image is for both [default: this machine's]
    #[arg(long = "arch", value_enum, value_name = "ARCH")]
    arches: Vec<Arch>,
    /// Where to write it [default: target/lb-agent-VERSION-ARCH.oci.tar]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The image of one architecture, before it is packed.
#[derive(Debug)]
pub struct Platform {
    /// What it runs on.
    pub arch: Arch,
    /// The static binary.
    pub binary: Vec<u8>,
}

/// The name under which a runtime knows the image once it is imported, and which `deploy` asks for.
pub const NAME: &str = concat!("localhost/lb-agent:", env!("CARGO_PKG_VERSION"));

/// Builds the binaries and writes the archive.
///
/// # Errors
/// When a binary cannot be built, or the archive cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let mut arches = options.arches.clone();
    if arches.is_empty() {
        arches.push(Arch::host()?);
    }
    arches.sort_unstable();
    arches.dedup();
    let platforms: Vec<Platform> = arches
        .iter()
        .copied()
        .map(platform)
        .collect::<Result<_>>()?;
    let archive = archive(&platforms)?;
    let out = options.out.clone().unwrap_or_else(|| usual_path(&arches));
    fs::write(&out, &archive.bytes).with_context(|| format!("cannot write {}", out.display()))?;
    say::line(format!("{}  {NAME}  {}", out.display(), archive.digest));
    Ok(())
}

fn platform(arch: Arch) -> Result<Platform> {
    let path = build::static_agent_for(arch, &build::Options::shipped())?;
    let binary = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Platform { arch, binary })
}

fn usual_path(arches: &[Arch]) -> PathBuf {
    let names: Vec<&str> = arches.iter().map(|arch| arch.oci()).collect();
    let version = env!("CARGO_PKG_VERSION");
    workspace::target_dir().join(format!("lb-agent-{version}-{}.oci.tar", names.join("-")))
}
