//! The periodic full comparison: what the kernel holds against what it should hold.

use std::collections::BTreeMap;

use lb_common::service::{Service, Slot};

use super::{Family, Planner, outcome::Phases};
use crate::maps::{Content, Op};

/// What somebody else changed.
#[derive(Clone, PartialEq, Debug)]
pub struct Drift<A: Family> {
    /// What puts it right. Note each as it succeeds, as with a plan.
    pub ops: Vec<Op<A>>,
    /// How many entries differ.
    pub entries: usize,
}

impl<A: Family> Planner<A> {
    /// Compares maps that were just read with what was written to them. What an earlier agent left
    /// counts as written until [`Planner::sweep`] has removed it.
    pub fn drift(&self, held: &Content<A>) -> Drift<A> {
        let mut phases = Phases::new();
        let mut entries = 0;
        let mirror = &self.mirror;

        let names = Differences::of(&mirror.names, &held.names);
        entries += names.count();
        (phases.build).extend(names.wanted.map_to(|id, name| Op::PutName(*id, *name)));
        (phases.free_names).extend(names.extra.iter().map(|id| Op::DelName(**id)));

        let missing = mirror.sources.difference(&held.sources);
        (phases.build).extend(missing.map(|(key, bits)| Op::PutSource(*key, *bits)));
        let extra = held.sources.difference(&mirror.sources);
        (phases.free_sources).extend(extra.map(|(key, bits)| Op::DelSource(*key, *bits)));
        entries += (mirror.sources.symmetric_difference(&held.sources)).count();

        let backends = Differences::of(&mirror.backends, &held.backends);
        entries += backends.count();
        (phases.build).extend(backends.wanted.map_to(|id, b| Op::PutBackend(*id, *b)));
        (phases.free_backends).extend(backends.extra.iter().map(|id| self.freed(**id)));

        for (base, run) in &mirror.runs {
            let wrong = wrong_slots(*base, run, held);
            if wrong > 0 {
                entries += wrong;
                phases.build.push(Op::PutSlots(*base, run.clone()));
            }
        }

        let still = |service: &Service| Service {
            cursor: 0,
            ..*service
        };
        let services = (held.services.iter()).map(|(id, service)| (*id, still(service)));
        let services = services.collect();
        let services = Differences::of(&mirror.services, &services);
        entries += services.count();
        (phases.build).extend(services.wanted.map_to(|id, s| Op::PutService(*id, *s)));
        (phases.free_services).extend(services.extra.iter().map(|id| Op::DelService(**id)));

        let frontends = Differences::of(&mirror.frontends, &held.frontends);
        entries += frontends.count();
        (phases.answer).extend(frontends.wanted.map_to(|key, v| Op::PutFrontend(*key, *v)));
        (phases.unanswer).extend(frontends.extra.iter().map(|key| Op::DelFrontend(**key)));

        phases.hands_over = true;
        Drift {
            ops: phases.in_order(),
            entries,
        }
    }
}

fn wrong_slots<A: Family>(base: u32, run: &[Slot<A>], held: &Content<A>) -> usize {
    let places = (base..).zip(run);
    (places.filter(|(i, slot)| held.slots.get(i) != Some(slot))).count()
}

/// What one map should have and has not, and the reverse.
struct Differences<'a, K, V> {
    wanted: Wanted<'a, K, V>,
    extra: Vec<&'a K>,
}

struct Wanted<'a, K, V>(Vec<(&'a K, &'a V)>);

impl<'a, K: Ord, V: PartialEq> Differences<'a, K, V> {
    fn of(wanted: &'a BTreeMap<K, V>, held: &'a BTreeMap<K, V>) -> Self {
        let is_missing = |(key, val): &(&K, &V)| held.get(key) != Some(val);
        let is_extra = |key: &&K| !wanted.contains_key(key);
        Self {
            wanted: Wanted(wanted.iter().filter(is_missing).collect()),
            extra: held.keys().filter(is_extra).collect(),
        }
    }

    fn count(&self) -> usize {
        self.wanted.0.len() + self.extra.len()
    }
}

impl<K, V> Wanted<'_, K, V> {
    fn map_to<T>(&self, op: impl Fn(&K, &V) -> T) -> impl Iterator<Item = T> {
        self.0.iter().map(move |(key, val)| op(key, val))
    }
}
