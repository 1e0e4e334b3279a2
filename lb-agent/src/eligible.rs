//! Which endpoints this node may use for a service port: traffic policy, topology hints and the
//! fallback to terminating endpoints (rules 16 to 19 and 22 to 32).
//!
//! Every endpoint that the API knows is kept, with flags that say where it is used and why not, so
//! that `explain` can tell. Knows nothing of ids and maps.

use std::collections::BTreeMap;

use lb_common::{list::Empty, net::BePort, service::BackendFlags};

use crate::{
    model::{Endpoint, ServicePort, Slice},
    plan::{Facts, Family},
};

/// Which lists a service port uses (rules 22 and 23).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uses {
    /// The Cluster list.
    pub cluster: bool,
    /// The Local list.
    pub local: bool,
}

/// The endpoints of a service port in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eligible<A> {
    /// Every endpoint, by address and port.
    pub endpoints: BTreeMap<(A, BePort), BackendFlags>,
    /// What happens to a flow whose list is empty (rule 32).
    pub verdict: Empty,
}

/// Chooses the endpoints of `port` out of all slices of its Service.
///
/// Ready endpoints win; where there are none, serving and terminating ones do, for each list on its
/// own (rule 31). Topology narrows the Cluster list alone.
pub fn select<A: Family>(
    port: &ServicePort,
    slices: &[&Slice],
    uses: Uses,
    facts: &Facts,
) -> Eligible<A> {
    let known = join::<A>(port, slices, facts);
    let topology = Topology::of(known.values().copied(), facts);
    let cluster_falls_back = !known.values().any(|c| c.is_ready());
    let local_falls_back = !known.values().any(|c| c.is_local && c.is_ready());

    let flags = |(place, c): (&(A, BePort), &Candidate<'_>)| {
        let allowed = topology.allows(c.endpoint, facts);
        let in_cluster = if cluster_falls_back {
            c.is_draining()
        } else {
            c.is_ready() && allowed
        };
        let in_local = c.is_local
            && if local_falls_back {
                c.is_draining()
            } else {
                c.is_ready()
            };
        let is_host = facts.is_host_addr(place.0.ip());
        let flags = BackendFlags::default()
            .set(BackendFlags::IN_CLUSTER, uses.cluster && in_cluster)
            .set(BackendFlags::IN_LOCAL, uses.local && in_local)
            .set(BackendFlags::READY, c.is_ready())
            .set(BackendFlags::SERVING, c.is_ready() || c.endpoint.serving)
            .set(BackendFlags::TERMINATING, c.endpoint.terminating)
            .set(BackendFlags::ON_NODE, c.is_local)
            .set(BackendFlags::HOST_ADDR, is_host)
            .set(
                BackendFlags::HINTED_AWAY,
                uses.cluster && c.is_ready() && !allowed,
            );
        (*place, flags)
    };
    let has_any = (known.values()).any(|c| c.is_ready() || c.is_draining());
    Eligible {
        endpoints: known.iter().map(flags).collect(),
        verdict: if has_any { Empty::Drop } else { Empty::Reject },
    }
}

/// An endpoint, and whether it is on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate<'a> {
    is_local: bool,
    endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    fn is_ready(&self) -> bool {
        self.endpoint.ready
    }

    /// Terminating, yet still serving (rules 28 to 30).
    fn is_draining(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }

    /// Of two that claim one address and port the greater stays (rule 16): a local one, then a
    /// ready one, then a serving one; the rest only makes the choice deterministic.
    fn rank(&self) -> impl Ord {
        let e = self.endpoint;
        (self.is_local, e.ready, e.serving, e)
    }
}

/// The endpoints of `port`: slices joined by port name and protocol (rule 14), duplicates resolved.
fn join<'a, A: Family>(
    port: &ServicePort,
    slices: &[&'a Slice],
    facts: &Facts,
) -> BTreeMap<(A, BePort), Candidate<'a>> {
    let mut known: BTreeMap<(A, BePort), Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter();
        for joined in ports.filter(|p| p.name == port.name && p.proto == port.proto) {
            for endpoint in &slice.endpoints {
                let Some(addr) = A::from_ip(endpoint.addr) else {
                    continue;
                };
                let new = Candidate {
                    is_local: endpoint.node.as_deref() == Some(&facts.node),
                    endpoint,
                };
                known
                    .entry((addr, BePort::new(joined.port)))
                    .and_modify(|old| {
                        if new.rank() > old.rank() {
                            *old = new;
                        }
                    })
                    .or_insert(new);
            }
        }
    }
    known
}

/// Rule 25: which hints narrow the Cluster list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

impl Topology {
    /// Decided on ready endpoints alone.
    fn of<'a>(candidates: impl Iterator<Item = Candidate<'a>> + Clone, facts: &Facts) -> Self {
        let modes = [Self::SameNode, Self::SameZone];
        let ready = candidates.filter(Candidate::is_ready);
        let applies = |mode: &Self| {
            ready.clone().all(|c| !mode.hints(c.endpoint).is_empty())
                && ready.clone().any(|c| mode.allows(c.endpoint, facts))
        };
        modes.into_iter().find(applies).unwrap_or(Self::Anywhere)
    }

    fn hints(self, endpoint: &Endpoint) -> &[String] {
        match self {
            Self::Anywhere => &[],
            Self::SameNode => &endpoint.nodes,
            Self::SameZone => &endpoint.zones,
        }
    }

    fn allows(self, endpoint: &Endpoint, facts: &Facts) -> bool {
        match self {
            Self::Anywhere => true,
            Self::SameNode => endpoint.nodes.contains(&facts.node),
            // A node without a zone never matches (rule 26).
            Self::SameZone => (facts.zone.as_ref()).is_some_and(|z| endpoint.zones.contains(z)),
        }
    }
}
