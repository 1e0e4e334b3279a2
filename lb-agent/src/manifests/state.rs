//! What the folder says as a whole, and what has changed about it.
//!
//! Bad news never takes a service down: the last good version of an object stays in force while its
//! document is bad, and all that a file last said while it holds something that cannot be told apart
//! (no YAML, no name) or cannot be read. Only a document that is gone removes its object.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    document::Place,
    folder::FileContent,
    object::{Name, Outcome},
};
use crate::model::{Event, Kind, Object, ObjectRef, Skip};

/// The objects of one document.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Good {
    file: String,
    objects: Vec<Object>,
}

/// All objects in force and all that is wrong.
#[derive(Clone, Default, Debug)]
pub(super) struct State {
    good: BTreeMap<Name, Good>,
    /// By place.
    skips: BTreeMap<String, String>,
}

impl State {
    /// Everything at once.
    pub(super) fn replace_events(&self) -> Vec<Event> {
        let all = self.objects();
        let lists = Kind::ALL.map(|kind| {
            let of_kind = all.iter().filter(|(name, _)| name.kind() == kind);
            Event::Replace(kind, of_kind.map(|(_, object)| (*object).clone()).collect())
        });
        lists
            .into_iter()
            .chain(self.skip_events(&Self::default()))
            .collect()
    }

    /// Takes what the files say and tells what that changes. What comes is told before what goes, so
    /// that an object which only moves to another name is never missing.
    pub(super) fn update<'a>(
        &mut self,
        files: impl Iterator<Item = (&'a str, &'a FileContent)>,
    ) -> Vec<Event> {
        let old = std::mem::take(self);
        *self = Merge::new(&old, files).finish();
        let (before, after) = (old.objects(), self.objects());
        let changed = after
            .iter()
            .filter(|(name, object)| before.get(name) != Some(object));
        let gone = before.keys().filter(|name| !after.contains_key(name));
        let applied = changed.map(|(_, object)| Event::Apply((*object).clone()));
        let deleted = gone.map(|name| Event::Delete(name.clone()));
        applied
            .chain(deleted)
            .chain(self.skip_events(&old))
            .collect()
    }

    fn objects(&self) -> BTreeMap<ObjectRef, &Object> {
        let all = self.good.values().flat_map(|good| &good.objects);
        all.map(|object| (object.reference(), object)).collect()
    }

    fn skip_events(&self, old: &Self) -> Vec<Event> {
        let over = old
            .skips
            .keys()
            .filter(|place| !self.skips.contains_key(*place));
        let over = over.map(|place| Event::Unskip(place.clone()));
        let changed = self
            .skips
            .iter()
            .filter(|(place, reason)| old.skips.get(*place) != Some(reason));
        let begun = changed.map(|(place, reason)| {
            Event::Skip(Skip {
                object: place.clone(),
                reason: reason.clone(),
            })
        });
        over.chain(begun).collect()
    }
}

/// Puts the files together, in their order.
struct Merge<'s, 'a> {
    old: &'s State,
    new: State,
    /// Where each object was first seen.
    claims: BTreeMap<Name, String>,
    /// Files that may have more to say than can be read.
    doubtful: BTreeSet<&'a str>,
}

impl<'s, 'a> Merge<'s, 'a> {
    fn new(old: &'s State, files: impl Iterator<Item = (&'a str, &'a FileContent)>) -> Self {
        let mut merge = Self {
            old,
            new: State::default(),
            claims: BTreeMap::new(),
            doubtful: BTreeSet::new(),
        };
        for (file, content) in files {
            merge.add_file(file, content);
        }
        merge
    }

    fn add_file(&mut self, file: &'a str, content: &FileContent) {
        let documents = match content {
            FileContent::Documents(documents) => documents,
            FileContent::Unreadable(reason) => {
                self.doubtful.insert(file);
                self.new.skips.insert(file.to_owned(), reason.clone());
                return;
            }
            FileContent::InTheMaking => {
                self.doubtful.insert(file);
                return;
            }
        };
        for (place, outcome) in documents {
            self.add(file, place, outcome);
        }
    }

    fn add(&mut self, file: &'a str, place: &Place, outcome: &Outcome) {
        match outcome {
            Outcome::Ignored => {}
            Outcome::Nameless(reason) => {
                self.doubtful.insert(file);
                let place = spell(file, place, None);
                self.new.skips.insert(place, reason.clone());
            }
            Outcome::Bad(name, reason) => {
                let place = spell(file, place, Some(name));
                if self.claim(name, &place) {
                    self.new.skips.insert(place, reason.clone());
                    self.keep(name);
                }
            }
            Outcome::Good(name, objects, faults) => {
                let place = spell(file, place, Some(name));
                if !self.claim(name, &place) {
                    return;
                }
                let good = Good {
                    file: file.to_owned(),
                    objects: objects.clone(),
                };
                self.new.good.insert(name.clone(), good);
                if !faults.is_empty() {
                    let reasons: Vec<_> = faults.iter().map(ToString::to_string).collect();
                    self.new.skips.insert(place, reasons.join(", and "));
                }
            }
        }
    }

    /// False where an earlier document has it.
    fn claim(&mut self, name: &Name, place: &str) -> bool {
        if let Some(first) = self.claims.get(name) {
            let reason = format!("is already in {first}, which counts; remove one of them");
            self.new.skips.insert(place.to_owned(), reason);
            return false;
        }
        self.claims.insert(name.clone(), place.to_owned());
        true
    }

    fn keep(&mut self, name: &Name) {
        if let Some(good) = self.old.good.get(name) {
            self.new.good.insert(name.clone(), good.clone());
        }
    }

    fn finish(mut self) -> State {
        for (name, good) in &self.old.good {
            if self.doubtful.contains(good.file.as_str()) && !self.claims.contains_key(name) {
                self.new.good.insert(name.clone(), good.clone());
            }
        }
        self.new
    }
}

/// `web.yaml: document 2, line 14, item 3 (Service shop/web)`
fn spell(file: &str, place: &Place, name: Option<&Name>) -> String {
    let line = place.line.map(|line| format!(", line {line}"));
    let item = place.item.map(|item| format!(", item {item}"));
    let name = name.map(|name| format!(" ({name})"));
    let [line, item, name] = [line, item, name].map(Option::unwrap_or_default);
    format!("{file}: document {}{line}{item}{name}", place.document)
}
