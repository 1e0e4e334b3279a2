//! A node of the laboratory and its pods.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::agent::Agent;
use super::cli::Cli;
use super::manifest::{self, Document};
use super::netns::Netns;
use super::place::Place;
use super::task::Task;
use super::{Lab, node_addresses};

/// The zone that a node is in unless a test says otherwise.
const ZONE: &str = "zone-1";

/// The flags that name another source than a folder of manifests.
const SERVER_FLAGS: [&str; 3] = ["--kubeconfig", "--master", "--config"];

/// A node: its own processes, its pods, and where its agent finds cgroup, bpffs and manifests.
#[derive(Debug)]
pub struct Node {
    /// The node's name, as in `nodeName` of an endpoint.
    pub name: String,
    /// Where host processes run.
    pub host: Place,
    /// The cgroup below which all processes of this node live: the agent's `--cgroup-root`.
    pub cgroup: PathBuf,
    /// The agent's `--bpffs-root`: a plain folder until the agent mounts a bpffs there.
    pub bpffs: PathBuf,
    /// The agent's `--manifests`.
    pub manifests: PathBuf,
    /// Where a manifest is written before it is moved to `manifests`, on the same file system.
    stage: PathBuf,
    log: PathBuf,
    cli: Cli,
    agent_flags: Vec<(String, String)>,
    number: u8,
    pods: AtomicU16,
}

/// A pod: a place with a process that keeps it alive, as the pause container does.
#[derive(Debug)]
pub struct Pod {
    place: Place,
    /// The name of the node that it runs on.
    pub node: String,
    pause: Task<()>,
}

impl Node {
    pub(super) fn new(lab: &Lab, name: &str, number: u8, netns: Netns) -> Result<Self> {
        let cgroup = lab.ground.cgroup.join(name);
        let dir = lab.dir().join(name);
        let bpffs = dir.join("bpf");
        let cli = Cli::new(lab.agent_binary.clone(), netns.clone(), &bpffs, &cgroup);
        let node = Self {
            name: name.to_owned(),
            host: Place::new(name, netns, cgroup.join("host"), node_addresses(number))?,
            cgroup,
            bpffs,
            manifests: dir.join("manifests"),
            stage: dir.join("stage"),
            log: lab.log_path(name),
            cli,
            agent_flags: lab.agent_flags.clone(),
            number,
            pods: AtomicU16::new(0),
        };
        for folder in [&node.bpffs, &node.manifests, &node.stage] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        node.publish("node", [node.manifest()])?;
        Ok(node)
    }

    /// The Node object of this node: its addresses, its pod ranges and its zone, `zone-1`.
    #[must_use]
    pub fn manifest(&self) -> manifest::NodeManifest {
        let number = self.number;
        manifest::node(&self.name)
            .address(self.host.addresses[0])
            .address(self.host.addresses[1])
            .pod_cidr(&format!("10.244.{number}.0/24"))
            .pod_cidr(&format!("fd00:244:{number:x}::/64"))
            .zone(ZONE)
    }

