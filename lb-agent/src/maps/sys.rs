//! The kernel's bpf(2), membarrier(2) and mmap(2), as far as aya has no API for them: safe functions
//! over file descriptors. The one file of the agent that holds unsafe code.
//!
//! Keys and values are plain memory (`bytemuck::Pod`); their sizes are compared with those of the map
//! before the kernel reads or writes them: by every function that reads, and once by what writes.
#![expect(
    unsafe_code,
    reason = "system calls and mapped memory are this file's purpose"
)]

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    mem::{size_of, zeroed},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, RingBuf};
pub use aya_obj::generated::bpf_attach_type;
use aya_obj::generated::{
    BPF_F_QUERY_EFFECTIVE, BPF_F_RDONLY, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type,
    bpf_map_info, bpf_prog_info,
};
use bytemuck::Pod;
use lb_common::map_table::MapType;
use tokio::io::{Interest, unix::AsyncFd};

/// BPF_F_REPLACE: a link update that compares the program it replaces.
const BPF_F_REPLACE: u32 = 4;
/// Programs that one cgroup hook may run, its ancestors' included: the kernel allows 64 a cgroup.
const MAX_EFFECTIVE: usize = 1024;
/// Programs that one hook of a device may run (BPF_MPROG_MAX in include/linux/bpf_mprog.h).
const MAX_ON_DEVICE: usize = 64;
/// BPF_MAP_TYPE_ARRAY_OF_MAPS
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// MEMBARRIER_CMD_GLOBAL
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// How a pinned map is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Lookups and read-only mappings alone.
    Read,
    /// Everything.
    Write,
}

/// What the kernel says of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapShape {
    /// Its id.
    pub id: u32,
    /// enum bpf_map_type
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value, of one CPU's in per-CPU maps.
    pub value_size: usize,
    /// Its capacity.
    pub max_entries: u32,
    /// BPF_F_*
    pub flags: u32,
}

/// What the kernel says of a cgroup link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkShape {
    /// Its id.
    pub id: u32,
    /// enum bpf_link_type
    pub link_type: u32,
    /// The program that it carries.
    pub program_id: u32,
    /// The cgroup that it is attached to; 0 once that is gone.
    pub cgroup_id: u64,
    /// enum bpf_attach_type
    pub attach_type: u32,
}

/// What the kernel says of a link on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLinkShape {
    /// Its id.
    pub id: u32,
    /// The program that it carries.
    pub program_id: u32,
    /// Index of the device in its own network namespace; 0 once it is gone.
    pub device: u32,
}

/// A place in a device's hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceLink {
    /// Id of the program that runs.
    pub program: u32,
    /// Id of its link; 0: attached without one.
    pub link: u32,
}

/// An attribute of nothing but zeros.
pub fn attr() -> bpf_attr {
    // SAFETY: a union of integers and arrays of integers; zero is valid for all of them, and the
    // kernel demands it of every field that a command does not use.
    unsafe { zeroed() }
}

/// bpf(2).
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// Every pointer in `attr` that `cmd` reads or writes must be valid for the length that the kernel
/// will use, for the time of the call.
pub unsafe fn sys_bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a live bpf_attr of the size passed; its pointers are the caller's promise.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd as u32,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The number of a descriptor in the kernel's structures.
#[expect(
    clippy::cast_sign_loss,
    reason = "a borrowed descriptor is never negative"
)]
pub fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn address<T: ?Sized>(pointer: *const T) -> u64 {
    pointer.cast::<()>() as usize as u64
}

/// Opens a pinned map.
///
/// # Errors
/// ENOENT: nothing is pinned there; EPERM: CAP_BPF is missing.
pub fn open_map(path: &Path, access: Access) -> io::Result<OwnedFd> {
    obj_get(
        path,
        if access == Access::Read {
            BPF_F_RDONLY
        } else {
            0
        },
    )
}

/// Opens a pinned link or program.
///
/// # Errors
/// ENOENT: nothing is pinned there; EPERM: CAP_BPF is missing.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    obj_get(path, 0)
}

