//! One family: its planner and its maps, kept in step op by op.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::net::BePort;

use crate::{
    maps::{LbMaps, MapError, Op},
    model::ObjectKey,
    plan::{Family, Plan, PlanError, Planner, PortImage, PortKey},
};

/// Why a Service is not as it should be.
#[derive(thiserror::Error, Debug)]
pub enum HalfError {
    /// The kernel refused a change.
    #[error(transparent)]
    Map(#[from] MapError),
    /// There is no room for it.
    #[error("{0}")]
    Refused(String),
}

/// One family.
#[derive(Debug)]
pub struct Half<A: Family, M> {
    maps: M,
    planner: Planner<A>,
    /// Something was freed that rests until readers have passed.
    rests: bool,
    /// A backend of a UDP port no longer serves, since this was last asked.
    lost_udp: bool,
}

impl<A: Family, M: LbMaps<A>> Half<A, M> {
    /// Takes over what the maps hold.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn adopt(mut maps: M) -> Result<Self, MapError> {
        // What the agent before freed last may still be in use.
        maps.wait_for_readers()?;
        let planner = Planner::adopt(maps.capacities(), maps.read()?);
        Ok(Self {
            maps,
            planner,
            rests: false,
            lost_udp: false,
        })
    }

    /// Makes a Service as desired; `foreign` are the addresses of it that another proxy serves. What does not fit or fails leaves the rest as good as it was;
    /// returns how many ops succeeded.
    ///
    /// # Errors
    /// See [`HalfError`]; try again later.
    pub fn put(
        &mut self,
        service: &ObjectKey,
        desired: &BTreeMap<PortKey, PortImage<A>>,
        foreign: &BTreeSet<A>,
    ) -> Result<usize, HalfError> {
        self.planner.claim_foreign(service, foreign);
        let plan = match self.planner.plan_service(service, desired) {
            Err(PlanError::NeedsGrace) => {
                self.release()?;
                self.planner.plan_service(service, desired)
            }
            planned => planned,
        };
        self.carry_out(plan)
    }

    /// Removes what was adopted and belongs to nobody.
    ///
    /// # Errors
    /// See [`HalfError`].
    pub fn sweep(&mut self) -> Result<usize, HalfError> {
        let plan = self.planner.sweep();
        self.carry_out(plan)
    }

    fn carry_out(&mut self, plan: Result<Plan<A>, PlanError>) -> Result<usize, HalfError> {
        let plan = plan.map_err(|error| HalfError::Refused(error.to_string()))?;
        for conflict in &plan.conflicts {
            tracing::warn!("{conflict}");
        }
        self.apply(&plan.ops)?;
        let refused: BTreeSet<String> = plan
            .refused
            .iter()
            .map(|refused| format!("port {:?}: {}", refused.port.port, refused.error))
            .collect();
        if refused.is_empty() {
            return Ok(plan.ops.len());
        }
        Err(HalfError::Refused(
            refused.into_iter().collect::<Vec<_>>().join("; "),
        ))
    }

    /// Lets what was freed be used again, after every reader has passed.
    ///
    /// # Errors
    /// The kernel cannot tell; what rests goes on resting.
    pub fn release(&mut self) -> Result<(), MapError> {
        if !self.rests {
            return Ok(());
        }
        self.maps.wait_for_readers()?;
        self.planner.release_after_grace();
        self.rests = false;
        Ok(())
    }

    /// Has a backend of a UDP port stopped serving since this was last asked?
    pub fn take_lost_udp(&mut self) -> bool {
        std::mem::take(&mut self.lost_udp)
    }

    /// Compares the maps with what was written to them and repairs; returns how many entries differed.
    ///
    /// # Errors
    /// The maps cannot be read or written.
    pub fn repair(&mut self) -> Result<usize, MapError> {
        let drift = self.planner.drift(&self.maps.read()?);
        self.apply(&drift.ops)?;
        Ok(drift.entries)
    }

    /// In order, up to the first that fails.
    fn apply(&mut self, ops: &[Op<A>]) -> Result<(), MapError> {
        for op in ops {
            self.maps.apply(op)?;
            self.rests = true;
            self.lost_udp |= self.planner.loses_udp(op);
            self.planner.note(op);
        }
        Ok(())
    }
}

/// Is every NodePort of the list between these two?
pub fn spans((lo, hi): (BePort, BePort), ports: impl IntoIterator<Item = u16>) -> bool {
    ports
        .into_iter()
        .all(|port| port == 0 || (lo.host() <= port && port <= hi.host()))
}
