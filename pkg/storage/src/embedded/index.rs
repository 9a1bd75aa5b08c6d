//! Every key's versions, in memory: a persistent map, so that a reader's snapshot and the writer's next state cost
//! nothing to take. Pure.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use crate::{Event, KeyValue, LeaseId, Revision};

/// Where a version is on disk: its revision, and its place in that revision's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) revision: Revision,
    pub(super) sub: u32,
}

/// All versions of all keys since the last compaction. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    keys: OrdMap<Arc<str>, Arc<Slot>>,
    bytes: usize,
}

/// The versions of one key.
#[derive(Debug, Clone)]
struct Slot {
    newest: Version,
    /// Oldest first.
    older: Vec<Version>,
}

#[derive(Debug, Clone)]
struct Version {
    place: Place,
    created: Revision,
    /// `None` is a deletion.
    value: Option<Bytes>,
    lease: Option<LeaseId>,
}

impl Version {
    fn key_value(&self, key: &Arc<str>) -> Option<KeyValue> {
        Some(KeyValue {
            key: Arc::clone(key),
            value: self.value.clone()?,
            create_revision: self.created,
            mod_revision: self.place.revision,
        })
    }

    fn weight(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Slot {
    fn at(&self, revision: Option<Revision>) -> Option<&Version> {
        let Some(revision) = revision else { return Some(&self.newest) };
        if self.newest.place.revision <= revision {
            return Some(&self.newest);
        }
        self.older.iter().rev().find(|v| v.place.revision <= revision)
    }
}

impl Index {
    /// Bytes of all values held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys there are, deleted ones not yet compacted among them.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The latest state of a key.
    pub(super) fn get(&self, key: &str) -> Option<KeyValue> {
        let (key, slot) = self.keys.get_key_value(key)?;
        slot.newest.key_value(key)
    }

    /// The lease of a key that exists.
    pub(super) fn lease(&self, key: &str) -> Option<LeaseId> {
        self.keys.get(key).and_then(|slot| slot.newest.lease)
    }

    /// Keys of a range and how many there are in all; an empty `end` is none.
    pub(super) fn range(
        &self,
        start: &str,
        end: &str,
        limit: usize,
        revision: Option<Revision>,
    ) -> (Vec<KeyValue>, usize) {
        let mut found = Vec::new();
        let mut count = 0;
        let mut take = |key: &Arc<str>, slot: &Slot| {
            let Some(version) = slot.at(revision).filter(|v| v.value.is_some()) else { return };
            count += 1;
            if limit == 0 || found.len() < limit {
                found.extend(version.key_value(key));
            }
        };
        // one key needs no iterator
        if end.strip_prefix(start) == Some("\0") {
            if let Some((key, slot)) = self.keys.get_key_value(start) {
                take(key, slot);
            }
            return (found, count);
        }
        if !end.is_empty() && end <= start {
            return (found, count);
        }
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        for (key, slot) in self.keys.range::<_, str>((Bound::Included(start), end)) {
            take(key, slot);
        }
        (found, count)
    }

    /// Sets a key.
    pub(super) fn put(
        &mut self,
        key: &Arc<str>,
        value: Bytes,
        lease: Option<LeaseId>,
        place: Place,
    ) -> Event {
        let before = self.get(key);
        let created = before.as_ref().map_or(place.revision, |b| b.create_revision);
        let key = self.add(key, Version { place, created, value: Some(value.clone()), lease });
        let kv = KeyValue { key, value, create_revision: created, mod_revision: place.revision };
        Event { kv, prev: before, deleted: false }
    }

    /// Removes a key; `None` when there is nothing to remove.
    pub(super) fn delete(&mut self, key: &str, place: Place) -> Option<Event> {
        let before = self.get(key)?;
        let key = Arc::clone(&before.key);
        self.add(&key, Version { place, created: Revision(0), value: None, lease: None });
        let kv =
            KeyValue { key, value: Bytes::new(), create_revision: Revision(0), mod_revision: place.revision };
        Some(Event { kv, prev: Some(before), deleted: true })
    }

    /// Adds a version as it is, on recovery. The event when it follows another version.
    pub(super) fn restore(
        &mut self,
        key: &Arc<str>,
        value: Option<Bytes>,
        created: Revision,
        lease: Option<LeaseId>,
        place: Place,
    ) -> Event {
        let prev = self.get(key);
        let deleted = value.is_none();
        let key = self.add(key, Version { place, created, value: value.clone(), lease });
        let kv = KeyValue {
            key,
            value: value.unwrap_or_default(),
            create_revision: created,
            mod_revision: place.revision,
        };
        Event { kv, prev, deleted }
    }

    fn add(&mut self, key: &Arc<str>, version: Version) -> Arc<str> {
        self.bytes += version.weight();
        if let Some((known, _)) = self.keys.get_key_value(&**key) {
            // one copy of the key's text, however often it is written
            let known = Arc::clone(known);
            if let Some(slot) = self.keys.get_mut(&*known) {
                let slot = Arc::make_mut(slot);
                slot.older.push(std::mem::replace(&mut slot.newest, version));
            }
            return known;
        }
        self.keys.insert(Arc::clone(key), Arc::new(Slot { newest: version, older: Vec::new() }));
        Arc::clone(key)
    }

    /// Forgets what a change at `revision` superseded, and the change itself if it was a deletion. Answers the places
    /// that are free on disk.
    pub(super) fn forget(&mut self, key: &str, revision: Revision) -> Vec<Place> {
        let Some(slot) = self.keys.get_mut(key) else { return Vec::new() };
        let slot = Arc::make_mut(slot);
        let mut free = Vec::new();
        let mut freed_bytes = 0;
        slot.older.retain(|version| {
            let at = version.place.revision;
            // a deletion is needed only to hide what it deleted
            let keep = at > revision || (at == revision && version.value.is_some());
            if !keep {
                free.push(version.place);
                freed_bytes += version.weight();
            }
            keep
        });
        slot.older.shrink_to_fit();
        let gone = slot.newest.value.is_none() && slot.newest.place.revision <= revision;
        if gone {
            free.push(slot.newest.place);
        }
        self.bytes -= freed_bytes;
        if gone {
            self.keys.remove(key);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(revision: i64) -> Place {
        Place { revision: Revision(revision), sub: 0 }
    }

    fn values(index: &Index, revision: i64) -> Vec<String> {
        let (kvs, _) = index.range("a", "z", 0, Some(Revision(revision)));
        kvs.iter().map(|kv| format!("{}={}", kv.key, String::from_utf8_lossy(&kv.value))).collect()
    }

    #[test]
    fn old_revisions_can_be_read_until_they_are_forgotten() {
        let mut index = Index::default();
        index.put(&"a".into(), "1".into(), None, place(1));
        index.put(&"b".into(), "2".into(), None, place(2));
        index.put(&"a".into(), "3".into(), None, place(3));
        index.delete("b", place(4));
        assert_eq!(values(&index, 0), [""; 0]);
        assert_eq!(values(&index, 1), ["a=1"]);
        assert_eq!(values(&index, 2), ["a=1", "b=2"]);
        assert_eq!(values(&index, 3), ["a=3", "b=2"]);
        assert_eq!(values(&index, 4), ["a=3"]);
        assert_eq!(index.bytes(), 3);

        assert_eq!(index.forget("a", Revision(1)), []);
        assert_eq!(index.forget("a", Revision(3)), [place(1)]);
        assert_eq!(values(&index, 3), ["a=3", "b=2"]);
        assert_eq!(index.forget("b", Revision(4)), [place(2), place(4)]);
        assert_eq!(values(&index, 4), ["a=3"]);
        assert_eq!((index.bytes(), index.len()), (1, 1));
    }

    #[test]
    fn a_key_made_again_keeps_its_new_life_when_the_old_is_forgotten() {
        let mut index = Index::default();
        index.put(&"a".into(), "1".into(), None, place(1));
        index.delete("a", place(2));
        let event = index.put(&"a".into(), "3".into(), None, place(3));
        assert_eq!(event.kv.create_revision, Revision(3));
        assert_eq!(event.prev, None);
        assert_eq!(index.forget("a", Revision(2)), [place(1), place(2)]);
        assert_eq!(values(&index, 3), ["a=3"]);
        assert_eq!(index.delete("nothing", place(4)), None);
    }

    #[test]
    fn ranges_count_beyond_their_limit() {
        let mut index = Index::default();
        for (i, key) in ["a/1", "a/2", "a/3", "b/1"].into_iter().enumerate() {
            index.put(&key.into(), Bytes::new(), None, place(i as i64 + 1));
        }
        let (kvs, count) = index.range("a/", "a0", 2, None);
        assert_eq!((kvs.len(), count), (2, 3));
        let (kvs, count) = index.range("a/2", "a/2\0", 1, None);
        assert_eq!((kvs.len(), count), (1, 1));
        assert_eq!(index.range("b", "a", 0, None).1, 0);
        assert_eq!(index.range("a/3", "", 0, None).1, 2);
    }
}
