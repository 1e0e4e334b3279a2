//! Source addresses of network namespaces, for source ranges that differ within this node's pods.
//!
//! At connect time a socket has no source address yet. What it will be follows from its namespace's
//! routes, so a thread enters the namespace and asks the kernel: a UDP connect to a documentation
//! address (RFC 5737, RFC 3849) sends nothing and chooses the source. Without a default route the
//! first global address counts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use lb_common::netns::NetnsVal;
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
};

use crate::maps::sys;

/// Folders in which container runtimes and `ip netns` keep namespaces without processes of ours.
const MOUNTED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];
/// TEST-NET-1 and the documentation prefix: routed as the internet is, owned by nobody.
const OFF_NODE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        9,
    ),
];

/// A namespace's cookie and its clients' addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its cookie.
    pub cookie: u64,
    /// Their addresses.
    pub addrs: NetnsVal,
}

/// The namespace of a process.
///
/// # Errors
/// ENOENT: no such process here, or another pid namespace; EPERM: CAP_SYS_ADMIN is missing.
pub fn of_process(pid: u32) -> io::Result<Found> {
    look_into(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// Every namespace that can be found: of processes, and mounted by runtimes.
pub fn all() -> Vec<Found> {
    distinct()
        .iter()
        .filter_map(|path| look_into(path).ok())
        .collect()
}

/// Runs `work` inside each namespace that can be found, one after the other.
pub fn in_each<T: Send>(work: impl Fn() -> T + Sync) -> Vec<T> {
    distinct()
        .iter()
        .filter_map(|path| enter(path, &work).ok())
        .collect()
}

/// One path for each namespace.
fn distinct() -> Vec<PathBuf> {
    let mut by_inode: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for path in processes().into_iter().chain(mounted()) {
        if let Ok(meta) = fs::metadata(&path) {
            by_inode.entry(meta.ino()).or_insert(path);
        }
    }
    by_inode.into_values().collect()
}

fn processes() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_pid = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    (entries.flatten())
        .filter(|entry| entry.file_name().to_str().is_some_and(is_pid))
        .map(|entry| entry.path().join("ns/net"))
        .collect()
}

fn mounted() -> Vec<PathBuf> {
    (MOUNTED.iter())
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .collect()
}

fn look_into(path: &Path) -> io::Result<Found> {
    enter(path, || -> io::Result<Found> {
        Ok(Found {
            cookie: sys::netns_cookie()?,
            addrs: own_addrs(),
        })
    })?
}

/// Runs `work` in a thread of its own inside the namespace: a namespace belongs to a thread.
fn enter<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::open(path)?;
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        inside
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// The source addresses that this thread's namespace would choose.
pub fn own_addrs() -> NetnsVal {
    let (mut addr4, mut addr6) = (None, None);
    for ip in OFF_NODE
        .iter()
        .filter_map(source_towards)
        .chain(global_addrs())
    {
        match ip {
            IpAddr::V4(ip) => addr4 = addr4.or(Some(ip)),
            IpAddr::V6(ip) => addr6 = addr6.or(Some(ip)),
        }
    }
    NetnsVal {
        addr4: addr4.map_or_else(Default::default, Into::into),
        addr6: addr6.map_or_else(Default::default, Into::into),
        pad: 0,
    }
}

fn source_towards(to: &SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn global_addrs() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    (interfaces.filter_map(|interface| interface.address))
        .filter_map(|addr| {
            let v4 = addr.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| addr.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        })
        .collect()
}
