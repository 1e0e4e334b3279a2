//! The static binary in a container: an empty tree, its own mount, pid, cgroup, uts and ipc namespaces, and of the
//! host what a DaemonSet gives it: the network namespace (`hostNetwork`), and as hostPath volumes the cgroup v2
//! hierarchy, the BPF file system and the manifests.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Completion, Trial};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, Node, Place, Task, cgroup2_root, missing};

use crate::commands::text;
use crate::harness::{SIZES, SOON, eventually, judge, new_lab, soon_who, who};
use crate::load::{NAMES, VIP, Web, settle};

/// Where `cargo xtask test` says that the static binary is.
const STATIC_AGENT: &str = "LB_STATIC_AGENT";

/// Builds the tree and runs the binary in it. `/sys/fs/cgroup` is, as in most runtimes, the container's own cgroup.
const ENTER: &str = r#"
mount -t tmpfs tmpfs "$TREE"
cd "$TREE"
mkdir proc sys host manifests
touch lb-agent
mount --bind "$BINARY" lb-agent
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount --bind "$CGROUPS" host
mount --bind "$BPFFS" sys/fs/bpf
mount --bind -o ro "$MANIFESTS" manifests
exec chroot . /lb-agent "$@"
"#;

pub fn trials() -> Vec<Trial> {
    let name = "every_command_works_as_the_static_binary_in_a_container";
    let run = move || {
        let Some(binary) = std::env::var_os(STATIC_AGENT) else {
            let reason = "needs the static binary: run `cargo xtask test netns`";
            return Ok(Completion::ignored_with(reason));
        };
        let lab = new_lab()?;
        judge(&lab, || every_command(&lab, Path::new(&binary)))?;
        Ok(Completion::Completed)
    };
    vec![
        Trial::ignorable_test(name, run)
            .with_kind("container")
            .with_ignored_flag(missing().is_some()),
    ]
}

/// Where containers of a node run, and what they are given.
struct Containers {
    place: Place,
    binary: PathBuf,
    tree: PathBuf,
    bpffs: PathBuf,
    manifests: PathBuf,
    cgroup_root: String,
}

impl Containers {
    fn new(lab: &Lab, node: &Node, binary: &Path) -> Result<Self> {
        let tree = lab.dir().join("tree");
        std::fs::create_dir(&tree)?;
        // A host has one before the first container; what the agent mounted inside would end with it.
        mount(
            Some("bpf"),
            &node.bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        let cgroup = node.cgroup.strip_prefix(cgroup2_root()?)?;
        Ok(Self {
            place: node.host_network_pod("lb-agent")?,
            binary: binary.to_owned(),
            tree,
            bpffs: node.bpffs.clone(),
            manifests: node.manifests.clone(),
            cgroup_root: format!("/host/{}", cgroup.display()),
        })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--cgroup", "--uts", "--ipc"])
            .args([
                "--fork",
                "--kill-child",
                "sh",
                "-eu",
                "-c",
                ENTER,
                "container",
            ])
            .args(arguments)
            .env("TREE", &self.tree)
            .env("BINARY", &self.binary)
            .env("CGROUPS", cgroup2_root()?)
            .env("BPFFS", &self.bpffs)
            .env("MANIFESTS", &self.manifests);
        Ok(command)
    }

    /// Runs a command to its end.
    fn cli(&self, arguments: &[&str]) -> Result<Said> {
        self.place
            .exec(|| Ok(self.command(arguments)?.output()?.into()))
    }

    /// Runs a command that must succeed, and returns what it prints.
    fn said(&self, arguments: &[&str]) -> Result<String> {
        let said = self.cli(arguments)?;
        ensure!(said.is_success, "{arguments:?}: {}", said.text);
        Ok(said.text)
    }

    /// Starts the agent, which is process 1 of its container. It gets SIGTERM, or the signal that the task is told.
    fn run(&self, lab: &Lab) -> Result<Task<Option<i32>>> {
        let mut arguments = vec![
            "run",
            "--manifests",
            "/manifests",
            "--hostname-override",
            "node-a",
        ];
        arguments.extend(["--cgroup-root", &self.cgroup_root]);
        arguments.extend(SIZES.iter().flat_map(|(flag, entries)| [*flag, *entries]));
        let log = lab.log_path("node-a");
        self.place.spawn("container", |control| {
            let log = File::options().create(true).append(true).open(log)?;
            let mut command = self.command(&arguments)?;
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            let mut child = command.spawn()?;
            let signal: Option<i32> = control.hear(Duration::MAX)?;
            let signal = signal.map_or(Ok(Signal::SIGTERM), Signal::try_from)?;
            kill(first_process(&child)?, signal)?;
            Ok(child.wait()?.code())
        })
    }
}

/// The process that is number 1 inside.
fn first_process(outer: &Child) -> Result<Pid> {
    let id = outer.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let first = children.split(' ').next().context("no process")?;
    Ok(Pid::from_raw(first.parse()?))
}

#[derive(Serialize, Deserialize)]
struct Said {
    is_success: bool,
    text: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            is_success: output.status.success(),
            text: text(&output),
        }
    }
}

