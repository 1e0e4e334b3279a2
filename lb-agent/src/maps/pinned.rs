//! The pinned maps, opened for reading alone: while the agent runs and after it has gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use bytemuck::Pod;
use lb_common::{
    ABI_VERSION,
    agent_state::AgentState,
    config::Config,
    device::DeviceVal,
    flow::{FlowKey, FlowVal},
    id::{BackendId, ServiceId},
    map_table::{MAPS, MapSpec, MapType, find},
    name::ServiceName,
    netns::NetnsVal,
    reason::{COUNTER_SLOTS, Counter},
    service::{Backend, Service, Slot},
    socket::Peer,
    source::SourceKey,
};

use super::{
    Content,
    family::Family,
    snapshot::Snapshot,
    sys::{self, Access, MapShape, Mmap},
};

/// BPF_F_MMAPABLE
const MMAPABLE: u32 = 1 << 10;

/// An entry of the flow tables.
pub type FlowHalf<A> = (FlowKey<A>, FlowVal<A>);

/// The folder of everything that belongs to this version's layout.
pub fn version_dir(bpffs_root: &Path) -> PathBuf {
    bpffs_root.join(format!("v{ABI_VERSION}"))
}

/// The folder of maps.
pub fn maps_dir(bpffs_root: &Path) -> PathBuf {
    version_dir(bpffs_root).join("maps")
}

/// The folder of links.
pub fn links_dir(bpffs_root: &Path) -> PathBuf {
    version_dir(bpffs_root).join("links")
}

/// The folder of links on devices.
pub fn device_links_dir(bpffs_root: &Path) -> PathBuf {
    links_dir(bpffs_root).join("devices")
}

/// The folder of programs that filters on devices run.
pub fn device_filters_dir(bpffs_root: &Path) -> PathBuf {
    links_dir(bpffs_root).join("filters")
}

/// Where it is noted which ports the agent reserved.
pub fn reserved_ports_note(bpffs_root: &Path) -> PathBuf {
    version_dir(bpffs_root).join("reserved-ports")
}

/// Why the maps cannot be read.
#[derive(thiserror::Error, Debug)]
pub enum PinnedError {
    /// No agent has been here.
    #[error(
        "nothing is pinned under {0}: no agent has run with this --bpffs-root, or the BPF file system is not visible from here"
    )]
    NotThere(PathBuf),
    /// Somebody else's file system, or no right to look.
    #[error("{path}: {error}; reading the data plane needs CAP_BPF")]
    Open {
        /// The pin.
        path: PathBuf,
        /// errno.
        error: io::Error,
    },
    /// A map does not answer.
    #[error("map {map}: {error}")]
    Read {
        /// Its name.
        map: &'static str,
        /// errno.
        error: io::Error,
    },
}

/// How full a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    /// The map.
    pub spec: &'static MapSpec,
    /// Entries in use.
    pub entries: usize,
    /// Its size.
    pub capacity: u32,
}

/// The pinned maps of one agent.
#[derive(Clone, Debug)]
pub struct Pinned {
    maps: PathBuf,
}

impl Pinned {
    /// The maps below `--bpffs-root`.
    ///
    /// # Errors
    /// [`PinnedError::NotThere`]
    pub fn open(bpffs_root: &Path) -> Result<Self, PinnedError> {
        let maps = maps_dir(bpffs_root);
        if !maps.is_dir() {
            return Err(PinnedError::NotThere(bpffs_root.to_owned()));
        }
        Ok(Self { maps })
    }

    fn map(&self, name: &'static str) -> Result<OwnedFd, PinnedError> {
        self.open_map(name, Access::Read)
    }

    fn open_map(&self, name: &'static str, access: Access) -> Result<OwnedFd, PinnedError> {
        let path = self.maps.join(name);
        sys::open_map(&path, access).map_err(|error| PinnedError::Open { path, error })
    }

    fn entries<K: Pod, V: Pod>(&self, name: &'static str) -> Result<Vec<(K, V)>, PinnedError> {
        let map = self.map(name)?;
        sys::entries(map.as_fd()).map_err(|error| PinnedError::Read { map: name, error })
    }

    /// `LB*_NAMES`
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn names<A: Family>(&self) -> Result<Vec<(ServiceId, ServiceName)>, PinnedError> {
        self.entries(A::MAPS.names)
    }

    /// `LB*_FLOWS` and `LB*_EMBRYOS`, all halves. A flow that grows up meanwhile is in neither or both.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn flows<A: Family>(&self) -> Result<Vec<FlowHalf<A>>, PinnedError>
    where
        FlowKey<A>: Pod,
        FlowVal<A>: Pod,
    {
        let mut flows = self.entries(A::MAPS.flows)?;
        flows.extend(self.entries(A::MAPS.embryos)?);
        Ok(flows)
    }