fn obj_get(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut a = attr();
    a.__bindgen_anon_4.pathname = address(path.as_ptr());
    a.__bindgen_anon_4.file_flags = flags;
    // SAFETY: `path` is a string with its end and lives through the call.
    owned(unsafe { sys_bpf(bpf_cmd::BPF_OBJ_GET, &mut a) }?)
}

fn object_info<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut a = attr();
    a.info.bpf_fd = raw(fd);
    a.info.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    a.info.info = address(info);
    // SAFETY: `info` is live and as long as stated; the kernel writes at most that.
    unsafe { sys_bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut a) }.map(drop)
}

/// Asks for the shape of a map.
///
/// # Errors
/// As the kernel says; EINVAL: the descriptor is no map's.
pub fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    // SAFETY: a structure of integers and arrays of integers.
    let mut info: bpf_map_info = unsafe { zeroed() };
    object_info(map, &mut info)?;
    Ok(MapShape {
        id: info.id,
        map_type: info.type_,
        key_size: info.key_size as usize,
        value_size: info.value_size as usize,
        max_entries: info.max_entries,
        flags: info.map_flags,
    })
}

/// Asks for the shape of a link.
///
/// # Errors
/// As the kernel says; EINVAL: the descriptor is no link's.
pub fn link_shape(link: BorrowedFd<'_>) -> io::Result<LinkShape> {
    // SAFETY: a structure of integers and unions of such; zero is valid for all.
    let mut info: bpf_link_info = unsafe { zeroed() };
    object_info(link, &mut info)?;
    // SAFETY: integers, whichever member of the union the kernel wrote.
    let cgroup = unsafe { info.__bindgen_anon_1.cgroup };
    Ok(LinkShape {
        id: info.id,
        link_type: info.type_,
        program_id: info.prog_id,
        cgroup_id: cgroup.cgroup_id,
        attach_type: cgroup.attach_type,
    })
}

/// Asks for the shape of a TCX link.
///
/// # Errors
/// As the kernel says; EINVAL: the descriptor is no link's on a device.
pub fn device_link_shape(link: BorrowedFd<'_>) -> io::Result<DeviceLinkShape> {
    // SAFETY: a structure of integers and unions of such; zero is valid for all.
    let mut info: bpf_link_info = unsafe { zeroed() };
    object_info(link, &mut info)?;
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: integers, whichever member of the union the kernel wrote.
    let device = unsafe { info.__bindgen_anon_1.tcx.ifindex };
    Ok(DeviceLinkShape {
        id: info.id,
        program_id: info.prog_id,
        device,
    })
}

/// Id of a program.
///
/// # Errors
/// As the kernel says; EINVAL: the descriptor is no program's.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: a structure of integers and bit fields; zero is valid for all.
    let mut info: bpf_prog_info = unsafe { zeroed() };
    object_info(program, &mut info)?;
    Ok(info.id)
}

/// What a TCX hook of a device of this network namespace runs, in order.
///
/// # Errors
/// EINVAL: the kernel has no TCX, or no such device (ENODEV); EPERM: CAP_NET_ADMIN is missing.
pub fn device_links(device: u32, hook: bpf_attach_type) -> io::Result<Vec<DeviceLink>> {
    let mut programs = vec![0_u32; MAX_ON_DEVICE];
    let mut links = vec![0_u32; MAX_ON_DEVICE];
    let mut a = attr();
    a.query.__bindgen_anon_1.target_ifindex = device;
    a.query.attach_type = hook as u32;
    a.query.prog_ids = address(programs.as_mut_ptr());
    a.query.__bindgen_anon_2.count = u32::try_from(MAX_ON_DEVICE).map_err(io::Error::other)?;
    a.query.link_ids = address(links.as_mut_ptr());
    // SAFETY: both have as many elements as stated and live through the call.
    match unsafe { sys_bpf(bpf_cmd::BPF_PROG_QUERY, &mut a) } {
        // Nothing was ever attached there.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        result => result.map(drop)?,
    }
    // SAFETY: an integer, written by the kernel.
    let count = unsafe { a.query.__bindgen_anon_2.count } as usize;
    let found = programs.into_iter().zip(links).take(count);
    Ok(found
        .map(|(program, link)| DeviceLink { program, link })
        .collect())
}

