//! Who dials: what can be known of a client from its address or from one of its processes.

use std::{fs::File, net::IpAddr, thread};

use anyhow::Context as _;
use lb_common::{decide::Client, frontend::Class};
use nix::sched::{CloneFlags, setns};

use crate::maps::{family::Family, snapshot::Snapshot, sys};

/// A client and how it became known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    /// How policies see it.
    pub class: Class,
    /// Its network namespace; `None`: not known.
    pub netns: Option<u64>,
    /// Its address; `None`: the kernel chooses it after the decision.
    pub addr: Option<IpAddr>,
    /// How it was found out, and what was assumed.
    pub note: String,
}

impl Who {
    /// As `decide` asks for it.
    pub fn client<A: Family>(&self) -> Client<A> {
        Client {
            class: self.class,
            netns: self.netns.unwrap_or_default(),
            addr: self.addr.and_then(A::from_ip),
        }
    }

    /// As it is shown.
    pub fn class_name(&self) -> &'static str {
        match self.class {
            Class::Pod => "pod",
            Class::Host => "host",
            Class::Outside => "outside",
        }
    }
}

/// The client that a process is.
///
/// # Errors
/// There is no such process, or its network namespace may not be entered.
pub fn of_process(pid: Option<u32>, host_netns: u64) -> anyhow::Result<Who> {
    let cookie = match pid {
        None => sys::netns_cookie().context("network namespace of this process")?,
        Some(pid) => netns_of(pid)?,
    };
    let name = pid.map_or_else(|| "this process".to_owned(), |pid| format!("process {pid}"));
    let (class, place) = if cookie == host_netns {
        (Class::Host, "in the host's network namespace")
    } else {
        (Class::Pod, "in another network namespace than the host's")
    };
    Ok(Who {
        class,
        netns: Some(cookie),
        addr: None,
        note: format!("{name} is {place}"),
    })
}

/// Cookie of the network namespace of a process: only visible from inside it, so that a thread goes
/// there.
fn netns_of(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("--pid {pid}: {path}"))?;
    let visit = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        sys::netns_cookie()
    });
    let cookie = visit
        .join()
        .map_err(|_| anyhow::anyhow!("--pid {pid}: the visit to its network namespace ended"))?;
    cookie
        .with_context(|| format!("--pid {pid}: enter its network namespace (needs CAP_SYS_ADMIN)"))
}

/// The client that an address is.
pub fn of_address<A: Family>(addr: A, snapshot: &Snapshot<A>, host_netns: u64) -> Who {
    let ip = addr.ip();
    if addr.is_loopback() {
        return Who {
            class: Class::Host,
            netns: Some(host_netns),
            addr: Some(ip),
            note: format!("{ip} is loopback: a socket of the host that is bound to it"),
        };
    }
    if snapshot.node_addrs.contains(&addr) || is_own(ip, host_netns) {
        return Who {
            class: Class::Host,
            netns: Some(host_netns),
            addr: Some(ip),
            note: format!("{ip} is one of this node's addresses: a process of the host"),
        };
    }
    let known = snapshot
        .netns
        .iter()
        .find(|(_, val)| A::source(val) == Some(addr));
    Who {
        class: Class::Pod,
        netns: known.map(|(cookie, _)| *cookie),
        addr: Some(ip),
        note: format!("{ip} is none of this node's addresses: assumed to be a pod on this node"),
    }
}

/// Is it an address of an interface here, and is here the host?
fn is_own(ip: IpAddr, host_netns: u64) -> bool {
    if sys::netns_cookie().ok() != Some(host_netns) {
        return false;
    }
    let Ok(mut interfaces) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    interfaces.any(|interface| {
        let address = interface.address;
        let v4 = address.as_ref().and_then(|a| a.as_sockaddr_in());
        let v6 = address.as_ref().and_then(|a| a.as_sockaddr_in6());
        v4.is_some_and(|a| IpAddr::V4(a.ip()) == ip) || v6.is_some_and(|a| IpAddr::V6(a.ip()) == ip)
    })
}
