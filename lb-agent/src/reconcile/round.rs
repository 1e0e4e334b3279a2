//! What a round takes up and what it did, for metrics (rules 127 to 129).

use std::time::Duration;

use crate::model::{Event, Kind, Trigger};

/// What one round did, for metrics.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Services planned.
    pub services: usize,
    /// Changes to maps.
    pub ops: usize,
    /// How long it took.
    pub took: Duration,
    /// Source ranges of a Service have begun to need clients' addresses: namespaces must stay known.
    pub needs_netns: bool,
    /// Everything was looked at, for this node or its ranges changed.
    pub is_full: bool,
    /// Services that could not be applied.
    pub failures: usize,
    /// Nothing waits for another try.
    pub is_success: bool,
    /// A backend of a UDP port no longer serves.
    pub lost_udp: bool,
    /// Not one Service can be applied.
    pub is_stuck: bool,
    /// Changes of slices that are in force now, with the time at which they came to pass.
    pub triggers: Vec<Trigger>,
}

/// News, as kube-proxy counts them (rule 129).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Of Services, once for each family.
    pub services: u64,
    /// Of slices.
    pub slices: u64,
}

/// Rule 129. Both families look at every Service.
pub fn count_news(event: &Event) -> Counted {
    let (kind, news) = match event {
        Event::Apply(object) => (object.reference().kind(), 1),
        Event::Delete(reference) => (reference.kind(), 1),
        Event::Replace(kind, objects) => (*kind, u64::try_from(objects.len()).unwrap_or(u64::MAX)),
        Event::Skip(_) | Event::Unskip(_) | Event::HostAddrs(_) => return Counted::default(),
    };
    match kind {
        Kind::Service => Counted {
            services: 2 * news,
            slices: 0,
        },
        Kind::Slice => Counted {
            services: 0,
            slices: news,
        },
        Kind::Node | Kind::ServiceCidr | Kind::Foreign(_) => Counted::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Object, ObjectKey, ObjectRef, Service};

    #[test]
    fn services_count_once_for_each_family_and_slices_once() {
        let service = || Object::Service(Service::default());
        let key = ObjectKey::new("shop", "web");
        for (event, services, slices) in [
            (Event::Apply(service()), 2, 0),
            (Event::Delete(ObjectRef::Service(key.clone())), 2, 0),
            (Event::Delete(ObjectRef::Slice(key)), 0, 1),
            (
                Event::Replace(Kind::Service, vec![service(), service()]),
                4,
                0,
            ),
            (Event::Replace(Kind::Slice, vec![]), 0, 0),
            (Event::Delete(ObjectRef::Node("one".into())), 0, 0),
            (Event::Unskip("Service shop/web".into()), 0, 0),
        ] {
            let counted = count_news(&event);
            assert_eq!(
                (counted.services, counted.slices),
                (services, slices),
                "{event:?}"
            );
        }
    }
}
