//! Every key's versions, in persistent maps, so that a reader's snapshot and the writer's next state cost nothing to
//! take. Past values may be left to the disk. Pure.

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
///
/// The newest version of a key is apart from those it superseded: a key that is written all the time has a long past,
/// which no write may copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    keys: OrdMap<Arc<str>, Arc<Version>>,
    past: OrdMap<(Arc<str>, Place), Version>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Version {
    place: Place,
    created: Revision,
    content: Content,
    lease: Option<LeaseId>,
}

/// What a key was set to.
#[derive(Debug, Clone)]
enum Content {
    /// Nothing: it was deleted.
    Gone,
    Value(Bytes),
    /// The value is to be read from disk.
    OnDisk,
}

/// What a range read found in the index.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In order; values on disk are empty here.
    pub(super) kvs: Vec<KeyValue>,
    /// Which of `kvs` have their values on disk, and where.
    pub(super) on_disk: Vec<(usize, Place)>,
    /// How many keys there are in all.
    pub(super) count: usize,
}

impl Version {
    fn key_value(&self, key: &Arc<str>) -> Option<KeyValue> {
        let value = match &self.content {
            Content::Gone => return None,
            Content::Value(value) => value.clone(),
            Content::OnDisk => Bytes::new(),
        };
        Some(KeyValue {
            key: Arc::clone(key),
            value,
            create_revision: self.created,
            mod_revision: self.place.revision,
        })
    }

    fn exists(&self) -> bool {
        !matches!(self.content, Content::Gone)
    }

    fn weight(&self) -> usize {
        if let Content::Value(value) = &self.content { value.len() } else { 0 }
    }
}

impl Index {
    /// Bytes of all values held in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys there are, deleted ones not yet compacted among them.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The latest state of a key.
    pub(super) fn get(&self, key: &str) -> Option<KeyValue> {
        let (key, newest) = self.keys.get_key_value(key)?;
        newest.key_value(key)
    }

    /// The lease of a key that exists.
    pub(super) fn lease(&self, key: &str) -> Option<LeaseId> {
        self.keys.get(key).and_then(|newest| newest.lease)
    }

    /// Keys of a range; an empty `end` is none.
    pub(super) fn range(&self, start: &str, end: &str, limit: usize, revision: Option<Revision>) -> Found {
        let mut found = Found::default();
        let mut take = |key: &Arc<str>, newest: &Version| {
            let Some(version) = self.at(key, newest, revision).filter(|v| v.exists()) else { return };
            found.count += 1;
            if limit == 0 || found.kvs.len() < limit {
                if matches!(version.content, Content::OnDisk) {
                    found.on_disk.push((found.kvs.len(), version.place));
                }
                found.kvs.extend(version.key_value(key));
            }
        };
        // one key needs no iterator
        if end.strip_prefix(start) == Some("\0") {
            if let Some((key, newest)) = self.keys.get_key_value(start) {
                take(key, newest);
            }
            return found;
        }
        if !end.is_empty() && end <= start {
            return found;
        }
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        for (key, newest) in self.keys.range::<_, str>((Bound::Included(start), end)) {
            take(key, newest);
        }
        found
    }

