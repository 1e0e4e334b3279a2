//! Devices, their addresses and routes, as they appear, change and vanish.

use std::{fmt, io, time::Duration};

use futures::{FutureExt as _, future::poll_fn};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage as Message, address::AddressMessage, link::LinkMessage, route::RouteMessage,
};
use netlink_sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use tokio::time::{Instant, sleep_until};

use super::{
    link::Link,
    netlink::{Conversation, messages},
    table::Table,
};

/// RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR and RTMGRP_IPV6_ROUTE of
/// linux/rtnetlink.h.
const CHANGES: u32 = 0x1 | 0x8 | 0x10 | 0x40 | 0x100 | 0x400;
/// A device that comes up brings several messages.
const QUIET: Duration = Duration::from_millis(50);
/// A node with many pods gets many messages at once.
const RECEIVE_BYTES: usize = 1 << 20;

/// The kernel does not tell about devices.
#[derive(Debug, thiserror::Error)]
#[error("cannot follow devices by netlink: {0}; allow AF_NETLINK sockets")]
pub struct FollowError(#[from] io::Error);

/// Follows the devices of the network namespace that it was opened in.
pub struct Devices {
    socket: TokioSocket,
    table: Table,
    /// Messages have come: tell at this time.
    due: Option<Instant>,
    /// Messages were lost.
    is_lossy: bool,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

impl Devices {
    /// Subscribes to changes, then reads. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub fn open() -> Result<Self, FollowError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let groups = SocketAddr::new(0, CHANGES);
        socket.socket_mut().bind(&groups)?;
        // As much as the kernel allows: what does not fit is read anew.
        let _best_effort =
            socket2::SockRef::from(socket.socket_ref()).set_recv_buffer_size(RECEIVE_BYTES);
        let mut devices = Self {
            socket,
            table: Table::default(),
            due: None,
            is_lossy: false,
        };
        devices.read()?;
        Ok(devices)
    }

    /// The devices as last told.
    pub fn links(&self) -> Vec<Link> {
        self.table.links().collect()
    }

    /// Reads everything anew.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub fn read(&mut self) -> Result<(), FollowError> {
        self.table = Table::default();
        let ask = Conversation::open()?;
        let links = ask.dump(Message::GetLink(LinkMessage::default()))?;
        let addrs = ask.dump(Message::GetAddress(AddressMessage::default()))?;
        for message in links.into_iter().chain(addrs) {
            self.table.apply(message);
        }
        self.read_routes()
    }

    fn read_routes(&mut self) -> Result<(), FollowError> {
        self.table.forget_routes();
        let routes = Conversation::open()?.dump(Message::GetRoute(RouteMessage::default()))?;
        for message in routes {
            self.table.apply(message);
        }
        Ok(())
    }

    /// Waits for a change. What has been received is kept when the caller stops waiting.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub async fn changed(&mut self) -> Result<(), FollowError> {
        let due = loop {
            if let Some(due) = self.due {
                break due;
            }
            self.receive().await?;
        };
        sleep_until(due).await;
        while let Some(received) = self.receive().now_or_never() {
            received?;
        }
        self.due = None;
        if std::mem::take(&mut self.is_lossy) {
            return self.read();
        }
        if self.table.are_routes_doubtful() {
            return self.read_routes();
        }
        Ok(())
    }

    /// A full buffer means that messages were lost.
    async fn receive(&mut self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(1 << 16);
        match poll_fn(|context| self.socket.poll_recv(context, &mut buffer)).await {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.is_lossy = true;
                self.note();
                return Ok(());
            }
            received => received?,
        }
        for payload in messages(&buffer) {
            if let NetlinkPayload::InnerMessage(message) = payload
                && self.table.apply(message)
            {
                self.note();
            }
        }
        Ok(())
    }

    fn note(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + QUIET);
    }
}