/// Puts another program behind a link, in place; with `old`, only while the link carries that one.
///
/// # Errors
/// ENOLINK: the cgroup is gone; EPERM: the link carries another program than `old`.
pub fn link_update(
    link: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut a = attr();
    a.link_update.link_fd = raw(link);
    a.link_update.__bindgen_anon_1.new_prog_fd = raw(new);
    if let Some(old) = old {
        a.link_update.flags = BPF_F_REPLACE;
        a.link_update.__bindgen_anon_2.old_prog_fd = raw(old);
    }
    // SAFETY: no pointers.
    unsafe { sys_bpf(bpf_cmd::BPF_LINK_UPDATE, &mut a) }.map(drop)
}

/// Takes a link's program off its hook, whoever else holds the link.
///
/// # Errors
/// As the kernel says; EOPNOTSUPP: a link of a kind that cannot.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut a = attr();
    a.link_detach.link_fd = raw(link);
    // SAFETY: no pointers.
    unsafe { sys_bpf(bpf_cmd::BPF_LINK_DETACH, &mut a) }.map(drop)
}

/// Makes a map that nobody else sees, to try what the kernel can do.
///
/// # Errors
/// EINVAL: the kernel does not know one of `flags`; EPERM: CAP_BPF is missing.
pub fn create_map(
    map_type: MapType,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut a = attr();
    a.__bindgen_anon_1.map_type = map_type as u32;
    a.__bindgen_anon_1.key_size = key_size;
    a.__bindgen_anon_1.value_size = value_size;
    a.__bindgen_anon_1.max_entries = entries;
    a.__bindgen_anon_1.map_flags = flags;
    // SAFETY: no pointers.
    owned(unsafe { sys_bpf(bpf_cmd::BPF_MAP_CREATE, &mut a) }?)
}

/// Asks for the TCX programs of a device: whether the kernel has TCX.
///
/// # Errors
/// EINVAL: it has not; EPERM: CAP_NET_ADMIN is missing.
pub fn tcx_query(device: u32) -> io::Result<()> {
    let mut a = attr();
    a.query.__bindgen_anon_1.target_ifindex = device;
    a.query.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    // SAFETY: no pointers: room for no program is asked for.
    match unsafe { sys_bpf(bpf_cmd::BPF_PROG_QUERY, &mut a) } {
        // Nothing was ever attached there, or more than fits.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOSPC)) => Ok(()),
        result => result.map(drop),
    }
}

/// Ids of the programs that a hook of a cgroup really runs, in order, its ancestors' included.
///
/// # Errors
/// EBADF: no cgroup v2 directory; EINVAL: the kernel does not know the hook; EPERM: CAP_NET_ADMIN is
/// missing.
pub fn effective_programs(cgroup: BorrowedFd<'_>, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_EFFECTIVE];
    let mut a = attr();
    a.query.__bindgen_anon_1.target_fd = raw(cgroup);
    a.query.attach_type = hook as u32;
    a.query.query_flags = BPF_F_QUERY_EFFECTIVE;
    a.query.prog_ids = address(ids.as_mut_ptr());
    a.query.__bindgen_anon_2.prog_cnt = u32::try_from(ids.len()).map_err(io::Error::other)?;
    // SAFETY: `ids` has as many elements as stated and lives through the call.
    unsafe { sys_bpf(bpf_cmd::BPF_PROG_QUERY, &mut a) }?;
    // SAFETY: an integer, written by the kernel.
    let count = unsafe { a.query.__bindgen_anon_2.prog_cnt };
    ids.truncate(count as usize);
    Ok(ids)
}

fn check_sizes(map: BorrowedFd<'_>, key: usize, value: usize) -> io::Result<MapShape> {
    let shape = map_shape(map)?;
    if shape.key_size != key || shape.value_size != value {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "key and value have {key} and {value} bytes here, {} and {} in the map: it was made by another version",
                shape.key_size, shape.value_size
            ),
        ));
    }
    Ok(shape)
}