    /// The version of a key at a revision.
    fn at<'v>(
        &'v self,
        key: &Arc<str>,
        newest: &'v Version,
        revision: Option<Revision>,
    ) -> Option<&'v Version> {
        match revision {
            Some(revision) if newest.place.revision > revision => {
                self.past_before(key, Place { revision: Revision(revision.0 + 1), sub: 0 })
            }
            _ => Some(newest),
        }
    }

    /// The last of a key's superseded versions before a place.
    fn past_before(&self, key: &Arc<str>, place: Place) -> Option<&Version> {
        let start = (Arc::clone(key), Place { revision: Revision(0), sub: 0 });
        let end = (Arc::clone(key), place);
        self.past.range(start..end).next_back().map(|(_, version)| version)
    }

    /// A key as the change at a place found it, with the place of its value when that is on disk.
    pub(super) fn before(&self, key: &str, place: Place) -> Option<(KeyValue, Option<Place>)> {
        let (key, _) = self.keys.get_key_value(key)?;
        let version = self.past_before(key, place)?;
        let on_disk = matches!(version.content, Content::OnDisk).then_some(version.place);
        Some((version.key_value(key)?, on_disk))
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
        let key = self.add(key, Version { place, created, content: Content::Value(value.clone()), lease });
        let kv = KeyValue { key, value, create_revision: created, mod_revision: place.revision };
        Event { kv, prev: before, deleted: false }
    }

    /// Removes a key; `None` when there is nothing to remove.
    pub(super) fn delete(&mut self, key: &str, place: Place) -> Option<Event> {
        let before = self.get(key)?;
        let key = Arc::clone(&before.key);
        self.add(&key, Version { place, created: Revision(0), content: Content::Gone, lease: None });
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
        let content = value.clone().map_or(Content::Gone, Content::Value);
        let key = self.add(key, Version { place, created, content, lease });
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
            if let Some(newest) = self.keys.get_mut(&*known) {
                let old = std::mem::replace(newest, Arc::new(version));
                self.past.insert((Arc::clone(&known), old.place), Arc::unwrap_or_clone(old));
            }
            return known;
        }
        self.keys.insert(Arc::clone(key), Arc::new(version));
        Arc::clone(key)
    }

    /// Leaves to the disk the value that the change at `revision` superseded.
    pub(super) fn unload(&mut self, key: &str, revision: Revision) {
        let Some((key, _)) = self.keys.get_key_value(key) else { return };
        let key = Arc::clone(key);
        let Some(version) = self.past_before(&key, Place { revision, sub: 0 }) else { return };
        let (place, bytes) = (version.place, version.weight());
        if bytes > 0
            && let Some(version) = self.past.get_mut(&(key, place))
        {
            version.content = Content::OnDisk;
            self.bytes -= bytes;
        }
    }

    /// Forgets what a change at `revision` superseded, and the change itself if it was a deletion. Answers the places
    /// that are free on disk.
    pub(super) fn forget(&mut self, key: &str, revision: Revision) -> Vec<Place> {
        let Some((key, newest)) = self.keys.get_key_value(key) else { return Vec::new() };
        let (key, newest) = (Arc::clone(key), Arc::clone(newest));
        let at = |revision| (Arc::clone(&key), Place { revision, sub: 0 });
        let reachable = self.past.range(at(Revision(0))..at(Revision(revision.0 + 1)));
        let mut free: Vec<Place> = reachable
            // a deletion is needed only to hide what it deleted
            .filter(|(_, version)| version.place.revision < revision || !version.exists())
            .map(|(_, version)| version.place)
            .collect();
        for place in &free {
            if let Some(version) = self.past.remove(&(Arc::clone(&key), *place)) {
                self.bytes -= version.weight();
            }
        }
        if !newest.exists() && newest.place.revision <= revision {
            free.push(newest.place);
            self.keys.remove(&*key);
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
        let found = index.range("a", "z", 0, Some(Revision(revision)));
        found.kvs.iter().map(|kv| format!("{}={}", kv.key, String::from_utf8_lossy(&kv.value))).collect()
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
    fn superseded_values_can_be_left_to_the_disk() {
        let mut index = Index::default();
        index.put(&"a".into(), "one".into(), None, place(1));
        index.put(&"a".into(), "two".into(), None, place(2));
        index.delete("a", place(3));
        index.unload("a", Revision(2));
        assert_eq!(index.bytes(), 3, "two is still here");
        let found = index.range("a", "z", 0, Some(Revision(1)));
        assert_eq!((found.kvs.len(), &found.on_disk[..]), (1, &[(0, place(1))][..]));
        assert!(index.range("a", "z", 0, Some(Revision(2))).on_disk.is_empty());
        let (before, on_disk) = index.before("a", place(2)).unwrap();
        assert_eq!((before.mod_revision, on_disk), (Revision(1), Some(place(1))));
        assert_eq!(index.before("a", place(3)).map(|(kv, at)| (kv.value, at)), Some(("two".into(), None)));
        assert_eq!(index.before("a", place(1)), None);
        index.unload("a", Revision(3));
        assert_eq!(index.bytes(), 0);
        assert_eq!(index.forget("a", Revision(3)), [place(1), place(2), place(3)]);
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn ranges_count_beyond_their_limit() {
        let mut index = Index::default();
        for (i, key) in ["a/1", "a/2", "a/3", "b/1"].into_iter().enumerate() {
            index.put(&key.into(), Bytes::new(), None, place(i as i64 + 1));
        }
        let cases = [
            ("a/", "a0", 2, (2, 3)),
            ("a/2", "a/2\0", 1, (1, 1)),
            ("b", "a", 0, (0, 0)),
            ("a/3", "", 0, (2, 2)),
        ];
        for (start, end, limit, expected) in cases {
            let found = index.range(start, end, limit, None);
            assert_eq!((found.kvs.len(), found.count), expected, "{start} to {end}");
        }
    }
}
