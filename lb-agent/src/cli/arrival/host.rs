//! Devices and routes of the host, asked of the kernel.

use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage},
};

use super::{Device, Routes};
use crate::{devices::netlink::Conversation, maps::sys};

/// The network namespace of this process, which is the agent's.
#[derive(Debug)]
pub struct Host {
    kernel: Conversation,
}

impl Host {
    /// # Errors
    /// This process is in another network namespace than the agent was, or may not ask.
    pub fn here(host_netns: u64) -> anyhow::Result<Self> {
        ensure!(
            sys::netns_cookie().context("network namespace of this process")? == host_netns,
            "--dev names a device of the host: run this in the host's network namespace"
        );
        let kernel = Conversation::open().context("ask the kernel for routes")?;
        Ok(Self { kernel })
    }

    /// # Errors
    /// There is no such device.
    pub fn device(&self, name: &str) -> anyhow::Result<Device> {
        let index = nix::net::if_::if_nametoindex(name)
            .with_context(|| format!("--dev {name}: no such device (`ip link` lists them)"))?;
        Ok(Device {
            name: name.to_owned(),
            index,
        })
    }
}

impl Routes for Host {
    fn route(&self, to: IpAddr) -> Option<(Device, Option<IpAddr>)> {
        let answer = self.kernel.ask(RouteNetlinkMessage::GetRoute(question(to)));
        let Ok(RouteNetlinkMessage::NewRoute(route)) = answer else {
            return None;
        };
        let (mut index, mut source) = (None, None);
        for attribute in route.attributes {
            if let RouteAttribute::Oif(oif) = attribute {
                index = Some(oif);
            } else if let RouteAttribute::PrefSource(RouteAddress::Inet(ip)) = attribute {
                source = Some(ip.into());
            } else if let RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) = attribute {
                source = Some(ip.into());
            }
        }
        let index = index?;
        let name = nix::net::if_::if_indextoname(index).ok()?;
        let name = name.to_string_lossy().into_owned();
        Some((Device { name, index }, source))
    }
}

fn question(to: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, bits, address) = match to {
        IpAddr::V4(ip) => (AddressFamily::Inet, 32, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(ip)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message
        .attributes
        .push(RouteAttribute::Destination(address));
    message
}
