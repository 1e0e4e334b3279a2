//! Where it is measured: one node of a laboratory, two pods, a server, and a cgroup for each data plane.

use std::net::IpAddr;

use anyhow::{Context, Result};
use lb_agent::maps::sys::netns_cookie;
use xtask::lab::{Lab, Node, Place, Pod, Task};

use crate::{
    objects::{Here, Objects, SERVER_PORT},
    worker,
    world::{Bare, World},
};

/// Leads every backend and stranger that is not there to a cable that ends in the same namespace: connect(2) of UDP
/// wants a route and sends nothing.
const NOWHERE: &str = "link add nowhere type veth peer name elsewhere\nlink set nowhere up\n\
                       link set elsewhere up\nroute add 10.128.0.0/10 dev nowhere\n";

pub struct Scene<'a> {
    pub lab: &'a Lab,
    pub here: Here,
    /// Empty programs, in the node's namespace.
    pub bare: Bare,
    node: Node,
    client: Pod,
    _server: Pod,
    _serving: Task<()>,
}

impl<'a> Scene<'a> {
    pub fn new(lab: &'a Lab) -> Result<Self> {
        let node = lab.node(crate::world::NODE)?;
        node.host.netns.ip(NOWHERE)?;
        let (client, server) = (node.pod("client")?, node.pod("server")?);
        client
            .netns
            .sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        let IpAddr::V4(address) = server.v4(0).ip() else {
            anyhow::bail!("the server has no IPv4 address");
        };
        let serving = worker::serve(&server, address, SERVER_PORT)?;
        let host_netns = node
            .host
            .netns
            .within(|| netns_cookie().context("cookie of the node's namespace"))?;
        let here = Here {
            node: node.host.addresses,
            server: address,
            host_netns,
        };
        Ok(Self {
            lab,
            here,
            bare: Bare::new(place(&node, "bare"))?,
            node,
            client,
            _server: server,
            _serving: serving,
        })
    }

    /// A data plane for a cgroup of its own.
    pub fn world(&self, name: &str, objects: Objects) -> Result<World> {
        let root = self.lab.dir().join(format!("bpf-{name}"));
        World::new(place(&self.node, name), root, objects, &self.here)
    }

    /// The client's pod, its sockets served as those of `place` are.
    pub fn client(&self, place: &Place) -> Place {
        Place {
            netns: self.client.netns.clone(),
            ..place.clone()
        }
    }
}

fn place(node: &Node, name: &str) -> Place {
    Place {
        name: name.to_owned(),
        netns: node.host.netns.clone(),
        cgroup: node.cgroup.join(format!("plane-{name}")),
        addresses: node.host.addresses,
    }
}
