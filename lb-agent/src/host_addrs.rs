//! The addresses of this host's interfaces, in the agent's network namespace, as they change.
//!
//! NodePorts answer on them (rules 47 to 52), and traffic from them is the node's own (rule 39).
//! What only this host can reach is left out: loopback and link-local addresses; an address of the
//! interface `lo` that others can reach counts. So do tentative ones: they are in use in a moment.

use std::{collections::BTreeSet, fmt, io, net::IpAddr, path::Path, time::Duration};

use futures::{FutureExt as _, future::poll_fn};
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use tokio::{sync::mpsc, time::sleep};

use crate::model::Event;

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of linux/rtnetlink.h.
const ADDRESS_CHANGES: u32 = 0x10 | 0x100;
/// An interface that comes up changes several addresses at once.
const QUIET: Duration = Duration::from_millis(50);

/// The kernel does not tell about addresses.
#[derive(Debug, thiserror::Error)]
pub enum HostAddrsError {
    /// No netlink socket.
    #[error("cannot follow interface addresses by netlink: {0}; allow AF_NETLINK sockets")]
    Netlink(#[source] io::Error),
    /// The list cannot be read.
    #[error("cannot read interface addresses: {0}; allow AF_NETLINK sockets")]
    Read(#[from] nix::Error),
}

/// The kernel has IPv6 where this is there.
const IPV6: &str = "/proc/net/if_inet6";

/// Has this host IPv6?
pub fn has_ipv6() -> bool {
    Path::new(IPV6).exists()
}

/// The addresses as they are, canonical.
///
/// # Errors
/// The kernel does not give the list.
pub fn read() -> Result<BTreeSet<IpAddr>, HostAddrsError> {
    let interfaces = getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| ip(&interface.address?));
    Ok(addresses.filter(|ip| is_reachable(*ip)).collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(address.ip().into());
    }
    Some(address.as_sockaddr_in6()?.ip().into())
}

fn is_reachable(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !is_link_local
}

/// Follows the addresses of the network namespace it was opened in.
pub struct HostAddrs {
    socket: TokioSocket,
    known: BTreeSet<IpAddr>,
}

impl fmt::Debug for HostAddrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostAddrs").finish_non_exhaustive()
    }
}

impl HostAddrs {
    /// Subscribes to changes, then reads. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no netlink socket, or not the list.
    pub fn open() -> Result<Self, HostAddrsError> {
        let subscribe = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            let groups = SocketAddr::new(0, ADDRESS_CHANGES);
            socket.socket_mut().bind(&groups)?;
            Ok(socket)
        };
        let socket = subscribe().map_err(HostAddrsError::Netlink)?;
        let known = read()?;
        Ok(Self { socket, known })
    }

    /// The addresses as last read.
    pub fn news(&self) -> Event {
        Event::HostAddrs(self.known.clone())
    }

    /// Tells the addresses whenever they have changed, until nobody listens.
    ///
    /// # Errors
    /// The kernel tells no more.
    pub async fn run(mut self, events: mpsc::Sender<Event>) -> Result<(), HostAddrsError> {
        loop {
            tokio::select! {
                changed = self.changed() => changed.map_err(HostAddrsError::Netlink)?,
                () = events.closed() => return Ok(()),
            }
            let found = read()?;
            if found == self.known {
                continue;
            }
            self.known = found;
            if events.send(self.news()).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Waits for messages and takes all that come at one time, without a look: that there are some
    /// is enough.
    async fn changed(&self) -> io::Result<()> {
        self.message().await?;
        sleep(QUIET).await;
        while let Some(message) = self.message().now_or_never() {
            message?;
        }
        Ok(())
    }

    /// A full buffer means that messages were lost, which is a message too.
    async fn message(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(8192);
        match poll_fn(|context| self.socket.poll_recv(context, &mut buffer)).await {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            received => received,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_host_reaches_is_left_out() {
        let table = [
            ("127.0.0.1", false),
            ("127.1.2.3", false),
            ("::1", false),
            ("169.254.1.1", false),
            ("fe80::1", false),
            ("192.0.2.1", true),
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("2001:db8::1", true),
        ];
        for (text, expected) in table {
            let ip = text.parse().unwrap();
            assert_eq!(is_reachable(ip), expected, "{text}");
        }
    }
}