/// One entry of a map; `None`: no such key.
///
/// # Errors
/// As the kernel says.
pub fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    check_sizes(map, size_of::<K>(), size_of::<V>())?;
    let mut value = V::zeroed();
    let mut a = attr();
    a.__bindgen_anon_2.map_fd = raw(map);
    a.__bindgen_anon_2.key = address(key);
    a.__bindgen_anon_2.__bindgen_anon_1.value = address(&raw mut value);
    // SAFETY: key and value are live and have the map's own sizes, compared above; callers use this
    // for maps with one value per key.
    found(
        unsafe { sys_bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut a) },
        value,
    )
}

/// One entry of a per-CPU array of u64, of every possible CPU.
///
/// # Errors
/// As the kernel says; EINVAL: a map of another type.
pub fn lookup_per_cpu(map: BorrowedFd<'_>, index: u32) -> io::Result<Option<Vec<u64>>> {
    let shape = check_sizes(map, size_of::<u32>(), size_of::<u64>())?;
    if shape.map_type != MapType::PerCpuArray as u32 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| e)?;
    let mut values = vec![0_u64; cpus.get() as usize];
    let mut a = attr();
    a.__bindgen_anon_2.map_fd = raw(map);
    a.__bindgen_anon_2.key = address(&raw const index);
    a.__bindgen_anon_2.__bindgen_anon_1.value = address(values.as_mut_ptr());
    // SAFETY: the key is a live u32, as the map's; the kernel writes one u64 for each possible CPU,
    // and `cpus` is their number.
    found(
        unsafe { sys_bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut a) },
        values,
    )
}

fn found<T>(result: io::Result<i64>, value: T) -> io::Result<Option<T>> {
    match result {
        Ok(_) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Every entry of a map, read by BPF_MAP_LOOKUP_BATCH: keys and values as the kernel lays them out,
/// end to end. Not for per-CPU maps.
///
/// # Errors
/// As the kernel says; EAGAIN when the map changes faster than it can be read.
pub fn lookup_all(map: BorrowedFd<'_>, key: usize, value: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let shape = check_sizes(map, key, value)?;
    let most = shape.max_entries as usize;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    // The kernel keeps its place in here: a bucket's number, or a key.
    let mut place = vec![0_u8; key.max(size_of::<u64>())];
    let mut chunk = most.clamp(1, 8192);
    let mut started = false;
    // A map that is read while it is written may show an entry twice, but not for ever.
    while keys.len()
        < most
            .saturating_mul(4)
            .saturating_add(chunk)
            .saturating_mul(key)
    {
        let start = (keys.len(), values.len());
        keys.resize(start.0 + chunk * key, 0);
        values.resize(start.1 + chunk * value, 0);
        let mut a = attr();
        a.batch.map_fd = raw(map);
        a.batch.in_batch = if started { address(place.as_ptr()) } else { 0 };
        a.batch.out_batch = address(place.as_mut_ptr());
        a.batch.keys = address(keys.get_mut(start.0..).unwrap_or_default().as_mut_ptr());
        a.batch.values = address(values.get_mut(start.1..).unwrap_or_default().as_mut_ptr());
        a.batch.count = u32::try_from(chunk).map_err(io::Error::other)?;
        // SAFETY: both buffers have room for `count` keys and values of the map's own sizes, which
        // were compared above; `place` has room for a key and for a bucket's number.
        let result = unsafe { sys_bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut a) };
        // SAFETY: an integer, written by the kernel.
        let got = unsafe { a.batch.count } as usize;
        let full = matches!(&result, Err(e) if e.raw_os_error() == Some(libc::ENOSPC));
        let got = if full { 0 } else { got.min(chunk) };
        keys.truncate(start.0 + got * key);
        values.truncate(start.1 + got * value);
        match result {
            Ok(_) => started = true,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok((keys, values)),
            // One bucket of a hash holds more than fits.
            Err(_) if full => chunk *= 2,
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Where a reader of a map is: the kernel's own note, a bucket's number or a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor(Option<Vec<u8>>);

impl Cursor {
    /// Nothing was read yet, or the end was reached.
    pub fn is_at_start(&self) -> bool {
        self.0.is_none()
    }
}

/// The next entries of a hash from `place` on, about `count` of them: the kernel hands out buckets whole.
///
/// # Errors
/// As [`lookup_all`].
pub fn entries_from<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    place: &mut Cursor,
    count: u32,
) -> io::Result<Vec<(K, V)>> {
    check_sizes(map, size_of::<K>(), size_of::<V>())?;
    let mut next = vec![0_u8; size_of::<K>().max(size_of::<u64>())];
    let mut count = count.max(1) as usize;
    loop {
        let mut keys = vec![K::zeroed(); count];
        let mut values = vec![V::zeroed(); count];
        let mut a = attr();
        a.batch.map_fd = raw(map);
        a.batch.in_batch = place.0.as_ref().map_or(0, |at| address(at.as_ptr()));
        a.batch.out_batch = address(next.as_mut_ptr());
        a.batch.keys = address(keys.as_mut_ptr());
        a.batch.values = address(values.as_mut_ptr());
        a.batch.count = u32::try_from(count).map_err(io::Error::other)?;
        // SAFETY: both buffers have room for `count` keys and values of the map's own sizes, which were compared
        // above; `next` and the cursor, made here, have room for a key and for a bucket's number.
        let result = unsafe { sys_bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut a) };
        // SAFETY: an integer, written by the kernel.
        let got = unsafe { a.batch.count } as usize;
        match result {
            Ok(_) => place.0 = Some(next),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => place.0 = None,
            // One bucket holds more than fits.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                count *= 2;
                continue;
            }
            Err(e) => return Err(e),
        }
        return Ok(keys.into_iter().zip(values).take(got).collect());
    }
}

/// Every entry of a map as typed pairs; see [`lookup_all`].
///
/// # Errors
/// As [`lookup_all`].
pub fn entries<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let (keys, values) = lookup_all(map, size_of::<K>(), size_of::<V>())?;
    Ok(keys
        .chunks(size_of::<K>())
        .map(bytemuck::pod_read_unaligned)
        .zip(
            values
                .chunks(size_of::<V>())
                .map(bytemuck::pod_read_unaligned),
        )
        .collect())
}

