//! Builds the agent: for this machine, or as the one static binary that is shipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::image::Arch;
use crate::{ebpf, packages, say, tools, workspace};

/// How to build the agent.
#[derive(Debug, Default, Clone, Args)]
pub struct Options {
    /// Optimised, as it is shipped
    #[arg(long)]
    pub release: bool,
    /// Build for this target
    #[arg(skip)]
    pub target: Option<String>,
}

impl Options {
    /// As it is shipped.
    #[must_use]
    pub fn shipped() -> Self {
        Self {
            release: true,
            target: None,
        }
    }
}

/// Builds the BPF object and returns its path. The agent's build does so by itself; made here first, its installations
/// and the compiler's words are seen as they come, for cargo keeps back what a build script says.
///
/// # Errors
/// When a tool cannot be installed or the programs do not compile.
pub fn object() -> Result<PathBuf> {
    let arch = std::env::consts::ARCH;
    ebpf::build(&workspace::root(), arch, &say::step).context("there is no BPF object")
}

/// Builds the agent and returns its path.
///
/// # Errors
/// When it does not compile; the compiler's words are on stderr then.
pub fn agent(options: &Options) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "lb-agent", "--bin", "lb-agent"]);
    if options.release {
        cargo.arg("--release");
    }
    if let Some(target) = &options.target {
        cargo.args(["--target", target]);
        if !target.starts_with(std::env::consts::ARCH) {
            let name = target.replace('-', "_").to_uppercase();
            cargo.env(format!("CARGO_TARGET_{name}_LINKER"), "rust-lld");
        }
        use_host_compiler(&mut cargo, target);
    }
    say::step("building lb-agent");
    let status = cargo.status().context("cargo cannot be started")?;
    ensure!(
        status.success(),
        "lb-agent does not build; see the compiler's words above"
    );
    let profile = if options.release { "release" } else { "debug" };
    let folder = options
        .target
        .as_deref()
        .map_or_else(workspace::target_dir, |t| workspace::target_dir().join(t));
    Ok(folder.join(profile).join("lb-agent"))
}

/// Some crates (ring) bring a little C. It needs nothing of a C library but harmless headers, so a compiler made for
/// another one serves for musl.
fn use_host_compiler(cargo: &mut Command, target: &str) {
    let variable = format!("CC_{}", target.replace('-', "_"));
    if std::env::var_os(&variable).is_some() {
        return;
    }
    if !target.starts_with(std::env::consts::ARCH) {
        let arch = target.split('-').next().unwrap_or(target);
        cargo.env(variable, format!("{arch}-linux-gnu-gcc"));
    } else if which::which("musl-gcc").is_err() {
        cargo.env(variable, "cc");
    }
}

/// What another architecture takes: its standard library, a C compiler, and a linker, which Rust brings along.
fn prepare_foreign(arch: Arch) -> Result<()> {
    tools::ensure_target(&workspace::root(), &arch.target(), &say::step)?;
    let compiler = match arch {
        Arch::Amd64 => packages::CC_AMD64,
        Arch::Arm64 => packages::CC_ARM64,
    };
    packages::ensure(&[compiler]).map_err(anyhow::Error::msg)
}

/// `cargo xtask build`: the static binary with the BPF object inside.
///
/// # Errors
/// When it does not compile, or came out linked to a shared library.
pub fn print_static(options: &Options) -> Result<()> {
    object()?;
    let binary = static_agent(options)?;
    let size = std::fs::metadata(&binary)
        .with_context(|| format!("{} is missing", binary.display()))?
        .len();
    say::line(format!(
        "{}  {:.1} MiB, static, BPF object inside",
        binary.display(),
        mebibytes(size)
    ));
    Ok(())
}

/// Builds the static binary for this machine and returns its path.
///
/// # Errors
/// As [`print_static`].
pub fn static_agent(options: &Options) -> Result<PathBuf> {
    static_agent_for(Arch::host()?, options)
}

/// Builds the static binary for `arch` and returns its path.
///
/// # Errors
/// As [`print_static`]; or what building for another machine takes cannot be installed.
pub fn static_agent_for(arch: Arch, options: &Options) -> Result<PathBuf> {
    let target = arch.target();
    if arch != Arch::host()? {
        prepare_foreign(arch)?;
    }
    let binary = agent(&Options {
        target: Some(target),
        ..options.clone()
    })?;
    ensure!(
        is_static(&binary)?,
        "{} asks for a dynamic loader; it would not start in an empty container",
        binary.display()
    );
    Ok(binary)
}

fn is_static(binary: &Path) -> Result<bool> {
    let bytes =
        std::fs::read(binary).with_context(|| format!("{} cannot be read", binary.display()))?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no object file", binary.display()))?;
    Ok(object::Object::section_by_name(&file, ".interp").is_none())
}

fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a size for the eye")]
    let bytes = bytes as f64;
    bytes / 1024.0 / 1024.0
}
