//! The tools a build needs beside cargo: the Rust source component and bpf-linker. Each is looked for, and installed
//! when it is missing or of another version, into places that belong to the user's rustup or to this checkout's own
//! target folder; nothing is put on the PATH.
//!
//! `lb-agent/build.rs` includes this file, so it uses std alone and prints nothing: what happens is told to a
//! [`Progress`].

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Moves together with `rust-toolchain.toml` and the aya crates of the workspace, in one commit. 0.10.0 writes BTF the
/// kernel refuses (bpf-linker#346), and from 0.10.4 on an LLVM is needed to build it.
pub const BPF_LINKER_VERSION: &str = "0.10.3";

/// Receives one line each time something begins that takes long.
pub type Progress<'a> = &'a dyn Fn(&str);

/// Why a tool could not be had or did not do its work.
#[derive(Debug)]
pub enum ToolError {
    /// The program did not start at all.
    Start {
        /// The program, as it was called.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The program ran and failed; what it said itself stands above this error.
    Failed {
        /// What was being done.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// What the reader can do.
        remedy: String,
    },
    /// A file of ours could not be read or written.
    File {
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { program, .. } => write!(
                f,
                "{program} cannot be started; is it installed and on the PATH?"
            ),
            Self::Failed {
                what,
                status,
                remedy,
            } => write!(f, "{what} ended with {status}; {remedy}"),
            Self::File { path, .. } => write!(f, "{} cannot be read or written", path.display()),
        }
    }
}

impl std::error::Error for ToolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::File { source, .. } => Some(source),
            Self::Failed { .. } => None,
        }
    }
}

/// The folder of this checkout that holds installed tools; their programs are in `bin` below it.
#[must_use]
pub fn tools_dir(workspace: &Path) -> PathBuf {
    workspace.join("target").join("tools")
}

/// Makes sure that the pinned toolchain has the library's source, from which `core` is built for the BPF target.
///
/// # Errors
/// When it is missing and rustup is too, or cannot fetch it.
pub fn ensure_rust_src(workspace: &Path, progress: Progress<'_>) -> Result<(), ToolError> {
    let sysroot = output(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(workspace),
    )?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if source.exists() {
        return Ok(());
    }
    progress("installing the Rust source component (rustup component add rust-src)");
    let mut rustup = Command::new("rustup");
    rustup
        .args(["component", "add", "rust-src"])
        .current_dir(workspace);
    run(
        &mut rustup,
        "installing rust-src",
        "give this toolchain its library source: rustup component add rust-src",
    )
}

/// Makes sure that the pinned toolchain has the standard library of `target`.
///
/// # Errors
/// When it is missing and rustup is too, or cannot fetch it.
pub fn ensure_target(
    workspace: &Path,
    target: &str,
    progress: Progress<'_>,
) -> Result<(), ToolError> {
    let sysroot = output(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(workspace),
    )?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib").join(target);
    if library.is_dir() {
        return Ok(());
    }
    progress(&format!(
        "installing the standard library of {target} (rustup target add)"
    ));
    let mut rustup = Command::new("rustup");
    rustup
        .args(["target", "add", target])
        .current_dir(workspace);
    run(
        &mut rustup,
        &format!("installing {target}"),
        &format!("give this toolchain its standard library: rustup target add {target}"),
    )
}

/// Makes sure that bpf-linker is there in its one version, and returns its path.
///
/// # Errors
/// When cargo cannot fetch or build it.
pub fn ensure_bpf_linker(workspace: &Path, progress: Progress<'_>) -> Result<PathBuf, ToolError> {
    ensure_cargo_tool(
        workspace,
        "bpf-linker",
        BPF_LINKER_VERSION,
        "about a minute",
        progress,
    )
}

/// Makes sure that a program from the crate registry is in [`tools_dir`] in exactly this version, and returns its path.
/// `duration` is for the reader: how long an installation takes.
///
/// # Errors
/// When cargo cannot fetch or build it.
pub fn ensure_cargo_tool(
    workspace: &Path,
    name: &str,
    version: &str,
    duration: &str,
    progress: Progress<'_>,
) -> Result<PathBuf, ToolError> {
    let root = tools_dir(workspace);
    let program = root.join("bin").join(name);
    if has_version(&program, version) {
        return Ok(program);
    }
    let _turn = lock(&root)?;
    if has_version(&program, version) {
        return Ok(program);
    }
    progress(&format!(
        "installing {name} {version} into {} ({duration})",
        root.display()
    ));
    let mut cargo = cargo(workspace);
    cargo
        .args([
            "install",
            name,
            "--version",
            version,
            "--locked",
            "--force",
            "--root",
        ])
        .arg(&root);
    cargo.arg("--target-dir").arg(root.join("build"));
    let remedy = format!(
        "try it by hand: cargo install {name} --version {version} --locked --root {}",
        root.display()
    );
    run(&mut cargo, &format!("installing {name} {version}"), &remedy)?;
    fs::remove_dir_all(root.join("build"))
        .or_else(none_is_fine)
        .map_err(|source| file(&root, source))?;
    progress(&format!("{name} {version} is installed"));
    Ok(program)
}