fn every_command(lab: &Lab, binary: &Path) -> Result<()> {
    let web = Web::new(lab)?;
    web.publish_numbers(0..4)?;
    let containers = Containers::new(lab, &web.node, binary)?;
    let checked = containers.said(&["check"])?;
    ensure!(
        checked.contains("/host"),
        "not the whole hierarchy:\n{checked}"
    );

    let agent = containers.run(lab)?;
    eventually(SOON, || containers.said(&["status"]))?;
    served(&web)?;
    looked_at(&containers)?;
    let from_host = host(&web.node, binary, &["status"])?;
    ensure!(from_host.is_success, "{}", from_host.text);

    let load = web.load()?;
    ensure!(agent.finish(SOON)? == Some(0), "SIGTERM to process 1");
    let gone = containers.cli(&["status"])?;
    ensure!(
        !gone.is_success && gone.text.contains("no agent runs"),
        "{}",
        gone.text
    );
    looked_at(&containers)?;
    let killed = containers.run(lab)?;
    eventually(SOON, || containers.said(&["status"]))?;
    killed.tell(&(Signal::SIGKILL as i32))?;
    ensure!(killed.join(SOON)? != Some(0), "SIGKILL to process 1");
    let agent = containers.run(lab)?;
    eventually(SOON, || containers.said(&["status"]))?;
    settle(load)?;

    let refused = containers.cli(&["cleanup"])?;
    ensure!(
        !refused.is_success && refused.text.contains("an agent runs"),
        "{}",
        refused.text
    );
    agent.finish(SOON)?;
    let removed = containers.said(&["cleanup"])?;
    // Eleven on the cgroup, three on devices: the node's uplink, both ways, and lb0.
    ensure!(removed.contains("14 links detached"), "{removed}");
    ensure!(containers.said(&["cleanup"])?.contains("nothing is pinned"));
    ensure!(
        web.client.ask(&Dial::tcp(VIP.parse()?))?.is_err(),
        "still translated"
    );
    Ok(())
}

fn served(web: &Web) -> Result<()> {
    for dial in web.dials()? {
        ensure!(who(&web.client, &dial, 60)? == NAMES, "{dial}");
    }
    web.publish_numbers([1])?;
    soon_who(&web.client, &Dial::tcp(VIP.parse()?), 10, &["web-1"])?;
    web.publish_numbers(0..4)?;
    soon_who(&web.client, &Dial::tcp(VIP.parse()?), 60, &NAMES)
}

/// What needs maps alone, with the defaults of all flags.
fn looked_at(containers: &Containers) -> Result<()> {
    for (arguments, expected) in [
        (
            &["service", "list"][..],
            &["ns/web", "10.96.0.10", "fd00:96::a"][..],
        ),
        (
            &["service", "get", "ns/web", "-o", "yaml"],
            &["10.244.1.2", "fd00:244:1::2"],
        ),
        (
            &["explain", "--to", VIP],
            &["host", "ns/web", "10.244.1.2:8080"],
        ),
        (
            &["explain", "--pid", "1", "--to", VIP],
            &["host", "10.244.1.2:8080"],
        ),
        (&["check"], &["connect4"]),
    ] {
        let said = containers.said(arguments)?;
        for word in expected {
            ensure!(said.contains(word), "{arguments:?}: no {word} in\n{said}");
        }
    }
    Ok(())
}

/// The same binary on the host, for what a container pinned.
fn host(node: &Node, binary: &Path, arguments: &[&str]) -> Result<Said> {
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .arg("--bpffs-root")
        .arg(node.bpffs.join("lb"));
    node.host.exec(move || Ok(command.output()?.into()))
}
