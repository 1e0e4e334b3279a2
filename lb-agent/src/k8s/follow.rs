//! From what kube's watcher says about one kind to the events of the model.
//!
//! Objects are converted as they come and not kept; their names are, and what they became, so that
//! an object which cannot be read leaves its last good version in force, through a new list too.

use std::collections::{BTreeMap, BTreeSet};

use kube::{Resource as _, core::ObjectMeta, runtime::watcher};

use super::{
    convert::{Converted, Fault, object_key},
    guard::{Guarded, Malformed},
    kind::Watched,
};
use crate::model::{Event, Kind, Object, ObjectKey, ObjectRef, Skip};

/// What is known of one kind.
#[derive(Debug)]
pub(super) struct Follower {
    /// What its objects become; others that they become are left out.
    kind: Kind,
    /// By the object's own name: what it became. Objects that became nothing are left out.
    known: BTreeMap<ObjectKey, BTreeSet<ObjectRef>>,
    /// Objects that are bad, and why.
    bad: BTreeMap<String, String>,
    /// A list that is not yet complete.
    list: List,
}

#[derive(Debug, Default)]
struct List {
    objects: Vec<Object>,
    known: BTreeMap<ObjectKey, BTreeSet<ObjectRef>>,
    /// Those that could not be read.
    unread: BTreeSet<ObjectKey>,
    bad: BTreeMap<String, String>,
}

impl Follower {
    /// Of one kind; nothing is known yet.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            known: BTreeMap::new(),
            bad: BTreeMap::new(),
            list: List::default(),
        }
    }

    /// What the watcher's word means.
    pub(super) fn take<K: Watched>(&mut self, word: watcher::Event<Guarded<K>>) -> Vec<Event> {
        match word {
            watcher::Event::Init => {
                self.list = List::default();
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                self.list.add(self.kind, object);
                Vec::new()
            }
            watcher::Event::InitDone => self.replace(),
            watcher::Event::Apply(Guarded(Ok(object))) => self.apply(&object),
            watcher::Event::Apply(Guarded(Err(malformed))) => {
                self.report(label::<K>(&malformed.meta), Some(malformed.reason))
            }
            watcher::Event::Delete(object) => self.delete::<K>(object.meta()),
        }
    }

    fn apply<K: Watched>(&mut self, object: &K) -> Vec<Event> {
        let key = object_key(object.meta());
        let Converted {
            object: made,
            faults,
        } = object.convert();
        let made = of_kind(self.kind, made);
        let names: BTreeSet<_> = made.iter().map(Object::reference).collect();
        let before = self.known.remove(&key).unwrap_or_default();
        let mut events: Vec<_> = made.into_iter().map(Event::Apply).collect();
        events.extend(before.difference(&names).cloned().map(Event::Delete));
        if !names.is_empty() {
            self.known.insert(key, names);
        }
        events.extend(self.report(label::<K>(object.meta()), explain(&faults)));
        events
    }

    fn delete<K: Watched>(&mut self, meta: &ObjectMeta) -> Vec<Event> {
        let gone = self.known.remove(&object_key(meta)).unwrap_or_default();
        let mut events: Vec<_> = gone.into_iter().map(Event::Delete).collect();
        events.extend(self.report(label::<K>(meta), None));
        events
    }

    /// Says that an object is bad, or is so no longer, where that is news.
    fn report(&mut self, object: String, reason: Option<String>) -> Vec<Event> {
        let before = match &reason {
            Some(reason) => self.bad.insert(object.clone(), reason.clone()),
            None => self.bad.remove(&object),
        };
        if before == reason {
            return Vec::new();
        }
        vec![match reason {
            Some(reason) => Event::Skip(Skip { object, reason }),
            None => Event::Unskip(object),
        }]
    }

    /// A list has come to its end. As long as some known object in it could not be read, the list
    /// would end that object: then the difference is told instead.
    fn replace(&mut self) -> Vec<Event> {
        let List {
            objects,
            mut known,
            unread,
            bad,
        } = std::mem::take(&mut self.list);
        let kept: Vec<_> = unread
            .iter()
            .filter_map(|key| self.known.remove_entry(key))
            .collect();
        let mut events = if kept.is_empty() {
            vec![Event::Replace(self.kind, objects)]
        } else {
            let listed: BTreeSet<_> = known.values().flatten().collect();
            let before = self.known.values().flatten();
            let gone = before.filter(|name| !listed.contains(name)).cloned();
            let gone: Vec<_> = gone.map(Event::Delete).collect();
            objects.into_iter().map(Event::Apply).chain(gone).collect()
        };
        known.extend(kept);
        self.known = known;
        let over = self.bad.keys().filter(|object| !bad.contains_key(*object));
        let over: Vec<_> = over.cloned().collect();
        events.extend(
            over.into_iter()
                .flat_map(|object| self.report(object, None)),
        );
        let begun = bad.into_iter();
        events.extend(begun.flat_map(|(object, reason)| self.report(object, Some(reason))));
        events
    }
}

impl List {
    fn add<K: Watched>(&mut self, kind: Kind, Guarded(object): Guarded<K>) {
        let object = match object {
            Ok(object) => object,
            Err(Malformed { meta, reason }) => {
                self.unread.insert(object_key(&meta));
                self.bad.insert(label::<K>(&meta), reason);
                return;
            }
        };
        let Converted {
            object: made,
            faults,
        } = object.convert();
        let made = of_kind(kind, made);
        if !made.is_empty() {
            let names = made.iter().map(Object::reference).collect();
            self.known.insert(object_key(object.meta()), names);
        }
        self.objects.extend(made);
        if let Some(reason) = explain(&faults) {
            self.bad.insert(label::<K>(object.meta()), reason);
        }
    }
}

fn of_kind(kind: Kind, made: Option<Vec<Object>>) -> Vec<Object> {
    let made = made.unwrap_or_default().into_iter();
    made.filter(|object| object.reference().kind() == kind)
        .collect()
}

/// `Service shop/web`
fn label<K: Watched>(meta: &ObjectMeta) -> String {
    let (kind, key) = (K::kind(&()), object_key(meta));
    if key.namespace.is_empty() {
        return format!("{kind} {}", key.name);
    }
    format!("{kind} {key}")
}

fn explain(faults: &[Fault]) -> Option<String> {
    let reasons: Vec<_> = faults.iter().map(ToString::to_string).collect();
    (!reasons.is_empty()).then(|| reasons.join(", and "))
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