/// The cargo that runs us, in the workspace, for a build with a target folder of its own: nothing of an outer cargo's
/// build is in its environment, whose flags, target folder and profile would otherwise become those of this one.
#[must_use]
pub fn cargo(workspace: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace);
    without_outer_build(&mut command);
    command
}

/// Takes what describes the build around us out of the environment of `command`.
pub fn without_outer_build(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_of_outer_build(&name) {
            command.env_remove(name);
        }
    }
}

/// Whether a variable describes the build that is running around us. What the user set for every build of theirs
/// (folders, network, registries, toolchain, colours) stays.
fn is_of_outer_build(name: &OsStr) -> bool {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
        "CARGO_SOURCE_",
        "RUSTUP_",
        "RUST_BACKTRACE",
    ];
    const OTHERS: [&str; 9] = [
        "TARGET",
        "HOST",
        "OUT_DIR",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "MAKEFLAGS",
        "MFLAGS",
    ];
    let Some(name) = name.to_str() else {
        return false;
    };
    if KEPT.iter().any(|kept| name.starts_with(kept)) {
        return false;
    }
    name.starts_with("CARGO") || name.starts_with("RUST") || OTHERS.contains(&name)
}

/// Runs to the end, the child writing where we write.
///
/// # Errors
/// When it does not start or does not succeed; `remedy` says what the reader can do.
pub fn run(command: &mut Command, what: &str, remedy: &str) -> Result<(), ToolError> {
    // A build script's stdout is read by cargo, so what children print belongs on stderr.
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(|e| start(command, e))?;
    if status.success() {
        return Ok(());
    }
    Err(ToolError::Failed {
        what: what.to_owned(),
        status,
        remedy: remedy.to_owned(),
    })
}

/// Runs to the end and returns what it wrote to stdout.
///
/// # Errors
/// When it does not start or does not succeed.
pub fn output(command: &mut Command) -> Result<String, ToolError> {
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| start(command, e))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let what = format!("{command:?}");
    Err(ToolError::Failed {
        what,
        status: out.status,
        remedy: "its own words are above".to_owned(),
    })
}

fn has_version(program: &Path, version: &str) -> bool {
    let Ok(out) = Command::new(program).arg("--version").output() else {
        return false;
    };
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .nth(1)
        == Some(version)
}

/// Lets one installation at a time into `dir`: an editor's background build and a command often start together. The
/// lock goes with the file handle.
fn lock(dir: &Path) -> Result<File, ToolError> {
    let path = dir.join(".lock");
    fs::create_dir_all(dir).map_err(|source| file(dir, source))?;
    let handle = File::create(&path).map_err(|source| file(&path, source))?;
    handle.lock().map_err(|source| file(&path, source))?;
    Ok(handle)
}

fn none_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

fn start(command: &Command, source: io::Error) -> ToolError {
    ToolError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

fn file(path: &Path, source: io::Error) -> ToolError {
    ToolError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_folders_of_an_outer_build_stay_out_of_the_inner_one() {
        for name in [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_BUILD_DIR",
            "CARGO_CFG_TARGET_ARCH",
            "CARGO_PROFILE_RELEASE_LTO",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "RUSTC_BOOTSTRAP",
            "MAKEFLAGS",
            "OUT_DIR",
        ] {
            assert!(is_of_outer_build(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn what_the_user_set_for_every_build_stays() {
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MIRROR_INDEX",
            "RUSTUP_TOOLCHAIN",
            "RUSTUP_HOME",
            "RUST_BACKTRACE",
            "PATH",
            "HOSTNAME",
        ] {
            assert!(!is_of_outer_build(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_tool_of_another_version_is_not_taken() {
        // rustc is here wherever this test can be built, and prints its version as these tools do.
        let out = Command::new("rustc").arg("--version").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let version = text.split(' ').nth(1).unwrap();
        assert!(has_version(Path::new("rustc"), version));
        assert!(!has_version(Path::new("rustc"), "0.10.3"));
        assert!(!has_version(Path::new("/nowhere/rustc"), version));
    }
}
