//! Who is on the stage: two nodes, the pods that `deploy/demo` speaks of with a server in each, a client, one agent.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::endpoints::{Endpoint, Endpoints};
use crate::lab::{Agent, CLUSTER_CIDR, Lab, Node, Place, Pod, Serve};
use crate::workspace;

/// Where the pods' servers listen: `targetPort` in `deploy/demo/web.yaml`.
const SERVER_PORT: u16 = 8080;

/// The file that the demo changes.
const ENDPOINTS: &str = "web-endpoints";

/// The stage and everybody on it. Fields are dropped in their order: the laboratory goes last.
#[derive(Debug)]
pub(super) struct Cast {
    /// The agent of [`Cast::node`].
    pub(super) agent: Agent,
    /// The pods that serve, by name.
    servers: BTreeMap<String, Server>,
    /// A pod that dials.
    pub(super) client: Pod,
    /// A client that is no part of the cluster: its packets arrive from outside.
    pub(super) outside: Place,
    /// Who serves, as the agent is told.
    pub(super) endpoints: Endpoints,
    /// The node that the agent runs on.
    pub(super) node: Node,
    other: Node,
    pub(super) lab: Lab,
}

/// A pod and the server in it; the server goes first.
#[derive(Debug)]
struct Server {
    _serve: Serve,
    pod: Pod,
}

impl Cast {
    /// Sets the stage and starts the agent on what `deploy/demo` holds.
    pub(super) fn new(agent_binary: &Path) -> Result<Self> {
        let folder = workspace::root().join("deploy/demo");
        let lab = Lab::new()?.with_agent(agent_binary);
        let (node, other) = (lab.node("node-a")?, lab.node("node-b")?);
        let client = node.pod("client")?;
        for name in ["node", "cluster", "web", ENDPOINTS] {
            node.publish_text(name, &read(&folder, name)?)?;
        }
        let endpoints = Endpoints::parse(&read(&folder, ENDPOINTS)?)?;
        let mut servers = BTreeMap::new();
        for endpoint in endpoints.list()? {
            let host = if endpoint.node == other.name {
                &other
            } else {
                &node
            };
            if !servers.contains_key(&endpoint.pod) {
                servers.insert(endpoint.pod.clone(), serve(host, &endpoint.pod)?);
            }
            stands_at(&servers[&endpoint.pod].pod, &endpoint)?;
        }
        let outside = lab.outside("outside")?;
        outside.netns.ip(&routes_to_balancer(node.host.addresses))?;
        let agent = node.agent(&["--cluster-cidr", CLUSTER_CIDR])?;
        Ok(Self {
            agent,
            servers,
            client,
            outside,
            endpoints,
            node,
            other,
            lab,
        })
    }

    /// The names of the pods that serve.
    pub(super) fn names(&self) -> Vec<String> {
        self.servers.keys().cloned().collect()
    }

    /// A new pod on the other node joins the Service.
    pub(super) fn scale_up(&mut self, name: &str) -> Result<()> {
        let server = serve(&self.other, name)?;
        self.endpoints
            .add(name, &self.other.name, server.pod.addresses)?;
        self.servers.insert(name.to_owned(), server);
        self.publish()
    }

    /// A pod is to leave: it gets no new connections.
    pub(super) fn drain(&mut self, name: &str) -> Result<()> {
        self.endpoints.drain(name)?;
        self.publish()
    }

    /// A pod has left the Service. Its process still runs until [`Cast::stop`].
    pub(super) fn delete(&mut self, name: &str) -> Result<()> {
        self.endpoints.remove(name);
        self.publish()
    }

    /// Ends a pod's process.
    pub(super) fn stop(&mut self, name: &str) {
        self.servers.remove(name);
    }

    /// Tells the agent who serves.
    fn publish(&self) -> Result<()> {
        self.node
            .publish_text(ENDPOINTS, &self.endpoints.to_yaml()?)
    }

    /// Takes the Service and its endpoints away.
    pub(super) fn delete_service(&self) -> Result<()> {
        self.node.withdraw("web")?;
        self.node.withdraw(ENDPOINTS)
    }
}

/// What a router before the cluster knows: the LoadBalancer IPs are at this node.
fn routes_to_balancer([v4, v6]: [IpAddr; 2]) -> String {
    format!("route add 203.0.113.80 via {v4}\nroute add 2001:db8::80 via {v6}\n")
}

fn serve(node: &Node, name: &str) -> Result<Server> {
    let pod = node.pod(name)?;
    let serve = pod.serve(SERVER_PORT)?;
    Ok(Server { _serve: serve, pod })
}

/// The laboratory deals out addresses in order, and `deploy/demo` has them written down.
fn stands_at(pod: &Pod, endpoint: &Endpoint) -> Result<()> {
    ensure!(
        pod.addresses.contains(&endpoint.address),
        "pod {} has the addresses {:?} and not {} as {ENDPOINTS}.yaml says; list the pods of a node in their order",
        endpoint.pod,
        pod.addresses,
        endpoint.address
    );
    Ok(())
}

fn read(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(format!("{name}.yaml"));
    fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
}
