//! The programs, loaded over maps of their own and attached to nothing, in a namespace with routes.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::{Pod, Zeroable};
use lb_agent::{
    attach::{self, Lock, Plane},
    maps::{
        family::Family,
        pinned::{Pinned, maps_dir},
        sys::{self, Access},
    },
    reconcile::Reconciler,
};
use lb_common::{
    affinity::{AffinityKey, AffinityVal},
    agent_state::AgentState,
    config::Config,
    device::DeviceVal,
    flow::{FlowKey, FlowVal},
    fragment::{FragmentKey, FragmentVal},
    limit::Bucket,
    net::{Addr4, Addr6},
    reason::{Counter, PACKET_COUNTERS},
};
use xtask::lab::{Lab, Netns};

use crate::world::{NETWORK, agent_config, events, places, rig_capacities};

/// Go on; drop; another device.
pub const NEXT: i32 = -1;
pub const SHOT: i32 = 2;
pub const REDIRECT: i32 = 7;

/// The devices of the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Devices {
    pub up0: u32,
    pub up1: u32,
    pub pod0: u32,
    pub lb0: u32,
}

pub const LB0_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0xb];

type Undo = Box<dyn FnOnce(&Rig) -> Result<()> + Send>;

pub struct Rig {
    // Before the lab, whose folder they are pinned in.
    plane: Plane,
    maps: BTreeMap<&'static str, OwnedFd>,
    active_config: u32,
    pub root: PathBuf,
    pub devices: Devices,
    /// What the agent wrote, with `lb0`.
    pub config: Config,
    undo: Vec<Undo>,
    /// Sockets of the host, until the next reset.
    pub sockets: Vec<OwnedFd>,
    _lock: Lock,
    _lab: Lab,
}

/// What came of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    pub verdict: i32,
    pub bytes: Vec<u8>,
    pub mark: u32,
}

/// The first fields of `struct __sk_buff` by name, the rest in a row.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SkBuff {
    head: [u32; 2],
    mark: u32,
    middle: [u32; 7],
    ifindex: u32,
    rest: [u32; 32],
    last: [u32; 5],
}

/// Maps that programs write, and fixtures begin without.
const STATE: [&str; 7] = [
    "LB4_FLOWS",
    "LB4_EMBRYOS",
    "LB4_FRAGMENTS",
    "LB6_FLOWS",
    "LB6_EMBRYOS",
    "LB6_FRAGMENTS",
    "LB_AFFINITY",
];

