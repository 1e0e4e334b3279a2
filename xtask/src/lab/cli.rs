//! The agent's command line, as an operator of one node uses it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};

use super::netns::Netns;

/// The agent's binary with the roots of one node.
#[derive(Debug, Clone)]
pub(super) struct Cli {
    binary: Option<PathBuf>,
    netns: Netns,
    roots: [PathBuf; 2],
}

impl Cli {
    pub(super) fn new(binary: Option<PathBuf>, netns: Netns, bpffs: &Path, cgroup: &Path) -> Self {
        Self {
            binary,
            netns,
            roots: [bpffs.to_owned(), cgroup.to_owned()],
        }
    }

    /// Runs the binary in the node's network namespace.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Output> {
        let [bpffs, cgroup] = &self.roots;
        let mut command = Command::new(self.binary()?);
        command.args(arguments);
        command.arg("--bpffs-root").arg(bpffs);
        command.arg("--cgroup-root").arg(cgroup);
        self.netns
            .within(|| command.output().context("run the agent's binary"))
    }

    /// The binary's path.
    pub(super) fn binary(&self) -> Result<&Path> {
        self.binary
            .as_deref()
            .context("the laboratory was made without the agent's binary")
    }

    /// Services, status and routes of the node, for a test that failed.
    pub(super) fn report(&self) -> String {
        let mut text = String::new();
        for arguments in [&["service", "list"][..], &["status"]] {
            let said = self.run(arguments).map_or_else(
                |error| format!("{error:#}"),
                |output| {
                    let said = [output.stdout, output.stderr].concat();
                    String::from_utf8_lossy(&said).into_owned()
                },
            );
            // Writing to a String cannot fail.
            writeln!(text, "--- {}\n{said}", arguments.join(" ")).ok();
        }
        for family in ["-4", "-6"] {
            let routes = self.netns.show(&[family, "route"]).unwrap_or_default();
            writeln!(text, "--- ip {family} route\n{routes}").ok();
        }
        text
    }
}
