//! The maps in the kernel, for writing: hashes by bpf(2), arrays by plain stores into their memory.
//!
//! An array write costs no syscall, and a list is published by one 64-bit store: a change of one
//! endpoint among a thousand needs no syscall at all.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use bytemuck::{Pod, Zeroable};
use lb_common::{
    frontend::FrontendVal,
    id::{BackendId, ServiceId},
    map_table::find,
    name::ServiceName,
    ports::{PortBit, backend_bit, frontend_bit},
    service::{Backend, Service, Slot},
    source::SourceKey,
};

use super::{
    Capacities, Content, LbMaps, MapError, Op,
    family::Family,
    pinned::{Pinned, PinnedError, maps_dir},
    sys::{self, Access, Mmap, TypedMap},
};

const PORTS: &str = "LB_PORTS";

/// Words of a [`Service`], in the order of its fields.
const CLUSTER_WORD: usize = 0;
const LOCAL_WORD: usize = 1;
const SETTINGS_WORD: usize = 2;

/// The maps of one family.
pub struct KernelMaps<A: Family> {
    root: PathBuf,
    frontends: Map<A::FrontendKey, FrontendVal>,
    names: Map<ServiceId, ServiceName>,
    sources: Map<LpmKey<A::SourceKey>, u32>,
    services: Mmap,
    slots: Mmap,
    backends: Mmap,
    ports: Mmap,
    capacities: Capacities,
    family: std::marker::PhantomData<A>,
}

/// A map that is changed by syscalls.
pub(crate) struct Map<K, V> {
    name: &'static str,
    map: TypedMap<K, V>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    pub(crate) fn open(root: &Path, name: &'static str) -> Result<Self, MapError> {
        let map = open(root, name)
            .and_then(TypedMap::new)
            .map_err(kernel(name, "open", ""))?;
        Ok(Self { name, map })
    }

    fn capacity(&self) -> u32 {
        self.map.capacity()
    }

    pub(crate) fn put(
        &self,
        key: &K,
        value: &V,
        shown: impl Fn() -> String,
    ) -> Result<(), MapError> {
        let Err((_, error)) = self.map.update(&[*key], &[*value]) else {
            return Ok(());
        };
        // A hash says E2BIG, a longest-prefix map ENOSPC.
        if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) {
            return Err(full(self.name, self.capacity()));
        }
        Err(kernel(self.name, "write", &shown())(error))
    }

    pub(crate) fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        sys::entries(self.map.as_fd()).map_err(kernel(self.name, "read", ""))
    }

    /// The next entries, some `count` of them; none twice in a row, unless the map is written meanwhile.
    pub(crate) fn some(
        &self,
        place: &mut sys::Cursor,
        count: u32,
    ) -> Result<Vec<(K, V)>, MapError> {
        sys::entries_from(self.map.as_fd(), place, count).map_err(kernel(self.name, "read", ""))
    }

    pub(crate) fn lookup(&self, key: &K) -> Result<Option<V>, MapError> {
        sys::lookup(self.map.as_fd(), key).map_err(kernel(self.name, "read", ""))
    }

    /// False: it was not there.
    pub(crate) fn remove(&self, key: &K) -> Result<bool, MapError> {
        match self.map.delete(&[*key]) {
            Ok(()) => Ok(true),
            Err((_, error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err((_, error)) => Err(kernel(self.name, "delete", "")(error)),
        }
    }

    pub(crate) fn delete(&self, key: &K, shown: impl Fn() -> String) -> Result<(), MapError> {
        match self.map.delete(&[*key]) {
            Err((_, error)) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(kernel(self.name, "delete", &shown())(error))
            }
            _ => Ok(()),
        }
    }
}

fn open(root: &Path, name: &str) -> io::Result<OwnedFd> {
    sys::open_map(&maps_dir(root).join(name), Access::Write)
}

/// How many entries a map may hold.
fn entries_of(root: &Path, name: &'static str) -> Result<u32, MapError> {
    open(root, name)
        .and_then(|map| sys::map_shape(map.as_fd()))
        .map(|shape| shape.max_entries)
        .map_err(kernel(name, "open", ""))
}

fn full(map: &'static str, capacity: u32) -> MapError {
    let flag = find(map)
        .and_then(|spec| spec.capacity.flag())
        .unwrap_or("the map's size");
    MapError::Full {
        map,
        capacity,
        flag,
    }
}

fn kernel(
    map: &'static str,
    action: &'static str,
    key: &str,
) -> impl FnOnce(io::Error) -> MapError {
    let key = key.to_owned();
    move |source| MapError::Kernel {
        map,
        action,
        key,
        source,
    }
}

