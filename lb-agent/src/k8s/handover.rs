//! Services that change hands between us and another proxy (rule 3).
//!
//! A label that comes or goes is a deletion in one watch and an addition in another, and either may be
//! told first. In between the address would belong to nobody and be refused (rule 84), so a deletion
//! waits for a moment for the addition that explains it. A Service that is really gone is served for
//! that moment longer, less than kube-proxy's own pause between two writes (rule 124).

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};

use crate::model::{Event, Label, Object, ObjectKey, ObjectRef};

/// Watches of one change differ by far less, unless a machine is at its limit.
const PAUSE: Duration = Duration::from_millis(500);

/// Passes news of Services on until either end is gone.
pub(super) async fn run(mut news: mpsc::Receiver<Event>, events: mpsc::Sender<Event>) {
    let mut handover = Handover::default();
    loop {
        let next = handover.next().unwrap_or_else(|| Instant::now() + PAUSE);
        let told = tokio::select! {
            event = news.recv() => match event {
                Some(event) => handover.take(event, Instant::now()),
                None => return,
            },
            () = sleep_until(next.into()) => handover.due(Instant::now()),
            () = events.closed() => return,
        };
        for event in told {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Deletions that wait.
#[derive(Debug, Default)]
struct Handover {
    /// What may still come true, and when it does.
    held: BTreeMap<ObjectRef, Instant>,
    /// In the order of time; those that are held no longer are passed over.
    queue: VecDeque<(Instant, ObjectRef)>,
}

impl Handover {
    fn take(&mut self, event: Event, now: Instant) -> Vec<Event> {
        let explained = match &event {
            Event::Delete(reference) => {
                let at = now + PAUSE;
                self.held.insert(reference.clone(), at);
                self.queue.push_back((at, reference.clone()));
                return Vec::new();
            }
            Event::Apply(object) => self.explain(object),
            Event::Replace(kind, objects) => {
                self.held.retain(|held, _| held.kind() != *kind);
                objects.iter().flat_map(|o| self.explain(o)).collect()
            }
            Event::Skip(_) | Event::Unskip(_) | Event::HostAddrs(_) => Vec::new(),
        };
        let deletions = explained.into_iter().map(Event::Delete);
        [event].into_iter().chain(deletions).collect()
    }

    /// An object is there: deletions of its other forms come true at once, its own never.
    fn explain(&mut self, object: &Object) -> Vec<ObjectRef> {
        let reference = object.reference();
        let Some(key) = service_key(&reference) else {
            return Vec::new();
        };
        let forms = forms(key).into_iter();
        forms
            .filter(|form| self.held.remove(form).is_some() && *form != reference)
            .collect()
    }

    /// Deletions that nothing explained.
    fn due(&mut self, now: Instant) -> Vec<Event> {
        let mut due = Vec::new();
        while let Some((at, reference)) = self.queue.pop_front_if(|(at, _)| *at <= now) {
            if self.held.get(&reference) == Some(&at) {
                self.held.remove(&reference);
                due.push(Event::Delete(reference));
            }
        }
        due
    }

    fn next(&self) -> Option<Instant> {
        self.queue.front().map(|(at, _)| *at)
    }
}

fn service_key(reference: &ObjectRef) -> Option<&ObjectKey> {
    match reference {
        ObjectRef::Service(key) | ObjectRef::Foreign(_, key) => Some(key),
        ObjectRef::Slice(_) | ObjectRef::Node(_) | ObjectRef::ServiceCidr(_) => None,
    }
}

/// One Service as each of the watches has it.
fn forms(key: &ObjectKey) -> [ObjectRef; 3] {
    [
        ObjectRef::Service(key.clone()),
        ObjectRef::Foreign(Label::ProxyName, key.clone()),
        ObjectRef::Foreign(Label::Headless, key.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Foreign, Kind, Service};

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    fn ours() -> Object {
        Object::Service(Service {
            key: key(),
            ..Service::default()
        })
    }

    fn theirs() -> Object {
        Object::Foreign(Foreign {
            key: key(),
            ..Foreign::default()
        })
    }

    fn delete(object: &Object) -> Event {
        Event::Delete(object.reference())
    }

    #[test]
    fn whichever_watch_tells_first_the_new_hands_come_before_the_old_ones_go() {
        for (old, new) in [(ours(), theirs()), (theirs(), ours())] {
            let (now, expected) = (Instant::now(), [Event::Apply(new.clone()), delete(&old)]);
            let mut handover = Handover::default();
            assert_eq!(handover.take(delete(&old), now), []);
            assert_eq!(handover.take(Event::Apply(new.clone()), now), expected);
            assert_eq!(handover.due(now + PAUSE), [], "and only once");

            let mut handover = Handover::default();
            assert_eq!(
                handover.take(Event::Apply(new.clone()), now),
                [Event::Apply(new)]
            );
            assert_eq!(handover.take(delete(&old), now), []);
            assert_eq!(handover.due(now + PAUSE), [delete(&old)]);
        }
    }

    #[test]
    fn what_is_gone_is_told_after_a_moment() {
        let now = Instant::now();
        let mut handover = Handover::default();
        assert_eq!(handover.take(delete(&ours()), now), []);
        assert_eq!(handover.next(), Some(now + PAUSE));
        assert_eq!(handover.due(now + PAUSE / 2), []);
        assert_eq!(handover.due(now + PAUSE), [delete(&ours())]);
        assert_eq!(handover.next(), None);
    }

    #[test]
    fn what_is_back_was_never_gone() {
        let now = Instant::now();
        let mut handover = Handover::default();
        handover.take(delete(&ours()), now);
        assert_eq!(
            handover.take(Event::Apply(ours()), now),
            [Event::Apply(ours())]
        );
        // Gone again, later: the first moment is not the second's.
        handover.take(delete(&ours()), now + PAUSE / 2);
        assert_eq!(handover.due(now + PAUSE), []);
        assert_eq!(handover.due(now + PAUSE * 2), [delete(&ours())]);
    }

    #[test]
    fn a_list_settles_its_own_kind_and_explains_others() {
        let now = Instant::now();
        let mut handover = Handover::default();
        handover.take(delete(&ours()), now);
        let none = Event::Replace(Kind::Service, vec![]);
        assert_eq!(handover.take(none.clone(), now), [none]);
        assert_eq!(handover.due(now + PAUSE), []);

        handover.take(delete(&ours()), now);
        let theirs = Event::Replace(Kind::Foreign(Label::ProxyName), vec![theirs()]);
        assert_eq!(
            handover.take(theirs.clone(), now),
            [theirs, delete(&ours())]
        );
    }
}
