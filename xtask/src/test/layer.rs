//! The layers of tests and the commands that run them.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::packages::{self, BPFTOOL, ETHTOOL, IP, NFT};
use crate::targets::Package;
use crate::{build, miri, say, workspace};

/// A layer of tests. Each needs more of the machine than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Layer {
    /// Pure functions: the decision, eligibility, compile, diff, layout, conversion. Needs nothing
    Host,
    /// lb-common's tests under Miri, which looks for undefined behaviour. Needs a nightly from rustup
    Miri,
    /// Every BPF program loaded into the kernel, sizes printed, field names dumped. Needs root
    Load,
    /// Packets through the loaded programs by BPF_PROG_TEST_RUN, byte for byte. Needs root
    Packet,
    /// Nodes, pods and clients of network namespaces, with the real agent. Needs root
    Netns,
    /// A real etcd and kube-apiserver, with the real agent. Needs root, and Go to build them
    Cluster,
}

/// What to do for a layer.
#[derive(Debug)]
pub(super) enum Plan {
    /// Run these, one after the other.
    Run(Vec<Command>),
    /// Nothing: the reason why it cannot run here.
    Skip(String),
    /// Nothing: the reason why that is wrong.
    Fail(String),
}

/// The test programs of the upper layers: all others need nothing and belong to the host layer.
const UPPER: [(&str, &str, Layer); 6] = [
    ("lb-agent", "load", Layer::Load),
    ("lb-agent", "packet", Layer::Packet),
    ("xtask", "lab", Layer::Netns),
    ("xtask", "image", Layer::Netns),
    ("lb-agent", "netns", Layer::Netns),
    ("lb-agent", "cluster", Layer::Cluster),
];

/// Names the static binary to tests.
const STATIC_AGENT: &str = "LB_STATIC_AGENT";

/// The packages of the host layer. lb-ebpf is an empty program on the host.
const HOST: [&str; 3] = ["lb-common", "lb-agent", "xtask"];

impl Layer {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 6] = [
        Self::Host,
        Self::Miri,
        Self::Load,
        Self::Packet,
        Self::Netns,
        Self::Cluster,
    ];

    /// What it tests, in a few words.
    #[must_use]
    pub fn summary(self) -> &'static str {
        match self {
            Self::Host => "pure functions",
            Self::Miri => "lb-common under Miri",
            Self::Load => "every BPF program into the kernel",
            Self::Packet => "packets through the loaded programs",
            Self::Netns => "nodes, pods and clients of network namespaces",
            Self::Cluster => "a real etcd and kube-apiserver",
        }
    }

    /// Installs what the layer needs and says what to run.
    pub(super) fn plan(self, packages: &[Package]) -> Plan {
        match self {
            Self::Host => Plan::Run(packages.iter().flat_map(host).collect()),
            Self::Miri => {
                miri::test_command().map_or_else(Plan::Skip, |command| Plan::Run(vec![command]))
            }
            Self::Load | Self::Packet | Self::Netns | Self::Cluster => self.upper(packages),
        }
    }

    fn upper(self, packages: &[Package]) -> Plan {
        if let Err(reason) = build::object() {
            return Plan::Fail(format!("{reason:#}"));
        }
        // The tests that need a missing program say so themselves; others of the layer can still run.
        if let Err(reason) = packages::ensure(&[IP, BPFTOOL, NFT, ETHTOOL]) {
            say::step(&reason);
        }
        if self == Self::Cluster
            && let Some(plan) = control_plane()
        {
            return plan;
        }
        let mut commands = Vec::new();
        let agent = match self.static_agent() {
            Ok(agent) => agent,
            Err(reason) => return Plan::Fail(format!("{reason:#}")),
        };
        for (package, test, layer) in UPPER {
            if layer != self {
                continue;
            }
            if !packages
                .iter()
                .any(|p| p.name == package && p.tests.contains(test))
            {
                return Plan::Fail(format!("{package} has no test program {test}"));
            }
            let mut cargo = cargo_test(package);
            cargo.args(["--test", test, "--"]);
            cargo.envs(agent.iter().map(|path| (STATIC_AGENT, path)));
            commands.push(cargo);
        }
        Plan::Run(commands)
    }

    /// What is shipped, unoptimised, for the layer that runs it in a container.
    fn static_agent(self) -> Result<Option<PathBuf>> {
        match self {
            Self::Netns => build::static_agent(&build::Options::default()).map(Some),
            Self::Host | Self::Miri | Self::Load | Self::Packet | Self::Cluster => Ok(None),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Miri => "miri",
            Self::Load => "load",
            Self::Packet => "packet",
            Self::Netns => "netns",
            Self::Cluster => "cluster",
        })
    }
}

/// Builds etcd, the API server and helm; a plan if there is nothing more to do.
fn control_plane() -> Option<Plan> {
    let built = crate::cluster::ensure_binaries();
    match built.and_then(|programs| crate::cluster::ensure_helm().map(|_| programs)) {
        Ok(Some(_)) => None,
        Ok(None) => Some(Plan::Skip(crate::cluster::NO_BINARIES.to_owned())),
        Err(error) => Some(Plan::Fail(format!("{error:#}"))),
    }
}

/// The commands for what of `package` belongs to the host layer: unit tests and test programs, then the examples in
/// its documentation, which cargo wants by themselves.
fn host(package: &Package) -> Vec<Command> {
    if !HOST.contains(&package.name.as_str()) {
        return Vec::new();
    }
    let mut cargo = cargo_test(&package.name);
    if package.has_library {
        cargo.arg("--lib");
    }
    if package.has_binary {
        cargo.arg("--bins");
    }
    for test in &package.tests {
        if !UPPER
            .iter()
            .any(|(p, t, _)| *p == package.name && t == test)
        {
            cargo.args(["--test", test]);
        }
    }
    cargo.arg("--");
    let mut commands = vec![cargo];
    if package.has_library {
        let mut examples = cargo_test(&package.name);
        examples.args(["--doc", "--"]);
        commands.push(examples);
    }
    commands
}

fn cargo_test(package: &str) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-fail-fast", "--package", package]);
    cargo
}
