//! What must hold, as pure state machines: what the writer of an object knows of it, and what a watcher was told.
//!
//! Every object carries `seq`, which each write that is made raises by one, over deletion and recreation too. So a
//! watcher sees by itself whether something was left out, came twice or came late.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A config map as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Object {
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) data: Data,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) resource_version: String,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Data {
    #[serde(default)]
    seq: String,
    /// Which write made it.
    #[serde(default)]
    pub(crate) op: String,
}

impl Object {
    pub(crate) fn seq(&self) -> u64 {
        self.data.seq.parse().unwrap_or(0)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or(0)
    }
}

/// `seq` and resourceVersion of the objects there are, by name.
pub(crate) type Objects = BTreeMap<String, (u64, u64)>;

/// The objects of a list.
pub(crate) fn objects(items: &[Object]) -> Objects {
    items.iter().map(|o| (o.metadata.name.clone(), (o.seq(), o.revision()))).collect()
}

/// The differences of two states, at most a few, for messages.
pub(crate) fn differences(expected: &Objects, found: &Objects) -> Vec<String> {
    const MOST: usize = 5;
    let names: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differing = names.into_iter().filter(|name| expected.get(*name) != found.get(*name));
    differing
        .map(|name| format!("{name}: expected {:?}, found {:?}", expected.get(name), found.get(name)))
        .take(MOST)
        .collect()
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Update,
    Delete,
}

/// A write that may or may not have been made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Doubt {
    kind: Kind,
    op: String,
}

/// An object as its only writer knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owned {
    /// The last `seq` known to have been written.
    pub(crate) seq: u64,
    /// resourceVersion while it exists.
    pub(crate) revision: Option<u64>,
    /// Writes since then whose outcomes are not known. A store that was killed may make one after it was looked for, but
    /// one only: each is on the condition that nothing has changed.
    doubts: Vec<Doubt>,
}

impl Owned {
    /// A write was acknowledged.
    pub(crate) fn acknowledged(&mut self, kind: Kind, revision: u64) -> Result<(), String> {
        self.doubts.clear();
        if kind == Kind::Delete {
            self.revision = None;
            return Ok(());
        }
        self.seq += 1;
        match self.revision.replace(revision) {
            Some(before) if before >= revision => {
                Err(format!("a write at resourceVersion {before} was acknowledged with {revision}"))
            }
            _ => Ok(()),
        }
    }

    /// The outcome of a write is not known.
    pub(crate) fn doubted(&mut self, kind: Kind, op: &str) {
        self.doubts.push(Doubt { kind, op: op.to_owned() });
    }

    /// What a consistent read says now. The only change since the last acknowledged state can be a write in doubt.
    pub(crate) fn found(&mut self, object: Option<&Object>) -> Result<(), String> {
        let deleted = |d: &Doubt| d.kind == Kind::Delete;
        match (object, self.revision) {
            (None, None) => return Ok(()),
            (None, Some(_)) if self.doubts.iter().any(deleted) => self.revision = None,
            (None, Some(revision)) => {
                self.revision = None;
                return Err(format!(
                    "seq {} at resourceVersion {revision} was acknowledged and is gone",
                    self.seq
                ));
            }
            (Some(object), Some(revision)) if object.revision() == revision && object.seq() == self.seq => {
                return Ok(());
            }
            (Some(object), _)
                if object.seq() == self.seq + 1
                    && self.doubts.iter().any(|d| !deleted(d) && d.op == object.data.op) =>
            {
                self.seq += 1;
                self.revision = Some(object.revision());
            }
            (Some(object), _) => {
                let problem = format!(
                    "seq {} of {} at resourceVersion {} is there, {} at {:?} was acknowledged last",
                    object.seq(),
                    object.data.op,
                    object.revision(),
                    self.seq,
                    self.revision
                );
                // told once; what follows is judged by what is there
                (self.seq, self.revision) = (object.seq(), Some(object.revision()));
                return Err(problem);
            }
        }
        self.doubts.clear();
        Ok(())
    }
}

/// Which of all objects a watcher sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    All,
    /// Those whose `seq` is even; they come and go by their label.
    Even,
}

impl View {
    /// How far apart the `seq` of two versions are that follow each other in this view.
    fn step(self) -> u64 {
        match self {
            Self::All => 1,
            Self::Even => 2,
        }
    }
}

/// What a watcher was told so far.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    view: View,
    pub(crate) objects: Objects,
    /// The last `seq` seen of each object, also of those that are gone.
    last: BTreeMap<String, u64>,
    /// Everything up to here was told.
    pub(crate) revision: u64,
}

impl Watched {
    /// Begins with a list.
    pub(crate) fn from_list(view: View, items: &[Object], revision: u64) -> Self {
        let objects = objects(items);
        let last = objects.iter().map(|(name, (seq, _))| (name.clone(), *seq)).collect();
        Self { view, objects, last, revision }
    }

    /// A list after a gap: everything must be as new as what was known, nothing older.
    pub(crate) fn relist(&mut self, items: &[Object], revision: u64) -> Result<(), String> {
        let (before, known) = (self.revision, std::mem::take(&mut self.last));
        *self = Self::from_list(self.view, items, revision);
        if revision < before {
            return Err(format!("a list at {revision} after the watch had come to {before}"));
        }
        for (name, seq) in known {
            let now = *self.last.entry(name.clone()).or_insert(seq);
            if now < seq {
                return Err(format!("{name} was seen with seq {seq}, a later list has {now}"));
            }
            if !self.objects.contains_key(&name) {
                // what happened while nobody watched is not known
                self.last.remove(&name);
            }
        }
        Ok(())
    }