    /// Only what is opened for writing can be shared memory, even memory that is only read
    /// (`bpf_map_mmap` in kernel/bpf/syscall.c wants VM_SHARED).
    fn array<V: Pod>(&self, name: &'static str) -> Result<Array<V>, PinnedError> {
        let map = self.open_map(name, Access::Write)?;
        Array::open(&map).map_err(|error| PinnedError::Read { map: name, error })
    }

    /// `LB_AGENT`
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn agent(&self) -> Result<AgentState, PinnedError> {
        Ok(self.array("LB_AGENT")?.get(0).unwrap_or_default())
    }

    /// The value of `LB_CONFIG` that is in force.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn config(&self) -> Result<Config, PinnedError> {
        let active = self.agent()?.active_config;
        Ok(self.array("LB_CONFIG")?.get(active).unwrap_or_default())
    }

    /// `LB_DEVICES`
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn devices(&self) -> Result<BTreeMap<u32, DeviceVal>, PinnedError> {
        Ok(self.entries("LB_DEVICES")?.into_iter().collect())
    }

    /// `LB*_BACKENDS`, to look into.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub(crate) fn backend_array<A: Family>(&self) -> Result<Array<A::Backend>, PinnedError> {
        self.array(A::MAPS.backends)
    }

    /// `LB_PEERS`, every place.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn peers(&self) -> Result<Vec<Peer>, PinnedError> {
        let places = self.entries::<u32, Peer>("LB_PEERS")?;
        Ok(places.into_iter().map(|(_, peer)| peer).collect())
    }

    /// `LB_COUNTERS`, summed over CPUs, sockets and packets.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, PinnedError> {
        const NAME: &str = "LB_COUNTERS";
        let map = self.map(NAME)?;
        let slot = |index| {
            let values = sys::lookup_per_cpu(map.as_fd(), index)
                .map_err(|error| PinnedError::Read { map: NAME, error })?;
            Ok(values
                .unwrap_or_default()
                .into_iter()
                .fold(0, u64::wrapping_add))
        };
        Counter::ALL
            .iter()
            .map(|counter| {
                let index = *counter as u32;
                let packets: u64 = slot(index + COUNTER_SLOTS / 2)?;
                Ok((*counter, packets.wrapping_add(slot(index)?)))
            })
            .collect()
    }

    /// `LB*_NODE_ADDRS`
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn node_addrs<A: Family>(&self) -> Result<BTreeSet<A>, PinnedError> {
        let entries = self.entries::<A, u32>(A::MAPS.node_addrs)?;
        Ok(entries.into_iter().map(|(addr, _)| addr).collect())
    }

    /// `LB_NETNS`
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn netns(&self) -> Result<BTreeMap<u64, NetnsVal>, PinnedError> {
        Ok(self.entries("LB_NETNS")?.into_iter().collect())
    }

    /// Everything that the maps of one family hold for services.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn content<A: Family>(&self) -> Result<Content<A>, PinnedError> {
        let services = self.services(A::MAPS.services)?;
        let slots = self.slots(A::MAPS.slots, &services)?;
        let (backends, generations) = self.backends(A::MAPS.backends)?;
        Ok(Content {
            frontends: self
                .entries::<A::FrontendKey, _>(A::MAPS.frontends)?
                .into_iter()
                .map(|(key, val)| (key.into(), val))
                .collect(),
            names: self.entries(A::MAPS.names)?.into_iter().collect(),
            sources: self.sources(A::MAPS.sources)?,
            services,
            slots,
            backends,
            generations,
        })
    }

    /// Everything that a decision of one family reads.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn snapshot<A: Family>(&self) -> Result<Snapshot<A>, PinnedError> {
        Ok(Snapshot {
            content: self.content()?,
            node_addrs: self.node_addrs()?,
            config: self.config()?,
            netns: self.netns()?,
            affinity: self.entries("LB_AFFINITY")?,
        })
    }

    /// How full each map is that can be.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn fills(&self) -> Result<Vec<Fill>, PinnedError> {
        let mut fills = Vec::new();
        for spec in MAPS {
            let Some(entries) = self.count(spec)? else {
                continue;
            };
            fills.push(Fill {
                spec,
                entries,
                capacity: self.shape(spec.name)?.max_entries,
            });
        }
        Ok(fills)
    }

    /// What the kernel says of a map.
    ///
    /// # Errors
    /// See [`PinnedError`].
    pub fn shape(&self, name: &'static str) -> Result<MapShape, PinnedError> {
        let map = self.map(name)?;
        sys::map_shape(map.as_fd()).map_err(|error| PinnedError::Read { map: name, error })
    }

    /// Entries in use; `None` for maps that have no such thing.
    fn count(&self, spec: &'static MapSpec) -> Result<Option<usize>, PinnedError> {
        use lb_common::net::{Addr4, Addr6};
        let name = spec.name;
        Ok(match (spec.map_type, name) {
            (MapType::Hash | MapType::LruHash | MapType::LpmTrie, _) => {
                let map = self.map(name)?;
                let (keys, _) = sys::lookup_all(map.as_fd(), spec.key_size, spec.value_size)
                    .map_err(|error| PinnedError::Read { map: name, error })?;
                Some(keys.len() / spec.key_size)
            }
            (_, "LB4_SERVICES" | "LB6_SERVICES") => Some(self.services(name)?.len()),
            (_, "LB4_BACKENDS") => Some(self.backends::<Addr4>(name)?.0.len()),
            (_, "LB6_BACKENDS") => Some(self.backends::<Addr6>(name)?.0.len()),
            (_, "LB4_SLOTS") => Some(covered(&self.services("LB4_SERVICES")?)),
            (_, "LB6_SLOTS") => Some(covered(&self.services("LB6_SERVICES")?)),
            _ => None,
        })
    }

    fn services(&self, name: &'static str) -> Result<BTreeMap<ServiceId, Service>, PinnedError> {
        let array = self.array::<Service>(name)?;
        Ok(array
            .iter()
            .filter(|(_, service)| service.flags & Service::IN_USE != 0)
            .map(|(id, service)| (ServiceId(id), service))
            .collect())
    }

    fn slots<A: Family>(
        &self,
        name: &'static str,
        services: &BTreeMap<ServiceId, Service>,
    ) -> Result<BTreeMap<u32, Slot<A>>, PinnedError> {
        let array = self.array::<A::Slot>(name)?;
        Ok(services
            .values()
            .flat_map(|service| [service.cluster, service.local])
            .flat_map(|range| range.base()..range.base().saturating_add(range.len()))
            .filter_map(|index| Some((index, array.get(index)?.into())))
            .collect())
    }

    #[expect(
        clippy::type_complexity,
        reason = "two maps over one key, taken apart at once"
    )]
    fn backends<A: Family>(
        &self,
        name: &'static str,
    ) -> Result<(BTreeMap<BackendId, Backend<A>>, BTreeMap<BackendId, u16>), PinnedError> {
        let array = self.array::<A::Backend>(name)?;
        let (mut used, mut free) = (BTreeMap::new(), BTreeMap::new());
        for (id, backend) in array.iter() {
            let backend: Backend<A> = backend.into();
            if backend.service.is_some() {
                used.insert(BackendId(id), backend);
            } else if backend.generation != 0 {
                free.insert(BackendId(id), backend.generation);
            }
        }
        Ok((used, free))
    }

    /// Keys of a longest-prefix map: the prefix length counts the service id, too.
    fn sources<A: Family>(
        &self,
        name: &'static str,
    ) -> Result<BTreeSet<(SourceKey<A>, u32)>, PinnedError> {
        let key = find(name).map_or(0, |spec| spec.key_size);
        let map = self.map(name)?;
        let (keys, _) = sys::lookup_all(map.as_fd(), key, size_of::<u32>())
            .map_err(|error| PinnedError::Read { map: name, error })?;
        Ok(keys
            .chunks(key)
            .filter_map(|key| {
                let (length, data) = key.split_first_chunk::<4>()?;
                let bits = u32::from_ne_bytes(*length).saturating_sub(ServiceId::BITS);
                Some((
                    bytemuck::pod_read_unaligned::<A::SourceKey>(data).into(),
                    bits,
                ))
            })
            .collect())
    }
}

