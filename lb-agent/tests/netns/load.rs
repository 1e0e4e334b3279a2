//! Clients that dial without pause, and the Service that they dial.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use xtask::lab::manifest::{Document, EndpointManifest, endpoint, slices, svc};
use xtask::lab::traffic::Dial;
use xtask::lab::{Lab, Node, Place, Pod, Task};

use crate::harness::{Server, servers};

/// The backends of [`Web`].
pub const NAMES: [&str; 4] = ["web-0", "web-1", "web-2", "web-3"];

/// What its clients dial, with IPv6 in turn.
pub const VIP: &str = "10.96.0.10:80";

/// What a load saw.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    pub by: BTreeMap<String, usize>,
    pub failures: Vec<String>,
}

/// Dials without pause, TCP and UDP and both families in turn, until it is asked to stop.
pub fn load(place: &Place, dials: Vec<Dial>) -> Result<Task<Seen>> {
    place.spawn("load", move |control| {
        let mut seen = Seen {
            by: BTreeMap::new(),
            failures: Vec::new(),
        };
        for dial in dials.iter().cycle() {
            match dial.ask() {
                Ok(answer) => *seen.by.entry(answer.by).or_insert(0) += 1,
                Err(failure) => seen.failures.push(format!("{dial}: {failure}")),
            }
            if control.stop_asked() || seen.failures.len() > 10 {
                break;
            }
        }
        Ok(seen)
    })
}

/// Ends a load; not one of its dials may have failed.
pub fn settle(load: Task<Seen>) -> Result<BTreeMap<String, usize>> {
    let seen = load.finish(Duration::from_secs(10))?;
    ensure!(
        seen.failures.is_empty(),
        "after {:?}: {:?}",
        seen.by,
        seen.failures
    );
    ensure!(
        seen.by.values().sum::<usize>() > 10,
        "hardly anything was dialled: {:?}",
        seen.by
    );
    Ok(seen.by)
}

pub struct Web {
    pub node: Node,
    pub client: Pod,
    pub pods: [Server; 4],
}

impl Web {
    pub fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("node-a")?;
        let client = node.pod("client")?;
        let pods = servers(&node, NAMES, 8080)?;
        Ok(Self { node, client, pods })
    }

    pub fn endpoint(&self, number: usize) -> EndpointManifest {
        endpoint(&self.pods[number].pod, "node-a")
    }

    /// Publishes the Service with the given endpoints.
    pub fn publish(&self, endpoints: impl IntoIterator<Item = EndpointManifest>) -> Result<()> {
        let web = svc("ns/web")
            .cluster_ip("10.96.0.10")
            .cluster_ip("fd00:96::a")
            .port("tcp", "TCP", 80)
            .port("udp", "UDP", 80);
        let listed = slices("ns/web")
            .port("tcp", "TCP", 8080)
            .port("udp", "UDP", 8080)
            .endpoints(endpoints);
        self.node
            .publish::<Document>("web", [web.into(), listed.into()])
    }

    pub fn publish_numbers(&self, numbers: impl IntoIterator<Item = usize>) -> Result<()> {
        self.publish(numbers.into_iter().map(|number| self.endpoint(number)))
    }

    pub fn dials(&self) -> Result<Vec<Dial>> {
        let (v4, v6) = (VIP.parse()?, "[fd00:96::a]:80".parse()?);
        Ok(vec![
            Dial::tcp(v4),
            Dial::tcp(v6),
            Dial::udp(v4),
            Dial::udp(v6).unconnected(),
            Dial::tcp(v4).mapped(),
        ])
    }

    pub fn load(&self) -> Result<Task<Seen>> {
        load(&self.client, self.dials()?)
    }
}