/// A map whose keys and values were seen to have the sizes of `K` and `V`. A map never changes its
/// shape, so they are compared once, and a write is one syscall.
#[derive(Debug)]
pub struct TypedMap<K, V> {
    map: OwnedFd,
    capacity: u32,
    types: PhantomData<fn(K, V)>,
}

impl<K: Pod, V: Pod> TypedMap<K, V> {
    /// Takes a map.
    ///
    /// # Errors
    /// As the kernel says; EINVAL: other sizes.
    pub fn new(map: OwnedFd) -> io::Result<Self> {
        let shape = check_sizes(map.as_fd(), size_of::<K>(), size_of::<V>())?;
        Ok(Self {
            map,
            capacity: shape.max_entries,
            types: PhantomData,
        })
    }

    /// How many entries it may hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Writes entries; returns how many were written, with the error that stopped it.
    ///
    /// # Errors
    /// As the kernel says; E2BIG: the map is full.
    pub fn update(&self, keys: &[K], values: &[V]) -> Result<(), (usize, io::Error)> {
        if keys.len() != values.len() {
            return Err((0, io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let values = address(values.as_ptr());
        batch(
            self.map.as_fd(),
            bpf_cmd::BPF_MAP_UPDATE_BATCH,
            keys,
            values,
        )
    }

    /// Removes entries; returns how many were removed, with the error that stopped it.
    ///
    /// # Errors
    /// As the kernel says; ENOENT: the key after those removed is not there.
    pub fn delete(&self, keys: &[K]) -> Result<(), (usize, io::Error)> {
        batch(self.map.as_fd(), bpf_cmd::BPF_MAP_DELETE_BATCH, keys, 0)
    }
}

impl<K, V> AsFd for TypedMap<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// For a [`TypedMap`] alone, which has compared the sizes of keys and values with the map's.
fn batch<K: Pod>(
    map: BorrowedFd<'_>,
    cmd: bpf_cmd,
    keys: &[K],
    values: u64,
) -> Result<(), (usize, io::Error)> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut a = attr();
    a.batch.map_fd = raw(map);
    a.batch.keys = address(keys.as_ptr());
    a.batch.values = values;
    a.batch.count = u32::try_from(keys.len()).map_err(|e| (0, io::Error::other(e)))?;
    // SAFETY: `keys`, and `values` where the command reads them, hold `count` elements of the sizes
    // that the map has, and live through the call.
    let result = unsafe { sys_bpf(cmd, &mut a) };
    // SAFETY: an integer, written by the kernel.
    let done = unsafe { a.batch.count } as usize;
    result.map(drop).map_err(|e| {
        // EFAULT leaves the count as it was given: then nothing is known to have been done.
        let done = if done >= keys.len() { 0 } else { done };
        (done, e)
    })
}

/// Waits for an RCU grace period: every program that runs now has ended when it returns.
///
/// # Errors
/// EINVAL: the kernel runs with nohz_full, where the command does not exist.
pub fn membarrier() -> io::Result<()> {
    // SAFETY: no pointers.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits for an RCU grace period by whichever way this kernel has.
///
/// # Errors
/// As the kernel says.
pub fn wait_for_programs() -> io::Result<()> {
    match membarrier() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => grace_by_map_of_maps(),
        waited => waited,
    }
}

/// The way of kernels without membarrier's command: a write to a map of maps returns only after a grace
/// period (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
///
/// # Errors
/// EPERM: CAP_BPF is missing.
pub fn grace_by_map_of_maps() -> io::Result<()> {
    let key = 0_u32;
    let inner = create_map(MapType::Array, 4, 4, 1, 0)?;
    let inner_fd = raw(inner.as_fd());
    let mut a = attr();
    a.__bindgen_anon_1.map_type = BPF_MAP_TYPE_ARRAY_OF_MAPS;
    a.__bindgen_anon_1.key_size = 4;
    a.__bindgen_anon_1.value_size = 4;
    a.__bindgen_anon_1.max_entries = 1;
    a.__bindgen_anon_1.inner_map_fd = inner_fd;
    // SAFETY: no pointers.
    let outer = owned(unsafe { sys_bpf(bpf_cmd::BPF_MAP_CREATE, &mut a) }?)?;
    let mut a = attr();
    a.__bindgen_anon_2.map_fd = raw(outer.as_fd());
    a.__bindgen_anon_2.key = address(&raw const key);
    a.__bindgen_anon_2.__bindgen_anon_1.value = address(&raw const inner_fd);
    // SAFETY: key and value are live and have four bytes each, as the map was made.
    unsafe { sys_bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut a) }.map(drop)
}

/// Nanoseconds since boot, suspended time included (CLOCK_BOOTTIME): the clock of the maps.
///
/// # Errors
/// The kernel has no such clock (before Linux 2.6.39).
pub fn boot_ns() -> io::Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is live.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = |n: i64| u64::try_from(n).map_err(io::Error::other);
    Ok(number(time.tv_sec)? * 1_000_000_000 + number(time.tv_nsec)?)
}

