//! What a start waits for of this node's object (rule 133): without zone and addresses a restart would rewrite what an
//! earlier agent wrote, and write it back; without podCIDRs the mode NodeCIDR would take every pod for a stranger.

use std::time::{Duration, Instant};

use crate::{
    config::{Config, DetectLocal, Source},
    model::Node,
};

/// For addresses, as kube-proxy 1.36; then on without.
const ADDRESSES: Duration = Duration::from_secs(30);
/// For podCIDRs, as kube-proxy; then the agent ends.
const POD_CIDRS: Duration = Duration::from_secs(300);

/// There is no going on.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum NodeError {
    /// They never came.
    #[error(
        "Node {0} has had no podCIDRs for 5 min, and --detect-local-mode NodeCIDR needs them: let the controller manager allocate them (--allocate-node-cidrs), give the right name with --hostname-override, or choose another mode"
    )]
    NoPodCidrs(String),
    /// None can be used (rule 140).
    #[error(
        "Node {node}: podCIDRs {cidrs} are all IPv6, which this host does not have: let the host have IPv6, or choose another --detect-local-mode"
    )]
    WrongFamily {
        /// Its name.
        node: String,
        /// What it has.
        cidrs: String,
    },
}

/// Until when for what; nothing for manifests, which need not have a Node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeWait {
    addresses: Option<Instant>,
    pod_cidrs: Option<Instant>,
}

impl NodeWait {
    /// From the start on.
    pub fn new(config: &Config, start: Instant) -> Self {
        let is_clusters = matches!(config.source, Source::Kubernetes { .. });
        let needs_cidrs = is_clusters && config.detect_local == DetectLocal::NodeCidr;
        Self {
            addresses: is_clusters.then(|| start + ADDRESSES),
            pod_cidrs: needs_cidrs.then(|| start + POD_CIDRS),
        }
    }

    /// Is something missing that may still come?
    pub fn waits(&self, node: Option<&Node>, now: Instant) -> bool {
        self.next(node).is_some_and(|until| now < until)
    }

    /// When what is missing is waited for no longer.
    pub fn next(&self, node: Option<&Node>) -> Option<Instant> {
        let addresses = self.addresses.filter(|_| lacks_addresses(node));
        let pod_cidrs = self.pod_cidrs.filter(|_| lacks_pod_cidrs(node));
        addresses.max(pod_cidrs)
    }

    /// The wait is over: a warning, if there is one.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn conclude(
        &self,
        name: &str,
        node: Option<&Node>,
        has_ipv6: bool,
    ) -> Result<Option<&'static str>, NodeError> {
        if self.pod_cidrs.is_some() {
            let cidrs = node
                .map(|node| node.pod_cidrs.as_slice())
                .unwrap_or_default();
            if cidrs.is_empty() {
                return Err(NodeError::NoPodCidrs(name.to_owned()));
            }
            if !has_ipv6 && cidrs.iter().all(|cidr| cidr.addr().is_ipv6()) {
                let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
                return Err(NodeError::WrongFamily {
                    node: name.to_owned(),
                    cidrs: cidrs.join(","),
                });
            }
        }
        let is_missed = self.addresses.is_some() && lacks_addresses(node);
        Ok(is_missed.then_some(
            "no Node of this name with addresses: going on without its zone and addresses; give the right name with --hostname-override",
        ))
    }
}

fn lacks_addresses(node: Option<&Node>) -> bool {
    node.is_none_or(|node| node.addresses.is_empty())
}

fn lacks_pod_cidrs(node: Option<&Node>) -> bool {
    node.is_none_or(|node| node.pod_cidrs.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn wait(addresses: bool, pod_cidrs: bool, start: Instant) -> NodeWait {
        NodeWait {
            addresses: addresses.then(|| start + ADDRESSES),
            pod_cidrs: pod_cidrs.then(|| start + POD_CIDRS),
        }
    }

    fn node(address: Option<&str>, cidrs: &[&str]) -> Node {
        Node {
            addresses: address
                .map(|a| a.parse().expect("an address"))
                .into_iter()
                .collect(),
            pod_cidrs: cidrs.iter().map(|c| c.parse().expect("a range")).collect(),
            ..Node::default()
        }
    }

    #[test]
    fn what_is_missing_is_waited_for_and_not_longer() {
        let start = Instant::now();
        let complete = node(Some("192.0.2.1"), &["10.0.0.0/24"]);
        let no_cidrs = node(Some("192.0.2.1"), &[]);
        let (clusters, node_cidr, manifests) = (
            wait(true, false, start),
            wait(true, true, start),
            wait(false, false, start),
        );
        for (name, wait, node, until) in [
            ("complete", &node_cidr, Some(&complete), 0),
            ("no Node", &clusters, None, 30),
            ("no Node, NodeCIDR", &node_cidr, None, 300),
            ("no podCIDRs, NodeCIDR", &node_cidr, Some(&no_cidrs), 300),
            ("no podCIDRs", &clusters, Some(&no_cidrs), 0),
            ("no Node among manifests", &manifests, None, 0),
        ] {
            for after in [1, 29, 31, 299, 301] {
                let waits = wait.waits(node, start + S(after));
                assert_eq!(waits, after < until, "{name} after {after} s");
            }
        }
    }

    #[test]
    fn without_addresses_it_goes_on_and_without_pod_cidrs_of_its_mode_it_ends() {
        let start = Instant::now();
        let (clusters, node_cidr) = (wait(true, false, start), wait(true, true, start));
        let v6 = node(Some("192.0.2.1"), &["fd00::/64"]);
        assert_eq!(clusters.conclude("one", Some(&v6), false), Ok(None));
        assert!(matches!(clusters.conclude("one", None, true), Ok(Some(_))));
        assert_eq!(node_cidr.conclude("one", Some(&v6), true), Ok(None));
        let missing = NodeError::NoPodCidrs("one".into());
        assert_eq!(node_cidr.conclude("one", None, true), Err(missing));
        let wrong = node_cidr.conclude("one", Some(&v6), false);
        let wrong = wrong.expect_err("no IPv6 here").to_string();
        assert!(
            wrong.starts_with("Node one: podCIDRs fd00::/64 are all IPv6"),
            "{wrong}"
        );
    }
}
