//! What planning gives: ops in an order that no reader can trip over, or why not.

use lb_common::map_table;

use super::{Conflict, Family, PortKey};
use crate::maps::Op;

/// Why a service port, or a part of it, cannot be planned.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// Only what still rests could be given: wait for readers
    /// ([`crate::maps::LbMaps::wait_for_readers`]), call [`super::Planner::release_after_grace`], and plan
    /// again.
    #[error(
        "ids and slots are free, but readers may still use them; wait for these and plan again"
    )]
    NeedsGrace,
    /// No room. As much as fits is planned.
    #[error("map {map} is full ({capacity} entries); raise {flag}")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        capacity: u32,
        /// The flag that raises it.
        flag: &'static str,
    },
    /// A name is longer than Kubernetes allows.
    #[error("service port {0} has a name longer than 63 bytes; shorten it")]
    Name(PortKey),
}

/// A service port that is not, or not wholly, as it should be after this plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Which one.
    pub port: PortKey,
    /// Why.
    pub error: PlanError,
}

/// What to do for one Service.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan<A: Family> {
    /// In this order.
    pub ops: Vec<Op<A>>,
    /// Conflicts that begin with it; [`super::Planner::conflicts`] has all.
    pub conflicts: Vec<Conflict<A>>,
    /// What did not fit. Plan again when something was freed.
    pub refused: Vec<Refused>,
}

impl<A: Family> Default for Plan<A> {
    fn default() -> Self {
        Self {
            ops: Vec::new(),
            conflicts: Vec::new(),
            refused: Vec::new(),
        }
    }
}

/// How many entries are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "named after the maps")]
pub struct Fill {
    pub frontends: usize,
    pub services: usize,
    pub slots: usize,
    pub backends: usize,
    pub sources: usize,
}

/// The ops of a plan by phase, so that no reader meets a half-made service: what is pointed at is
/// written first and freed last.
#[derive(Debug)]
pub(super) struct Phases<A: Family> {
    /// Names, sources, backends, slots, then the service, port by port.
    pub(super) build: Vec<Op<A>>,
    pub(super) answer: Vec<Op<A>>,
    pub(super) unanswer: Vec<Op<A>>,
    pub(super) free_sources: Vec<Op<A>>,
    pub(super) free_services: Vec<Op<A>>,
    pub(super) free_backends: Vec<Op<A>>,
    pub(super) free_names: Vec<Op<A>>,
    /// An address goes on that a service which goes may have answered.
    pub(super) hands_over: bool,
}

impl<A: Family> Phases<A> {
    pub(super) fn new() -> Self {
        Self {
            build: Vec::new(),
            answer: Vec::new(),
            unanswer: Vec::new(),
            free_sources: Vec::new(),
            free_services: Vec::new(),
            free_backends: Vec::new(),
            free_names: Vec::new(),
            hands_over: false,
        }
    }

    pub(super) fn append(&mut self, mut later: Self) {
        self.hands_over |= later.hands_over;
        for (all, more) in self.lists().into_iter().zip(later.lists()) {
            all.append(more);
        }
    }

    /// A service that goes while an address is handed on is waited for: who found it there must not find it
    /// empty, for others answer there now.
    pub(super) fn in_order(mut self) -> Vec<Op<A>> {
        let mut ops = Vec::new();
        if self.hands_over && !self.free_services.is_empty() {
            self.unanswer.push(Op::AwaitReaders);
        }
        for list in self.lists() {
            ops.append(list);
        }
        ops
    }

    fn lists(&mut self) -> [&mut Vec<Op<A>>; 7] {
        [
            &mut self.build,
            &mut self.answer,
            &mut self.unanswer,
            &mut self.free_sources,
            &mut self.free_services,
            &mut self.free_backends,
            &mut self.free_names,
        ]
    }
}

/// No room in a map.
pub(super) fn full(map: &'static str, capacity: u32) -> PlanError {
    let flag = map_table::find(map).and_then(|spec| spec.capacity.flag());
    PlanError::Full {
        map,
        capacity,
        flag: flag.unwrap_or("its size"),
    }
}
