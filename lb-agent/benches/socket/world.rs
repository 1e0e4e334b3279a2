//! A data plane of its own: bpffs folder, maps, programs on a cgroup, filled by the agent's own reconciler.

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddrV4,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lb_agent::{
    attach::{self, Lock, Plane},
    config::{Config, DetectLocal, EndpointsSource, NodePortAddresses, Packets, Source},
    maps::{
        Capacities,
        pinned::{Pinned, links_dir},
        sys as agent_sys,
    },
    reconcile::Reconciler,
};
use lb_common::{map_table::Capacity, reason::Counter};
use xtask::lab::Place;

use crate::{
    objects::{Here, Objects},
    sys::{self, Runs},
};

/// The name of the node that serves.
pub const NODE: &str = "bench";

/// A data plane and the place whose sockets it serves.
pub struct World {
    pub place: Place,
    pub root: PathBuf,
    pub agent: Reconciler,
    /// ClusterIPs of the crowd.
    pub vips: Vec<SocketAddrV4>,
    programs: BTreeMap<&'static str, OwnedFd>,
    _plane: Plane,
    _lock: Lock,
}

impl World {
    /// Loads, attaches and fills; `place` is served.
    pub fn new(place: Place, root: PathBuf, objects: Objects, here: &Here) -> Result<Self> {
        std::fs::create_dir_all(&place.cgroup)?;
        let lock = attach::prepare(&root)?;
        let mut plane = Plane::load(&root, &capacities(), here.host_netns)?;
        attach::attach(&mut plane, &root, &place.cgroup, true)?;
        let vips = objects
            .services
            .iter()
            .filter(|service| service.key.name.starts_with("crowd-"))
            .filter_map(|service| match service.cluster_ips.first() {
                Some(std::net::IpAddr::V4(ip)) => Some(SocketAddrV4::new(*ip, 80)),
                _ => None,
            })
            .collect();
        Ok(Self {
            agent: adopt(&root, objects, here)?,
            programs: programs(&root)?,
            place,
            root,
            vips,
            _plane: plane,
            _lock: lock,
        })
    }

    /// The kernel's statistics of a program.
    pub fn runs(&self, program: &str) -> Result<Runs> {
        let fd = self.programs.get(program).context("no such program")?;
        Ok(sys::runs(fd.as_fd())?)
    }

    /// What a counter says.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let counters = Pinned::open(&self.root)?.counters()?;
        let found = counters.iter().find(|(name, _)| *name == counter);
        found.map(|(_, count)| *count).context("no such counter")
    }
}

/// The agent's control plane over the pinned maps, its first round done.
pub fn adopt(root: &Path, objects: Objects, here: &Here) -> Result<Reconciler> {
    let mut agent = Reconciler::adopt(config(root), here.host_netns)?;
    for event in objects.events(here) {
        agent.take(event);
    }
    agent.round();
    ensure!(
        agent.failed() == 0,
        "{} Services could not be written",
        agent.failed()
    );
    agent.rest();
    Ok(agent)
}

fn programs(root: &Path) -> Result<BTreeMap<&'static str, OwnedFd>> {
    let mut programs = BTreeMap::new();
    for (name, _) in lb_common::map_table::PROGRAMS {
        let link = agent_sys::open_pin(&links_dir(root).join(name))?;
        let shape = agent_sys::link_shape(link.as_fd())?;
        programs.insert(*name, sys::program(shape.program_id)?);
    }
    Ok(programs)
}

/// The sizes that the agent has without flags.
fn capacities() -> Capacities {
    Capacities {
        frontends: Capacity::Frontends.default_entries(),
        services: Capacity::Services.default_entries(),
        slots: Capacity::Slots.default_entries(),
        backends: Capacity::Backends.default_entries(),
        sources: Capacity::Sources.default_entries(),
        flows: Capacity::Flows.default_entries(),
    }
}

fn config(root: &Path) -> Config {
    Config {
        file: None,
        shown: serde_json::Value::Null,
        oom_score_adj: 0,
        sync_period: std::time::Duration::from_secs(30),
        source: Source::Manifests(PathBuf::new()),
        endpoints: EndpointsSource::Slices,
        node_name: NODE.into(),
        bind_address: None,
        external_ips: true,
        cluster_cidrs: Vec::new(),
        detect_local: DetectLocal::ClusterCidr,
        nodeport_addresses: NodePortAddresses {
            primary: true,
            cidrs: Vec::new(),
        },
        localhost4: true,
        localhost6: true,
        protect_node_ports: false,
        masquerade_all: false,
        healthz_bind_address: None,
        metrics_bind_address: None,
        bind_hard_fail: false,
        cgroup_root: PathBuf::new(),
        bpffs_root: root.to_owned(),
        capacities: capacities(),
        packets: Packets::default(),
        min_sync_period: Duration::ZERO,
        full_check_period: Duration::ZERO,
    }
}

/// A place with programs that do nothing, to compare with.
pub struct Bare {
    pub place: Place,
    programs: BTreeMap<&'static str, sys::Empty>,
}

impl Bare {
    pub fn new(place: Place) -> Result<Self> {
        use aya_obj::generated::bpf_attach_type::{
            BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP4_SENDMSG,
        };
        std::fs::create_dir_all(&place.cgroup)?;
        let cgroup = File::open(&place.cgroup)?;
        let mut programs = BTreeMap::new();
        for (name, hook) in [
            ("lb_connect4", BPF_CGROUP_INET4_CONNECT),
            ("lb_sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
            ("lb_recvmsg4", BPF_CGROUP_UDP4_RECVMSG),
        ] {
            programs.insert(name, sys::Empty::attach(cgroup.as_fd(), hook)?);
        }
        Ok(Self { place, programs })
    }

    /// The kernel's statistics of the empty program on the hook of `program`.
    pub fn runs(&self, program: &str) -> Result<Runs> {
        let empty = self.programs.get(program).context("no such program")?;
        Ok(empty.runs()?)
    }
}
