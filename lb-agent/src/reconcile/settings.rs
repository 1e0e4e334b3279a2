//! Everything in the maps that is not a Service: settings, this node's addresses, what the agent says
//! of itself.

use std::{
    collections::BTreeSet,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use lb_common::{
    agent_state::AgentState,
    config::Config,
    net::{Addr4, Addr6},
};

use crate::{
    maps::{
        MapError,
        family::Family,
        kernel::Map,
        pinned::{Pinned, PinnedError, maps_dir},
        sys::{self, Access, Mmap},
    },
    plan::Facts,
};

/// Why settings cannot be read or written.
#[derive(thiserror::Error, Debug)]
#[expect(missing_docs, reason = "each is its source")]
pub enum SettingsError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Pinned(#[from] PinnedError),
    #[error("map LB_AGENT: {0}")]
    Agent(#[from] std::io::Error),
}

/// Writer of `LB_CONFIG`, `LB_AGENT` and `LB*_NODE_ADDRS`.
pub struct Settings {
    config_map: Map<u32, Config>,
    agent_map: Mmap,
    node_addrs4: NodeAddrs<Addr4>,
    node_addrs6: NodeAddrs<Addr6>,
    config: Config,
    state: AgentState,
}

struct NodeAddrs<A> {
    map: Map<A, u32>,
    held: BTreeSet<A>,
}

impl Settings {
    /// Takes over what is in force.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn adopt(bpffs_root: &Path, host_netns: u64, now_ns: u64) -> Result<Self, SettingsError> {
        let pinned = Pinned::open(bpffs_root)?;
        let path: PathBuf = maps_dir(bpffs_root).join("LB_AGENT");
        let agent = sys::open_map(&path, Access::Write)?;
        let old = pinned.agent()?;
        let mut settings = Self {
            config_map: Map::open(bpffs_root, "LB_CONFIG")?,
            agent_map: Mmap::new(agent.as_fd(), size_of::<AgentState>(), Access::Write)?,
            node_addrs4: NodeAddrs::adopt(bpffs_root, &pinned)?,
            node_addrs6: NodeAddrs::adopt(bpffs_root, &pinned)?,
            config: pinned.config()?,
            state: AgentState {
                active_config: old.active_config & 1,
                pid: std::process::id(),
                started_ns: now_ns,
                host_netns,
                repaired: old.repaired,
                stale_udp_done: old.stale_udp_done,
                ..AgentState::default()
            },
        };
        settings.say(|_| {});
        Ok(settings)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Puts a configuration in force, seen whole by every reader: into the entry that is not in use,
    /// after readers of the time when it was have passed.
    ///
    /// # Errors
    /// See [`SettingsError`]; the old one stays in force.
    pub fn put_config(&mut self, config: &Config) -> Result<(), SettingsError> {
        if *config == self.config {
            return Ok(());
        }
        sys::wait_for_programs()?;
        let next = 1 - self.state.active_config;
        self.config_map.put(&next, config, || next.to_string())?;
        self.config = *config;
        self.say(|state| state.active_config = next);
        Ok(())
    }

    /// NodePorts answer on the addresses that `facts` name.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn put_node_addrs(&mut self, facts: &Facts) -> Result<(), SettingsError> {
        let (v4, v6) = (self.node_addrs4.put(facts), self.node_addrs6.put(facts));
        v4.and(v6)?;
        Ok(())
    }

    /// Writes the same again, over whatever somebody else wrote.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn repair(&mut self, bpffs_root: &Path, facts: &Facts) -> Result<usize, SettingsError> {
        let pinned = Pinned::open(bpffs_root)?;
        let mut repaired = 0;
        if pinned.config()? != self.config {
            let wanted = std::mem::take(&mut self.config);
            self.put_config(&wanted)?;
            repaired += 1;
        }
        repaired +=
            self.node_addrs4.repair(&pinned, facts)? + self.node_addrs6.repair(&pinned, facts)?;
        Ok(repaired)
    }

    /// Changes what the agent says of itself.
    pub fn say(&mut self, change: impl FnOnce(&mut AgentState)) {
        change(&mut self.state);
        // The map has one entry of this very type: checked when it was mapped.
        let _written = self.agent_map.set(0, &self.state);
    }

    /// What the agent says of itself.
    pub fn state(&self) -> &AgentState {
        &self.state
    }
}

impl<A: Family> NodeAddrs<A> {
    fn adopt(root: &Path, pinned: &Pinned) -> Result<Self, SettingsError> {
        Ok(Self {
            map: Map::open(root, A::MAPS.node_addrs)?,
            held: pinned.node_addrs()?,
        })
    }

    fn put(&mut self, facts: &Facts) -> Result<(), MapError> {
        let wanted: BTreeSet<A> = facts
            .family::<A>()
            .node_port_addrs
            .iter()
            .filter_map(|ip| A::from_ip(*ip))
            .collect();
        for addr in self.held.clone().difference(&wanted) {
            self.map.delete(addr, || format!("{addr:?}"))?;
            self.held.remove(addr);
        }
        // Where not all fit, the primary address is the one that must.
        let primary = facts.family::<A>().primary.and_then(A::from_ip);
        let first = wanted.iter().filter(|addr| Some(**addr) == primary);
        for addr in first.chain(&wanted) {
            if !self.held.contains(addr) {
                self.map.put(addr, &1_u32, || format!("{addr:?}"))?;
                self.held.insert(*addr);
            }
        }
        Ok(())
    }

    fn repair(&mut self, pinned: &Pinned, facts: &Facts) -> Result<usize, SettingsError> {
        let found = pinned.node_addrs()?;
        let differ = found.symmetric_difference(&self.held).count();
        self.held = found;
        self.put(facts)?;
        Ok(differ)
    }
}
