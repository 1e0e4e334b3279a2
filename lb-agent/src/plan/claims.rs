//! Who wants to answer on which address, and who may (rule 20).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use lb_common::frontend::{FrontendKey, FrontendVal, Kind};

use super::{Family, PortKey};

/// Two service ports claim one address, port and protocol.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict<A: Family> {
    /// What they claim.
    pub key: FrontendKey<A>,
    /// Who answers.
    pub winner: PortKey,
    /// Who does not.
    pub loser: PortKey,
}

impl<A: Family> fmt::Display for Conflict<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, winner, loser } = self;
        let (addr, port) = (key.vip.ip(), key.port.host());
        if key.vip.is_unspecified() {
            write!(f, "node port {port}/{}", key.proto)?;
        } else {
            let at = std::net::SocketAddr::new(addr, port);
            write!(f, "{at}/{}", key.proto)?;
        }
        write!(
            f,
            " of {loser} belongs to {winner} already; give one of them another address or port"
        )
    }
}

/// Order of claimants: a ClusterIP before all else, for the API gives it to one Service alone; then
/// the older Service; then by name. A Service that leaves us or comes back is served while it is both
/// ours and another proxy's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    is_other_kind: bool,
    created_s: i64,
    port: PortKey,
}

/// All claims of one family.
#[derive(Clone, Debug)]
pub(super) struct Claims<A: Family> {
    by_key: BTreeMap<FrontendKey<A>, BTreeMap<Rank, FrontendVal>>,
    by_port: BTreeMap<PortKey, BTreeMap<FrontendKey<A>, Rank>>,
    /// Losers with the winner each lost to.
    lost: BTreeMap<(FrontendKey<A>, PortKey), PortKey>,
}

impl<A: Family> Claims<A> {
    pub(super) fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_port: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    /// Replaces what a port claims. Adds to `touched` every key that it claimed or claims.
    pub(super) fn replace(
        &mut self,
        port: &PortKey,
        created_s: i64,
        wanted: &BTreeMap<FrontendKey<A>, FrontendVal>,
        touched: &mut BTreeSet<FrontendKey<A>>,
    ) {
        for (key, rank) in self.by_port.remove(port).unwrap_or_default() {
            touched.insert(key);
            if let Some(claimants) = self.by_key.get_mut(&key) {
                claimants.remove(&rank);
                if claimants.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
        let mut ranks = BTreeMap::new();
        for (key, val) in wanted {
            touched.insert(*key);
            let rank = Rank {
                is_other_kind: !matches!(val.kind, Kind::CLUSTER_IP | Kind::ANY_PORT),
                created_s,
                port: port.clone(),
            };
            let claimants = self.by_key.entry(*key).or_default();
            claimants.insert(rank.clone(), *val);
            ranks.insert(*key, rank);
        }
        if !ranks.is_empty() {
            self.by_port.insert(port.clone(), ranks);
        }
    }

    /// Does anybody claim it?
    pub(super) fn has(&self, key: &FrontendKey<A>) -> bool {
        self.by_key.contains_key(key)
    }

    /// Who claims it, the one with the best right first.
    pub(super) fn claimants(
        &self,
        key: &FrontendKey<A>,
    ) -> impl Iterator<Item = (&PortKey, &FrontendVal)> {
        let claimants = self.by_key.get(key).into_iter().flatten();
        claimants.map(|(rank, val)| (&rank.port, val))
    }

    /// Notes who lost `key` to whom, and returns those that did not lose it before. Of claims to an
    /// address as such nobody loses.
    pub(super) fn judge(
        &mut self,
        key: &FrontendKey<A>,
        winner: Option<&PortKey>,
    ) -> Vec<Conflict<A>> {
        let of_key = (*key, PortKey::default())..;
        let known: BTreeMap<PortKey, PortKey> = (self.lost.range(of_key))
            .take_while(|((k, _), _)| k == key)
            .map(|((_, loser), winner)| (loser.clone(), winner.clone()))
            .collect();
        for loser in known.keys() {
            self.lost.remove(&(*key, loser.clone()));
        }
        let Some(winner) = winner else {
            return Vec::new();
        };
        let mut begun = Vec::new();
        for (rank, val) in self.by_key.get(key).into_iter().flatten() {
            let loser = &rank.port;
            if loser == winner || val.kind.is_any_port() {
                continue;
            }
            self.lost.insert((*key, loser.clone()), winner.clone());
            if known.get(loser) != Some(winner) {
                begun.push(Conflict {
                    key: *key,
                    winner: winner.clone(),
                    loser: loser.clone(),
                });
            }
        }
        begun
    }

    /// Every conflict that stands.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = Conflict<A>> {
        self.lost.iter().map(|((key, loser), winner)| Conflict {
            key: *key,
            winner: winner.clone(),
            loser: loser.clone(),
        })
    }
}
