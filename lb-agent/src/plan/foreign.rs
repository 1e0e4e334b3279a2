//! ClusterIPs of Services that another proxy serves (rule 2): entries that keep our refusals away
//! from them. They are claims like others, without a service port behind them.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    frontend::{FrontendKey, FrontendVal},
    net::Proto,
};

use super::{Family, Planner, PortKey};
use crate::model::ObjectKey;

impl<A: Family> Planner<A> {
    /// `vips` are what another proxy serves for `service`; none where it is ours, or gone. Takes
    /// effect with the next plan of `service`, so that an address changes hands in one plan.
    pub fn claim_foreign(&mut self, service: &ObjectKey, vips: &BTreeSet<A>) {
        let entry = |vip: &A| (FrontendKey::any_port(*vip), FrontendVal::foreign());
        let wanted: BTreeMap<_, _> = vips.iter().map(entry).collect();
        (self.claims).replace(&claimant(service), i64::MAX, &wanted, &mut self.unsettled);
    }
}

/// No service port has this protocol.
fn claimant(service: &ObjectKey) -> PortKey {
    PortKey {
        service: service.clone(),
        port: String::new(),
        proto: Proto::ANY,
    }
}