    /// Adds a pod: its own network namespace and cgroup, an address of each family, and a route to it.
    ///
    /// # Errors
    /// When the kernel refuses a part of it.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_below(name, &self.cgroup)
    }

    /// Adds a pod whose sockets the node's hooks do not see, as those of a virtual machine: its cgroup is beside the
    /// node's.
    ///
    /// # Errors
    /// When the kernel refuses a part of it.
    pub fn sandboxed_pod(&self, name: &str) -> Result<Pod> {
        let beside = self.cgroup.parent().context("a cgroup with a parent")?;
        self.pod_below(name, &beside.join("sandboxes"))
    }

    fn pod_below(&self, name: &str, cgroup: &Path) -> Result<Pod> {
        let index = self.pods.fetch_add(1, Ordering::Relaxed);
        let host = u8::try_from(index + 1).context("a node of the laboratory holds 255 pods")?;
        let v4 = Ipv4Addr::new(10, 244, self.number, host);
        let v6 = Ipv6Addr::new(0xfd00, 0x244, self.number.into(), 0, 0, 0, 0, host.into());
        let netns = Netns::new()?;
        netns.sysctl("net.ipv4.tcp_fastopen", "3")?;
        self.host.netns.ip(&self.veth_to(&netns, index, v4, v6))?;
        netns.ip(&format!(
            "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nlink set eth0 up\n\
             route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 src {v4}\n\
             route add default via fe80::1 dev eth0 src {v6}\n"
        ))?;
        let place = Place::new(name, netns, cgroup.join(name), [v4.into(), v6.into()])?;
        let pause = place.spawn("pause", |control| {
            control.wait_for_stop(Duration::MAX);
            Ok(())
        })?;
        Ok(Pod {
            place,
            node: self.name.clone(),
            pause,
        })
    }

    /// A pod with `hostNetwork`: a cgroup of its own in the node's network namespace.
    ///
    /// # Errors
    /// When the cgroup cannot be made.
    pub fn host_network_pod(&self, name: &str) -> Result<Place> {
        Place::new(
            name,
            self.host.netns.clone(),
            self.cgroup.join(name),
            self.host.addresses,
        )
    }

    /// The node's end of a pod's cable has the gateway addresses that every pod uses, and no subnet.
    fn veth_to(&self, netns: &Netns, index: u16, v4: Ipv4Addr, v6: Ipv6Addr) -> String {
        let [node4, node6] = self.host.addresses;
        format!(
            "link add pod{index} type veth peer name eth0 netns {}\n\
             addr add 169.254.1.1/32 dev pod{index}\naddr add fe80::1/64 dev pod{index} nodad\n\
             link set pod{index} up\nroute add {v4}/32 dev pod{index} src {node4}\n\
             route add {v6}/128 dev pod{index} src {node6}\n",
            netns.path().display()
        )
    }

    /// Gives the node another address, on its loopback.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        self.host.netns.ip(&format!("addr add {address} dev lo\n"))
    }

    /// Puts `documents` as `<name>.yaml` into the node's manifests, replacing what was there in one step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish<D: Into<Document>>(
        &self,
        name: &str,
        documents: impl IntoIterator<Item = D>,
    ) -> Result<()> {
        let documents: Vec<Document> = documents.into_iter().map(Into::into).collect();
        self.publish_text(name, &manifest::to_yaml(&documents)?)
    }

    /// As [`Node::publish`], with a text that need not be right.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish_text(&self, name: &str, text: &str) -> Result<()> {
        let file = format!("{name}.yaml");
        let staged = self.stage.join(&file);
        fs::write(&staged, text).with_context(|| format!("write {}", staged.display()))?;
        fs::rename(&staged, self.manifests.join(&file)).with_context(|| format!("publish {file}"))
    }

    /// Removes `<name>.yaml` from the node's manifests.
    ///
    /// # Errors
    /// When it is not there.
    pub fn withdraw(&self, name: &str) -> Result<()> {
        let path = self.manifests.join(format!("{name}.yaml"));
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Starts the agent here and waits until it serves. `arguments` are added to those of the laboratory, and win over
    /// them.
    ///
    /// # Errors
    /// With its log when the agent ends or does not become ready.
    pub fn agent(&self, arguments: &[&str]) -> Result<Agent> {
        let agent = self.start_agent(arguments)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// As [`Node::agent`], started by `launcher`, a program with its arguments that ends by executing the agent.
    ///
    /// # Errors
    /// As [`Node::agent`].
    pub fn agent_by(&self, launcher: &[&str], arguments: &[&str]) -> Result<Agent> {
        let launcher = launcher.iter().map(|word| (*word).to_owned());
        let command = launcher.chain(self.run_command(arguments)?).collect();
        let agent = Agent::start(
            self.host.clone(),
            self.cli.clone(),
            command,
            self.log.clone(),
        )?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// As [`Node::agent`], without waiting.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn start_agent(&self, arguments: &[&str]) -> Result<Agent> {
        Agent::start(
            self.host.clone(),
            self.cli.clone(),
            self.run_command(arguments)?,
            self.log.clone(),
        )
    }

    /// Runs the agent's binary with `arguments` and this node's roots, as an operator on the node would.
    ///
    /// # Errors
    /// When the binary cannot be run; what it answers is in the output.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.cli.run(arguments)
    }

    pub(super) fn record(&self) -> Cli {
        self.cli.clone()
    }

    /// The command line of this node's agent.
    fn run_command(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let ours = [
            ("--manifests", self.manifests.display().to_string()),
            ("--hostname-override", self.name.clone()),
            ("--cgroup-root", self.cgroup.display().to_string()),
            ("--bpffs-root", self.bpffs.display().to_string()),
            ("--healthz-bind-address", "127.0.0.1:10256".to_owned()),
            ("--metrics-bind-address", "127.0.0.1:10249".to_owned()),
        ];
        let ours = ours.map(|(flag, value)| (flag.to_owned(), value));
        let mut words = vec![self.cli.binary()?.display().to_string(), "run".to_owned()];
        // Whoever names an API server wants no manifests beside it.
        let has_server = SERVER_FLAGS.iter().any(|flag| arguments.contains(flag));
        for (flag, value) in ours.into_iter().chain(self.agent_flags.clone()) {
            let is_moot = has_server && flag == "--manifests";
            if !arguments.contains(&flag.as_str()) && !is_moot {
                words.extend([flag, value]);
            }
        }
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        Ok(words)
    }
}

impl Pod {
    /// The process id of the pod's first process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pause.pid()
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}