impl<A: Family> KernelMaps<A> {
    /// Opens the pinned maps below `--bpffs-root`.
    ///
    /// # Errors
    /// [`MapError::Kernel`]
    pub fn open(root: &Path) -> Result<Self, MapError> {
        let memory = |name, size| {
            let map = open(root, name).map_err(kernel(name, "open", ""))?;
            Mmap::new(map.as_fd(), size, Access::Write).map_err(kernel(name, "map", ""))
        };
        let frontends = Map::open(root, A::MAPS.frontends)?;
        let sources = Map::open(root, A::MAPS.sources)?;
        let services = memory(A::MAPS.services, size_of::<Service>())?;
        let slots = memory(A::MAPS.slots, size_of::<Slot<A>>())?;
        let backends = memory(A::MAPS.backends, size_of::<Backend<A>>())?;
        let capacities = Capacities {
            frontends: frontends.capacity(),
            services: services.entries(),
            slots: slots.entries(),
            backends: backends.entries(),
            sources: sources.capacity(),
            flows: entries_of(root, A::MAPS.flows)?,
        };
        Ok(Self {
            root: root.to_owned(),
            frontends,
            names: Map::open(root, A::MAPS.names)?,
            sources,
            services,
            slots,
            backends,
            ports: memory(PORTS, size_of::<u64>())?,
            capacities,
            family: std::marker::PhantomData,
        })
    }

    fn put_service(&self, id: ServiceId, service: &Service) -> bool {
        let settings = bytemuck::bytes_of(service)
            .get(16..24)
            .and_then(|bytes| bytes.try_into().ok());
        settings.is_some_and(|bytes| {
            self.services
                .store(id.0, SETTINGS_WORD, u64::from_ne_bytes(bytes))
        }) && self.services.store(id.0, LOCAL_WORD, service.local.0)
            && self.services.store(id.0, CLUSTER_WORD, service.cluster.0)
    }

    fn put_slots(&self, base: u32, slots: &[Slot<A>]) -> bool {
        slots
            .iter()
            .zip(base..)
            .all(|(slot, index)| self.slots.set(index, &A::Slot::from(*slot)))
    }

    fn put_backend(&self, id: BackendId, backend: &Backend<A>) -> bool {
        self.backends.set(id.0, &A::Backend::from(*backend))
    }

    /// Before what uses the port, so that no packet of it passes unseen.
    fn set_port(&self, (word, mask): PortBit) -> bool {
        self.ports.set_bits(word, 0, mask)
    }

    fn source_key(key: &SourceKey<A>, bits: u32) -> LpmKey<A::SourceKey> {
        LpmKey {
            prefix_len: SourceKey::<A>::prefix_len(bits),
            data: A::SourceKey::from(*key),
        }
    }
}

/// Key of a longest-prefix map, as the kernel wants it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct LpmKey<K> {
    prefix_len: u32,
    data: K,
}

impl<A: Family> LbMaps<A> for KernelMaps<A> {
    fn capacities(&self) -> Capacities {
        self.capacities
    }

    fn read(&self) -> Result<Content<A>, MapError> {
        let broken = |e: PinnedError| kernel(A::MAPS.frontends, "read", "")(io::Error::other(e));
        Pinned::open(&self.root)
            .and_then(|pinned| pinned.content())
            .map_err(broken)
    }

    fn apply(&mut self, op: &Op<A>) -> Result<(), MapError> {
        let array = |done: bool, map, index: u32| {
            if done {
                Ok(())
            } else {
                Err(kernel(map, "write", &index.to_string())(
                    io::ErrorKind::InvalidInput.into(),
                ))
            }
        };
        match op {
            Op::PutName(id, name) => self.names.put(id, name, || id.0.to_string()),
            Op::DelName(id) => self.names.delete(id, || id.0.to_string()),
            Op::PutSource(key, bits) => {
                self.sources.put(&Self::source_key(key, *bits), &1_u32, || {
                    format!("{:?}/{bits}", key.addr)
                })
            }
            Op::DelSource(key, bits) => self.sources.delete(&Self::source_key(key, *bits), || {
                format!("{:?}/{bits}", key.addr)
            }),
            Op::PutBackend(id, backend) => {
                let bit = backend_bit(backend.port);
                array(self.set_port(bit), PORTS, bit.0)?;
                array(self.put_backend(*id, backend), A::MAPS.backends, id.0)
            }
            Op::PutSlots(base, slots) => array(self.put_slots(*base, slots), A::MAPS.slots, *base),
            Op::PutService(id, service) => {
                array(self.put_service(*id, service), A::MAPS.services, id.0)
            }
            Op::DelService(id) => array(
                self.put_service(*id, &Service::zeroed()),
                A::MAPS.services,
                id.0,
            ),
            Op::PutFrontend(key, value) => {
                if let Some(bit) = frontend_bit(key.proto, key.port) {
                    array(self.set_port(bit), PORTS, bit.0)?;
                }
                self.frontends
                    .put(&A::FrontendKey::from(*key), value, || format!("{key:?}"))
            }
            Op::DelFrontend(key) => self
                .frontends
                .delete(&A::FrontendKey::from(*key), || format!("{key:?}")),
            Op::AwaitReaders => self.wait_for_readers(),
        }
    }

    fn wait_for_readers(&mut self) -> Result<(), MapError> {
        sys::wait_for_programs().map_err(kernel(A::MAPS.slots, "wait for readers of", ""))
    }
}