/// The cookie of the calling thread's network namespace, never reused since boot (SO_NETNS_COOKIE).
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14; or a socket cannot be made.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").map(OwnedFd::from);
    let socket = match socket {
        Ok(socket) => socket,
        // A namespace whose loopback is down has no 127.0.0.1.
        Err(_) => std::net::UdpSocket::bind("0.0.0.0:0").map(OwnedFd::from)?,
    };
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the value and its length are live, and the length is the value's.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Lets tokio wait for records of a ring buffer.
///
/// # Errors
/// epoll does not take the descriptor.
///
/// # Panics
/// Outside a tokio runtime with I/O.
pub fn ring_events(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, always hands out the same one, and closes it only when
    // it is dropped, which the AsyncFd does after it has let go of it.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .map_err(|e| io::Error::other(e.to_string()))
}

/// An array map's memory. Elements are read and written by aligned 64-bit words, each of them whole;
/// an element of several words may be seen half written.
#[derive(Debug)]
pub struct Mmap {
    memory: NonNull<AtomicU64>,
    bytes: usize,
    entries: u32,
    value_size: usize,
    writable: bool,
}

// SAFETY: shared memory that is only touched by atomic operations.
unsafe impl Send for Mmap {}
// SAFETY: as above.
unsafe impl Sync for Mmap {}

