//! Service ports whose Local policy drops traffic here, though endpoints exist elsewhere (rule 130).

use std::collections::BTreeMap;

use lb_common::{frontend::Kind, list::Empty, service::BackendFlags};

use super::{Family, PortImage, PortKey};
use crate::model::Service;

/// How many, by the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NoLocal {
    /// `internalTrafficPolicy: Local`
    pub internal: u64,
    /// `externalTrafficPolicy: Local`
    pub external: u64,
}

impl NoLocal {
    /// Of one Service in one family.
    pub fn of<A: Family>(service: &Service, images: &BTreeMap<PortKey, PortImage<A>>) -> Self {
        let dropping = || images.values().filter(|image| drops(image));
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let external = dropping().filter(|image| is_external(image)).count();
        Self {
            internal: if service.internal_local {
                count(dropping().count())
            } else {
                0
            },
            external: if service.external_local {
                count(external)
            } else {
                0
            },
        }
    }
}

/// None here, and not because there are none at all.
fn drops<A: Family>(image: &PortImage<A>) -> bool {
    let is_local = |flags: &BackendFlags| flags.has(BackendFlags::IN_LOCAL);
    image.verdict == Empty::Drop && !image.endpoints.values().any(is_local)
}

fn is_external<A: Family>(image: &PortImage<A>) -> bool {
    let mut kinds = image.frontends.values().map(|frontend| frontend.kind);
    kinds.any(|kind| {
        matches!(
            kind,
            Kind::NODE_PORT | Kind::LOAD_BALANCER | Kind::EXTERNAL_IP
        )
    })
}