impl Rig {
    /// To be called inside the namespace.
    pub fn new(netns: &Netns) -> Result<Self> {
        let lab = Lab::new()?;
        let root = lab.dir().join("bpf");
        let lock = attach::prepare(&root)?;
        let mut plane = Plane::load(&root, &rig_capacities(), 0)?;
        for (name, _) in lb_common::map_table::PACKET_PROGRAMS {
            plane.load_packet_program(name)?;
        }
        for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            netns.sysctl(name, "1")?;
        }
        netns.ip(NETWORK)?;
        let mut agent = Reconciler::adopt(agent_config(root.clone()), 1)?;
        for event in events() {
            agent.take(event);
        }
        while agent.is_due() {
            agent.round();
        }
        ensure!(agent.failed() == 0, "the agent could not write a Service");
        let config = *agent.settings().config();
        ensure!(config.mark != 0, "the agent wrote no settings");
        drop(agent);
        let mut rig = Self {
            plane,
            maps: BTreeMap::new(),
            active_config: 0,
            root,
            devices: devices()?,
            config,
            undo: Vec::new(),
            sockets: Vec::new(),
            _lock: lock,
            _lab: lab,
        };
        rig.finish()?;
        Ok(rig)
    }

    /// What the agent does not write by itself: devices, and `lb0`.
    fn finish(&mut self) -> Result<()> {
        for spec in lb_common::map_table::MAPS {
            let map = sys::open_map(&maps_dir(&self.root).join(spec.name), Access::Write)?;
            self.maps.insert(spec.name, map);
        }
        let [v4, v6] = places();
        let device = |nth: usize| -> Result<DeviceVal> {
            Ok(DeviceVal {
                flags: DeviceVal::UPLINK,
                masq4: Addr4::from_ip(v4.nodes[nth]).context("IPv4")?,
                masq6: Addr6::from_ip(v6.nodes[nth]).context("IPv6")?,
            })
        };
        self.put("LB_DEVICES", &self.devices.up0, &device(0)?)?;
        self.put("LB_DEVICES", &self.devices.up1, &device(1)?)?;
        self.put("LB_DEVICES", &self.devices.lb0, &DeviceVal::default())?;
        let state: AgentState = Pinned::open(&self.root)?.agent()?;
        self.active_config = state.active_config & 1;
        self.config.lb0 = self.devices.lb0;
        self.config.lb0_mac = LB0_MAC;
        let config = self.config;
        self.put_config(&config)
    }

    /// Puts settings in force. No program runs meanwhile.
    pub fn put_config(&mut self, config: &Config) -> Result<()> {
        self.put("LB_CONFIG", &self.active_config, config)
    }

    pub fn put<K: Pod, V: Pod>(&self, map: &str, key: &K, value: &V) -> Result<()> {
        self.put_all(map, &[*key], &[*value])
    }

    pub fn put_all<K: Pod, V: Pod>(&self, map: &str, keys: &[K], values: &[V]) -> Result<()> {
        (self.typed::<K, V>(map)?.update(keys, values)).map_err(|(_, error)| error.into())
    }

    /// Puts the agent's values back at the next reset.
    pub fn put_until_reset(&mut self, undo: impl FnOnce(&Self) -> Result<()> + Send + 'static) {
        self.undo.push(Box::new(undo));
    }

    pub fn delete<K: Pod, V: Pod>(&self, map: &str, key: &K) -> Result<()> {
        (self.typed::<K, V>(map)?.delete(&[*key])).map_err(|(_, error)| error.into())
    }

    fn typed<K: Pod, V: Pod>(&self, map: &str) -> Result<sys::TypedMap<K, V>> {
        let map = self.maps.get(map).context("no such map")?;
        Ok(sys::TypedMap::new(map.try_clone()?)?)
    }

    pub fn lookup<K: Pod, V: Pod>(&self, map: &str, key: &K) -> Result<Option<V>> {
        let map = self.maps.get(map).context("no such map")?;
        Ok(sys::lookup(map.as_fd(), key)?)
    }

    pub fn entries<K: Pod, V: Pod>(&self, map: &str) -> Result<Vec<(K, V)>> {
        let map = self.maps.get(map).context("no such map")?;
        Ok(sys::entries(map.as_fd())?)
    }

    /// Forgets every flow, fragment and pin, and puts the agent's settings in force.
    pub fn reset(&mut self) -> Result<()> {
        self.sockets.clear();
        for undo in std::mem::take(&mut self.undo) {
            undo(self)?;
        }
        for name in STATE {
            match name {
                "LB_AFFINITY" => self.empty::<AffinityKey, AffinityVal>(name)?,
                "LB4_FRAGMENTS" => self.empty::<FragmentKey<Addr4>, FragmentVal>(name)?,
                "LB6_FRAGMENTS" => self.empty::<FragmentKey<Addr6>, FragmentVal>(name)?,
                "LB4_FLOWS" | "LB4_EMBRYOS" => {
                    self.empty::<FlowKey<Addr4>, FlowVal<Addr4>>(name)?;
                }
                _ => self.empty::<FlowKey<Addr6>, FlowVal<Addr6>>(name)?,
            }
        }
        self.put_bucket(Bucket::default())?;
        let config = self.config;
        self.put_config(&config)
    }

    fn empty<K: Pod, V: Pod>(&self, name: &str) -> Result<()> {
        for (key, _) in self.entries::<K, V>(name)? {
            self.delete::<K, V>(name, &key)?;
        }
        Ok(())
    }

    /// How many answers may be given, on every CPU.
    pub fn put_bucket(&self, bucket: Bucket) -> Result<()> {
        let map = aya::maps::MapData::from_pin(maps_dir(&self.root).join("LB_LIMIT"))?;
        let map = aya::maps::Map::PerCpuArray(map);
        let mut map = aya::maps::PerCpuArray::<_, Bucket>::try_from(map)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?.get();
        let values = aya::maps::PerCpuValues::try_from(vec![bucket; cpus as usize])?;
        Ok(map.set(0, values, 0)?)
    }

    /// Counters of packets, summed over CPUs.
    pub fn counters(&self) -> Result<Vec<u64>> {
        let map = self.maps.get("LB_COUNTERS").context("no such map")?;
        let slot = |index| {
            let values = sys::lookup_per_cpu(map.as_fd(), index)?.context("no such counter")?;
            Ok(values.iter().sum())
        };
        (0..Counter::COUNT)
            .map(|index| slot(u32::try_from(index)? + PACKET_COUNTERS))
            .collect()
    }

    /// Runs a program once over a packet that is met at a device.
    pub fn run(&self, program: &str, device: u32, mark: u32, packet: &[u8]) -> Result<Ran> {
        let program = self
            .plane
            .packet_program(program)
            .context("no such program")?;
        let ctx_in = SkBuff {
            mark,
            ifindex: device,
            ..SkBuff::zeroed()
        };
        let mut ctx_out = SkBuff::zeroed();
        let mut bytes = vec![0; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut bytes);
        options.ctx_in = Some(bytemuck::bytes_of(&ctx_in));
        options.ctx_out = Some(bytemuck::bytes_of_mut(&mut ctx_out));
        let result = program.test_run(options)?;
        bytes.truncate(result.data_size_out as usize);
        Ok(Ran {
            verdict: result.return_value.cast_signed(),
            bytes,
            mark: ctx_out.mark,
        })
    }
}

fn devices() -> Result<Devices> {
    let index = |name: &str| nix::net::if_::if_nametoindex(name).context("a device");
    Ok(Devices {
        up0: index("up0")?,
        up1: index("up1")?,
        pod0: index("pod0")?,
        lb0: index("lb0")?,
    })
}