impl Mmap {
    /// Maps a plain array that was created with BPF_F_MMAPABLE, whose values have `value_size` bytes.
    ///
    /// # Errors
    /// EINVAL: not such an array; EPERM: opened for reading, mapped for writing.
    pub fn new(map: BorrowedFd<'_>, value_size: usize, access: Access) -> io::Result<Self> {
        let shape = check_sizes(map, size_of::<u32>(), value_size)?;
        let page = page_size();
        let bytes = (shape.max_entries as usize)
            .checked_mul(value_size.next_multiple_of(8))
            .map(|bytes| bytes.next_multiple_of(page))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let writable = access == Access::Write;
        let prot = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice; it covers the map's own
        // memory, which the mapping keeps alive.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                prot,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Self {
            memory,
            bytes,
            entries: shape.max_entries,
            value_size,
            writable,
        })
    }

    /// How many elements.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// One 64-bit word of the mapping, counted over all elements.
    fn word(&self, index: u32, word: usize) -> Option<&AtomicU64> {
        let words = self.value_size.div_ceil(8);
        if index >= self.entries || word >= words {
            return None;
        }
        // SAFETY: inside the mapping, by the comparison above and the length computed in `new`;
        // page-aligned memory plus a multiple of 8; nobody uses it but by atomic operations here
        // and by the kernel.
        Some(unsafe { self.memory.add(index as usize * words + word).as_ref() })
    }

    /// Loads one word of an element; `None` outside the array.
    pub fn load(&self, index: u32, word: usize) -> Option<u64> {
        Some(self.word(index, word)?.load(Ordering::Acquire))
    }

    /// Stores one word of an element, after everything stored before it; false outside the array
    /// or when mapped for reading.
    #[must_use]
    pub fn store(&self, index: u32, word: usize, value: u64) -> bool {
        if !self.writable {
            return false;
        }
        let Some(word) = self.word(index, word) else {
            return false;
        };
        word.store(value, Ordering::Release);
        true
    }

    /// Sets bits of a word of an element, whatever others set meanwhile; false outside the array or when
    /// mapped for reading.
    #[must_use]
    pub fn set_bits(&self, index: u32, word: usize, bits: u64) -> bool {
        if !self.writable {
            return false;
        }
        let Some(word) = self.word(index, word) else {
            return false;
        };
        word.fetch_or(bits, Ordering::Release);
        true
    }

    /// Clears bits of a word of an element, whatever others change meanwhile; false as [`Mmap::set_bits`].
    #[must_use]
    pub fn clear_bits(&self, index: u32, word: usize, bits: u64) -> bool {
        if !self.writable {
            return false;
        }
        let Some(word) = self.word(index, word) else {
            return false;
        };
        word.fetch_and(!bits, Ordering::Release);
        true
    }

    /// Reads an element; `None` outside the array, or when `V` is not of the map's value size.
    pub fn get<V: Pod>(&self, index: u32) -> Option<V> {
        if size_of::<V>() != self.value_size {
            return None;
        }
        let mut value = V::zeroed();
        for (i, part) in bytemuck::bytes_of_mut(&mut value).chunks_mut(8).enumerate() {
            let word = self.load(index, i)?.to_ne_bytes();
            part.copy_from_slice(word.get(..part.len())?);
        }
        Some(value)
    }

    /// Writes an element; false as [`Mmap::store`], or when `V` is not of the map's value size.
    #[must_use]
    pub fn set<V: Pod>(&self, index: u32, value: &V) -> bool {
        if size_of::<V>() != self.value_size {
            return false;
        }
        bytemuck::bytes_of(value)
            .chunks(8)
            .enumerate()
            .all(|(i, part)| {
                let mut word = [0; 8];
                word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
                self.store(index, i, u64::from_ne_bytes(word))
            })
    }
}

impl Drop for Mmap {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no reference into it outlives `self`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

fn page_size() -> usize {
    // SAFETY: no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