    /// Everything up to a revision was told.
    pub(crate) fn bookmark(&mut self, revision: u64) -> Result<(), String> {
        if revision < self.revision {
            return Err(format!("a bookmark at {revision} after an event at {}", self.revision));
        }
        self.revision = revision;
        Ok(())
    }

    /// One event.
    pub(crate) fn event(&mut self, kind: &str, object: &Object) -> Result<(), String> {
        let (name, seq, revision) = (&object.metadata.name, object.seq(), object.revision());
        let told = format!("{kind} {name} seq {seq} at {revision}");
        if revision <= self.revision {
            return Err(format!("{told} came after {}", self.revision));
        }
        self.revision = revision;
        let (present, last) = (self.objects.contains_key(name), self.last.get(name).copied());
        let expected = match kind {
            "ADDED" if !present => last.map(|last| last + self.view.step()),
            "MODIFIED" if present && self.view == View::All => last.map(|last| last + 1),
            "DELETED" if present => last,
            _ => return Err(format!("{told}, but it was {}", if present { "there" } else { "not there" })),
        };
        if expected.is_some_and(|expected| expected != seq) {
            return Err(format!("{told}, expected seq {}", expected.unwrap_or_default()));
        }
        self.last.insert(name.clone(), seq);
        if kind == "DELETED" {
            self.objects.remove(name);
        } else {
            self.objects.insert(name.clone(), (seq, revision));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, seq: u64, revision: u64) -> Object {
        Object {
            metadata: Metadata {
                name: name.into(),
                resource_version: revision.to_string(),
                annotations: BTreeMap::new(),
            },
            data: Data { seq: seq.to_string(), op: format!("op{seq}") },
        }
    }

    #[test]
    fn what_a_watcher_misses_is_noticed() {
        let start = || Watched::from_list(View::All, &[object("a", 3, 10)], 12);
        type Told = (&'static str, &'static str, u64, u64);
        let cases: &[(&[Told], Option<&str>)] = &[
            (&[("MODIFIED", "a", 4, 13), ("DELETED", "a", 4, 14), ("ADDED", "a", 5, 15)], None),
            (&[("ADDED", "b", 7, 13), ("MODIFIED", "b", 8, 20)], None),
            (&[("MODIFIED", "a", 5, 13)], Some("expected seq 4")),
            (&[("MODIFIED", "a", 4, 13), ("MODIFIED", "a", 4, 13)], Some("came after 13")),
            (&[("MODIFIED", "a", 4, 13), ("MODIFIED", "a", 4, 14)], Some("expected seq 5")),
            (&[("MODIFIED", "a", 4, 11)], Some("came after 12")),
            (&[("ADDED", "a", 4, 13)], Some("it was there")),
            (&[("DELETED", "b", 1, 13)], Some("it was not there")),
            (&[("DELETED", "a", 3, 13), ("ADDED", "a", 5, 14)], Some("expected seq 4")),
        ];
        for (told, problem) in cases {
            let mut watched = start();
            let outcome: Result<(), String> = told.iter().try_for_each(|(kind, name, seq, revision)| {
                watched.event(kind, &object(name, *seq, *revision))
            });
            match problem {
                None => assert_eq!(outcome, Ok(()), "{told:?}"),
                Some(problem) => assert!(outcome.unwrap_err().contains(problem), "{told:?}"),
            }
        }
        assert!(start().bookmark(11).is_err());
    }

    #[test]
    fn selected_objects_come_and_go() {
        let mut watched = Watched::from_list(View::Even, &[object("a", 2, 1)], 1);
        watched.event("DELETED", &object("a", 2, 2)).unwrap();
        watched.event("ADDED", &object("a", 4, 3)).unwrap();
        watched.event("DELETED", &object("a", 4, 4)).unwrap();
        assert!(watched.event("ADDED", &object("a", 8, 5)).is_err());
    }

    #[test]
    fn a_later_list_is_not_older() {
        let mut watched = Watched::from_list(View::All, &[object("a", 3, 10), object("b", 1, 11)], 12);
        assert!(watched.clone().relist(&[object("a", 2, 10)], 20).is_err());
        assert!(watched.clone().relist(&[], 11).is_err());
        watched.relist(&[object("a", 9, 15)], 20).unwrap();
        watched.event("ADDED", &object("b", 40, 21)).unwrap();
        assert!(watched.event("MODIFIED", &object("a", 11, 22)).is_err());
    }

    #[test]
    fn only_what_was_in_doubt_may_have_happened() {
        let mut owned = Owned::default();
        owned.acknowledged(Kind::Create, 5).unwrap();
        assert!(owned.clone().found(None).is_err(), "lost");
        assert!(owned.clone().found(Some(&object("a", 2, 6))).is_err(), "from nowhere");
        owned.doubted(Kind::Update, "op2");
        assert!(owned.clone().found(Some(&object("a", 1, 5))).is_ok(), "not made");
        assert!(owned.clone().found(None).is_err());
        owned.doubted(Kind::Update, "op2 again");
        owned.found(Some(&object("a", 2, 6))).unwrap();
        assert_eq!((owned.seq, owned.revision), (2, Some(6)), "the first of the two, late");
        assert!(owned.clone().found(Some(&object("a", 3, 7))).is_err(), "the other cannot be made then");
        owned.doubted(Kind::Delete, "op3");
        owned.found(None).unwrap();
        assert_eq!((owned.seq, owned.revision), (2, None));
        assert!(owned.acknowledged(Kind::Create, 9).is_ok());
        assert!(owned.acknowledged(Kind::Update, 9).is_err(), "revisions grow");
    }
}