/// Slots that a list of a service covers.
fn covered(services: &BTreeMap<ServiceId, Service>) -> usize {
    services
        .values()
        .map(|service| service.cluster.len() as usize + service.local.len() as usize)
        .sum()
}

/// An array map, mapped into memory where it can be, else read once.
pub(crate) enum Array<V> {
    Mapped(Mmap),
    Read(Vec<V>),
}

impl<V: Pod> Array<V> {
    fn open(map: &OwnedFd) -> io::Result<Self> {
        if sys::map_shape(map.as_fd())?.flags & MMAPABLE != 0 {
            let mapped = Mmap::new(map.as_fd(), size_of::<V>(), Access::Read)?;
            return Ok(Self::Mapped(mapped));
        }
        // A batch of an array comes in the order of its indices.
        let entries = sys::entries::<u32, V>(map.as_fd())?;
        Ok(Self::Read(entries.into_iter().map(|(_, v)| v).collect()))
    }

    pub(crate) fn get(&self, index: u32) -> Option<V> {
        match self {
            Self::Mapped(memory) => memory.get(index),
            Self::Read(values) => values.get(usize::try_from(index).ok()?).copied(),
        }
    }

    fn len(&self) -> u32 {
        match self {
            Self::Mapped(memory) => memory.entries(),
            Self::Read(values) => u32::try_from(values.len()).unwrap_or(u32::MAX),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (u32, V)> {
        (0..self.len()).filter_map(|index| Some((index, self.get(index)?)))
    }
}
