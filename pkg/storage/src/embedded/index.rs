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
    keys: OrdMap<Arc<str>, Arc<Newest>>,
    /// There is one for each change since the last compaction, so they are small.
    past: OrdMap<(Arc<str>, Place), Superseded>,
    bytes: usize,
}

/// The newest version of a key.
#[derive(Debug)]
struct Newest {
    place: Place,
    created: Revision,
    /// `None` when it was deleted.
    value: Option<Bytes>,
    lease: Option<LeaseId>,
}

/// A version that another one followed.
#[derive(Debug, Clone)]
struct Superseded {
    created: Revision,
    content: Content,
}

/// What a key was set to.
#[derive(Debug, Clone)]
enum Content {
    /// Nothing: it was deleted.
    Gone,
    /// On the heap, as few are in memory.
    Value(Box<Bytes>),
    /// The value is to be read from disk.
    OnDisk,
}

/// A version, wherever it is.
struct Version<'v> {
    place: Place,
    created: Revision,
    /// `None` when it is on disk.
    value: Option<&'v Bytes>,
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

impl Newest {
    /// `None` when it was deleted.
    fn version(&self) -> Option<Version<'_>> {
        let value = Some(self.value.as_ref()?);
        Some(Version { place: self.place, created: self.created, value })
    }

    fn weight(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl Superseded {
    /// `None` when it was a deletion.
    fn version(&self, place: Place) -> Option<Version<'_>> {
        let value = match &self.content {
            Content::Gone => return None,
            Content::Value(value) => Some(&**value),
            Content::OnDisk => None,
        };
        Some(Version { place, created: self.created, value })
    }

    fn weight(&self) -> usize {
        if let Content::Value(value) = &self.content { value.len() } else { 0 }
    }
}

impl Version<'_> {
    /// A value on disk is empty here.
    fn key_value(&self, key: &Arc<str>) -> KeyValue {
        KeyValue {
            key: Arc::clone(key),
            value: self.value.cloned().unwrap_or_default(),
            create_revision: self.created,
            mod_revision: self.place.revision,
        }
    }

    fn on_disk(&self) -> Option<Place> {
        self.value.is_none().then_some(self.place)
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
        Some(newest.version()?.key_value(key))
    }

    /// The lease of a key that exists.
    pub(super) fn lease(&self, key: &str) -> Option<LeaseId> {
        self.keys.get(key).and_then(|newest| newest.lease)
    }

    /// Keys of a range; an empty `end` is none.
    pub(super) fn range(&self, start: &str, end: &str, limit: usize, revision: Option<Revision>) -> Found {
        let mut found = Found::default();
        let mut take = |key: &Arc<str>, newest: &Newest| {
            let Some(version) = self.at(key, newest, revision) else { return };
            found.count += 1;
            if limit == 0 || found.kvs.len() < limit {
                found.on_disk.extend(version.on_disk().map(|place| (found.kvs.len(), place)));
                found.kvs.push(version.key_value(key));
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

    /// The version of a key at a revision; `None` when it did not exist.
    fn at<'v>(
        &'v self,
        key: &Arc<str>,
        newest: &'v Newest,
        revision: Option<Revision>,
    ) -> Option<Version<'v>> {
        match revision {
            Some(revision) if newest.place.revision > revision => {
                let after = Place { revision: Revision(revision.0 + 1), sub: 0 };
                let (place, version) = self.past_before(key, after)?;
                version.version(place)
            }
            _ => newest.version(),
        }
    }

    /// The last of a key's superseded versions before a place.
    fn past_before(&self, key: &Arc<str>, place: Place) -> Option<(Place, &Superseded)> {
        let start = (Arc::clone(key), Place { revision: Revision(0), sub: 0 });
        let end = (Arc::clone(key), place);
        self.past.range(start..end).next_back().map(|((_, place), version)| (*place, version))
    }

    /// A key as the change at a place found it, with the place of its value when that is on disk.
    pub(super) fn before(&self, key: &str, place: Place) -> Option<(KeyValue, Option<Place>)> {
        let (key, _) = self.keys.get_key_value(key)?;
        let (place, superseded) = self.past_before(key, place)?;
        let version = superseded.version(place)?;
        Some((version.key_value(key), version.on_disk()))
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
        let key = self.add(key, Newest { place, created, value: Some(value.clone()), lease });
        let kv = KeyValue { key, value, create_revision: created, mod_revision: place.revision };
        Event { kv, prev: before, deleted: false }
    }

    /// Removes a key; `None` when there is nothing to remove.
    pub(super) fn delete(&mut self, key: &str, place: Place) -> Option<Event> {
        let before = self.get(key)?;
        let key = Arc::clone(&before.key);
        self.add(&key, Newest { place, created: Revision(0), value: None, lease: None });
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
        let key = self.add(key, Newest { place, created, value: value.clone(), lease });
        let kv = KeyValue {
            key,
            value: value.unwrap_or_default(),
            create_revision: created,
            mod_revision: place.revision,
        };
        Event { kv, prev, deleted }
    }

    fn add(&mut self, key: &Arc<str>, version: Newest) -> Arc<str> {
        self.bytes += version.weight();
        if let Some((known, _)) = self.keys.get_key_value(&**key) {
            // one copy of the key's text, however often it is written
            let known = Arc::clone(known);
            if let Some(newest) = self.keys.get_mut(&*known) {
                let old = std::mem::replace(newest, Arc::new(version));
                let content =
                    old.value.clone().map_or(Content::Gone, |value| Content::Value(Box::new(value)));
                let superseded = Superseded { created: old.created, content };
                self.past.insert((Arc::clone(&known), old.place), superseded);
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
        let Some((place, version)) = self.past_before(&key, Place { revision, sub: 0 }) else { return };
        let bytes = version.weight();
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
            .filter(|((_, place), version)| {
                place.revision < revision || matches!(version.content, Content::Gone)
            })
            .map(|((_, place), _)| *place)
            .collect();
        for place in &free {
            if let Some(version) = self.past.remove(&(Arc::clone(&key), *place)) {
                self.bytes -= version.weight();
            }
        }
        if newest.value.is_none() && newest.place.revision <= revision {
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
