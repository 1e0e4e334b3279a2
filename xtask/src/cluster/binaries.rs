//! Where the control plane's programs come from: `KUBEBUILDER_ASSETS`, or Go modules built into the target folder.
//!
//! Modules of our own, `xtask/cluster/*`, pin every dependency by go.sum. They stay apart because etcd, Kubernetes and
//! Helm of one season want different versions of the same libraries.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::slice;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

/// Why [`ensure_binaries`] answered `None`, in words fit for a skipped test.
pub const NO_BINARIES: &str = "no Go to build etcd and kube-apiserver with: install Go 1.26 or newer, \
     or let KUBEBUILDER_ASSETS name a folder that holds both";

/// Why [`ensure_helm`] answered `None`.
pub const NO_HELM: &str = "no Go to build helm with: install Go 1.26 or newer";

/// A Go module of ours and the programs it pins.
struct Module {
    folder: &'static str,
    programs: &'static [Program],
}

struct Program {
    name: &'static str,
    package: &'static str,
}

const MODULES: [Module; 2] = [
    Module {
        folder: "etcd",
        programs: &[Program {
            name: "etcd",
            package: "go.etcd.io/etcd/server/v3",
        }],
    },
    Module {
        folder: "kubernetes",
        programs: &[
            Program {
                name: "kube-apiserver",
                package: "k8s.io/kubernetes/cmd/kube-apiserver",
            },
            Program {
                name: "kube-controller-manager",
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
            },
            Program {
                name: "kube-proxy",
                package: "k8s.io/kubernetes/cmd/kube-proxy",
            },
            Program {
                name: "kubectl",
                package: "k8s.io/kubernetes/cmd/kubectl",
            },
        ],
    },
];

/// For the chart in `deploy`; the control plane does without.
const HELM: Module = Module {
    folder: "helm",
    programs: &[Program {
        name: "helm",
        package: "helm.sh/helm/v4/cmd/helm",
    }],
};

/// How many of the last lines of a failed build go into the error.
const KEPT_LINES: usize = 20;

/// The folder that holds etcd, kube-apiserver, kubectl and (unless it is somebody else's) kube-controller-manager.
///
/// `KUBEBUILDER_ASSETS` wins where it is set. Otherwise the programs are built from source once per go.sum, with
/// progress on standard error: some minutes from nothing, no time after that. `None` means that there is no Go here,
/// see [`NO_BINARIES`].
///
/// # Errors
/// When `KUBEBUILDER_ASSETS` names a folder without the programs, or when a build fails; the message carries the
/// compiler's last lines.
pub fn ensure_binaries() -> Result<Option<PathBuf>> {
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
        return given(PathBuf::from(folder)).map(Some);
    }
    build(&MODULES)
}

/// helm, built from source once per go.sum. `None` means that there is no Go here.
///
/// # Errors
/// When the build fails; the message carries the compiler's last lines.
pub fn ensure_helm() -> Result<Option<PathBuf>> {
    Ok(build(slice::from_ref(&HELM))?.map(|bin| bin.join("helm")))
}

/// Builds what is missing of `modules` and returns the folder of all programs.
fn build(modules: &[Module]) -> Result<Option<PathBuf>> {
    let Ok(go) = which::which("go") else {
        return Ok(None);
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.with_file_name("target").join("cluster");
    let bin = target.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let lock =
        File::create(target.join("lock")).context("cannot make the lock file of the Go builds")?;
    lock.lock()
        .context("cannot wait for another build of Go programs")?;
    for module in modules {
        build_module(&go, &root.join("cluster").join(module.folder), module, &bin)?;
    }
    Ok(Some(bin))
}

fn given(folder: PathBuf) -> Result<PathBuf> {
    for name in ["etcd", "kube-apiserver", "kubectl"] {
        if !folder.join(name).is_file() {
            bail!(
                "KUBEBUILDER_ASSETS is {}, which holds no {name}; correct it, or unset it to build from source",
                folder.display()
            );
        }
    }
    Ok(folder)
}

fn build_module(go: &Path, source: &Path, module: &Module, bin: &Path) -> Result<()> {
    let stamp = bin.join(format!(".{}.built-from", module.folder));
    let wanted = pinned_by(source)?;
    let complete = module
        .programs
        .iter()
        .all(|program| bin.join(program.name).is_file());
    if complete && fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    for program in module.programs {
        build_program(go, source, program, bin)?;
    }
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// All that decides what is built: the module file and its sums.
fn pinned_by(source: &Path) -> Result<String> {
    let mut all = String::new();
    for name in ["go.mod", "go.sum"] {
        let path = source.join(name);
        all += &fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(all)
}

fn build_program(go: &Path, source: &Path, program: &Program, bin: &Path) -> Result<()> {
    let begun = Instant::now();
    eprintln!("cluster: building {} from source", program.name);
    let mut child = Command::new(go)
        .args([
            "build",
            "-v",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            "-s -w",
            "-o",
        ])
        .arg(bin.join(program.name))
        .arg(program.package)
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .env_remove("GOFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", go.display()))?;
    let output = child
        .stderr
        .take()
        .context("the compiler's output was not piped")?;
    let last = follow(program.name, BufReader::new(output));
    let status = child.wait().context("cannot wait for the Go compiler")?;
    if !status.success() {
        bail!(
            "building {} in {} ended with {status}; the compiler's last lines:\n{}",
            program.name,
            source.display(),
            last.join("\n")
        );
    }
    eprintln!(
        "cluster: {} is built ({} s)",
        program.name,
        begun.elapsed().as_secs()
    );
    Ok(())
}

/// Shows how many packages were compiled so far (on a terminal alone) and keeps the last lines.
fn follow(name: &str, output: impl BufRead) -> Vec<String> {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut last = Vec::new();
    for (count, line) in output.lines().map_while(Result::ok).enumerate() {
        bar.set_message(format!("{name}: {} packages, {line}", count + 1));
        last.push(line);
        if last.len() > KEPT_LINES {
            last.remove(0);
        }
    }
    bar.finish_and_clear();
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_folder_must_hold_the_programs() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("etcd"), "").unwrap();
        let error = given(folder.path().to_owned()).unwrap_err().to_string();
        assert!(error.contains("holds no kube-apiserver"), "{error}");

        for name in ["kube-apiserver", "kubectl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(given(folder.path().to_owned()).unwrap(), folder.path());
    }

    #[test]
    fn only_the_last_lines_of_a_build_are_kept() {
        let lines: Vec<String> = (1..=KEPT_LINES + 5)
            .map(|number| format!("line {number}"))
            .collect();
        let last = follow("etcd", lines.join("\n").as_bytes());
        assert_eq!(last, lines[5..]);
    }

    #[test]
    fn every_program_is_imported_by_its_module() {
        for module in MODULES.iter().chain([&HELM]) {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("cluster")
                .join(module.folder);
            let tools = fs::read_to_string(root.join("tools.go")).unwrap();
            for program in module.programs {
                assert!(
                    tools.contains(&format!("\"{}\"", program.package)),
                    "{}",
                    program.name
                );
            }
        }
    }
}
