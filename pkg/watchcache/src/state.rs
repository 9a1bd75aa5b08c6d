//! The cache's state and how changes move it: no I/O, no clock of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::Revision;

use crate::kept::Slots;
use crate::object::StoredObject;
use crate::objects::Objects;

/// What a watcher is told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The object appeared, or began to match.
    Added,
    /// The object changed.
    Modified,
    /// The object went, or ceased to match.
    Deleted,
}

impl EventKind {
    /// `type` of a watch event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object, shared by all watchers.
#[derive(Debug)]
pub struct CacheEvent {
    revision: Revision,
    /// The object after the change; after a delete, what it was, at the delete's revision.
    object: Arc<StoredObject>,
    prev: Option<Arc<StoredObject>>,
    deleted: bool,
    /// The object before the change at the revision of the change: what a watcher sees whose filter it left.
    left: OnceLock<Arc<StoredObject>>,
    frames: Slots,
    seen: Instant,
}

impl CacheEvent {
    pub(crate) fn new(
        revision: Revision,
        object: Arc<StoredObject>,
        prev: Option<Arc<StoredObject>>,
        deleted: bool,
        seen: Instant,
    ) -> Self {
        Self { revision, object, prev, deleted, left: OnceLock::new(), frames: Slots::default(), seen }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When the cache learnt of it.
    pub fn seen(&self) -> Instant {
        self.seen
    }

    pub(crate) fn object(&self) -> &Arc<StoredObject> {
        &self.object
    }

    pub(crate) fn prev(&self) -> Option<&Arc<StoredObject>> {
        self.prev.as_ref()
    }

    /// What a watcher with this filter sees of it, `None` when it is nothing.
    pub(crate) fn seen_through(
        &self,
        matches: impl Fn(&StoredObject) -> bool,
    ) -> Option<(EventKind, &Arc<StoredObject>)> {
        let before = self.prev.as_ref().is_some_and(|prev| matches(prev));
        let after = !self.deleted && matches(&self.object);
        match (before, after) {
            (false, true) => Some((EventKind::Added, &self.object)),
            (true, true) => Some((EventKind::Modified, &self.object)),
            (true, false) if self.deleted => Some((EventKind::Deleted, &self.object)),
            (true, false) => {
                let prev = self.prev.as_ref()?;
                let left = self.left.get_or_init(|| Arc::new(prev.at_revision(self.revision)));
                Some((EventKind::Deleted, left))
            }
            (false, false) => None,
        }
    }

    /// The event as written to watchers, made once for all of them while it is recent. `representation` distinguishes
    /// forms (its numbers are the user's, below 2^28).
    pub fn frame<E>(
        &self,
        kind: EventKind,
        representation: u32,
        encode: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let id = representation << 2 | kind as u32;
        if let Some(frame) = self.frames.get(id) {
            return Ok(frame);
        }
        let frame = encode()?;
        self.frames.put(id, &frame);
        Ok(frame)
    }

    /// Bytes it keeps from being freed.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 400;
        OVERHEAD + self.object.json_len()
    }
}

/// How much of the recent past is held. The numbers of events are upstream's defaults. The age is less than its 75 s: who
/// comes back with an older revision is served from the store ([`back`](crate::back)), and what was deleted is let go.
#[derive(Debug, Clone, Copy)]
pub struct RingLimits {
    /// At most this many events.
    pub max_events: usize,
    /// At most this many bytes of objects.
    pub max_bytes: usize,
    /// Events older than this are dropped, except the latest `min_events` up to `min_bytes`.
    pub max_age: Duration,
    /// See `max_age`.
    pub min_events: usize,
    /// See `max_age`.
    pub min_bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self {
            max_events: 102_400,
            max_bytes: 64 * 1024 * 1024,
            max_age: Duration::from_secs(30),
            min_events: 100,
            min_bytes: 64 * 1024,
        }
    }
}

/// Encoded frames are kept for this many of the latest events.
const FRAMES_KEPT: usize = 128;
/// At most this many recently used old snapshots are held.
const MAX_PINNED: usize = 8;
/// An old snapshot not used for this long is let go; who goes on with its pages later has them read from the store.
const PIN_TIME: Duration = Duration::from_secs(20);

/// A change, decoded.
#[derive(Debug)]
pub(crate) enum Update {
    Put(Arc<StoredObject>),
    /// A value that cannot be decoded took the key's place.
    Broken {
        key: Arc<str>,
        revision: Revision,
        message: String,
    },
    Delete {
        key: Arc<str>,
        revision: Revision,
    },
}

/// What the cache knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) objects: Objects,
    /// Keys whose values cannot be decoded, with the reasons.
    pub(crate) broken: BTreeMap<Arc<str>, String>,
    /// Everything up to here is in `objects`.
    pub(crate) revision: Revision,
    ring: VecDeque<Arc<CacheEvent>>,
    ring_bytes: usize,
    /// Events up to and including this revision are not in the ring.
    floor: Revision,
    /// Counts fresh starts; 0 is before the first. Watchers of an earlier one may have missed something.
    pub(crate) generation: u64,
    pinned: VecDeque<Pinned>,
    limits: RingLimits,
    /// Bytes of the objects' JSON.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Pinned {
    revision: Revision,
    objects: Objects,
    used: Instant,
}

impl State {
    pub(crate) fn new(limits: RingLimits) -> Self {
        Self {
            objects: Objects::default(),
            broken: BTreeMap::new(),
            revision: Revision(0),
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor: Revision(0),
            generation: 0,
            pinned: VecDeque::new(),
            limits,
            bytes: 0,
        }
    }

    /// Revision of the latest change, or of the list when nothing has changed since.
    pub(crate) fn last_change(&self) -> Revision {
        self.ring.back().map_or(self.floor, |event| event.revision)
    }

    /// Starts afresh from a list.
    pub(crate) fn install(
        &mut self,
        objects: Objects,
        broken: BTreeMap<Arc<str>, String>,
        revision: Revision,
    ) {
        self.bytes = objects.values().map(|o| o.json_without_version().len()).sum();
        self.objects = objects;
        self.broken = broken;
        self.revision = revision;
        self.floor = revision;
        self.ring.clear();
        self.ring_bytes = 0;
        self.pinned.clear();
        self.generation += 1;
    }

    /// Takes in one change, at a revision after (or, within one transaction, at) the last.
    pub(crate) fn apply(&mut self, update: Update, now: Instant) -> Option<Arc<CacheEvent>> {
        let (revision, object, prev, deleted) = match update {
            Update::Put(object) => {
                self.broken.remove(object.key());
                let prev = self.objects.insert(Arc::clone(&object));
                self.bytes += object.json_without_version().len();
                (object.revision(), object, prev, false)
            }
            Update::Broken { key, revision, message } => {
                // to watchers it is gone: there is nothing to show
                let prev = self.objects.remove(&key);
                self.broken.insert(key, message);
                self.revision = self.revision.max(revision);
                let prev = prev?;
                (revision, Arc::new(prev.at_revision(revision)), Some(prev), true)
            }
            Update::Delete { key, revision } => {
                self.broken.remove(&key);
                self.revision = self.revision.max(revision);
                let prev = self.objects.remove(&key)?;
                (revision, Arc::new(prev.at_revision(revision)), Some(prev), true)
            }
        };
        if let Some(prev) = &prev {
            self.bytes -= prev.json_without_version().len();
        }
        self.revision = self.revision.max(revision);
        let event = Arc::new(CacheEvent::new(revision, object, prev, deleted, now));
        self.ring_bytes += event.weight();
        self.ring.push_back(Arc::clone(&event));
        if let Some(older) = self.ring.len().checked_sub(FRAMES_KEPT + 1).and_then(|i| self.ring.get(i)) {
            older.frames.clear();
        }
        self.trim(now);
        Some(event)
    }

    /// Extends the ring into the past: `events` are all changes after `floor` up to the ring's own, in order. `false`
    /// when the ring has no room for them.
    pub(crate) fn extend_back(&mut self, events: Vec<Arc<CacheEvent>>, floor: Revision) -> bool {
        let weight: usize = events.iter().map(|event| event.weight()).sum();
        if self.ring.len() + events.len() > self.limits.max_events
            || self.ring_bytes + weight > self.limits.max_bytes
        {
            return false;
        }
        for event in events.into_iter().rev() {
            self.ring.push_front(event);
        }
        self.ring_bytes += weight;
        self.floor = floor;
        true
    }

    /// Room for more events: their number and bytes.
    pub(crate) fn room(&self) -> (usize, usize) {
        let limits = self.limits;
        (limits.max_events.saturating_sub(self.ring.len()), limits.max_bytes.saturating_sub(self.ring_bytes))
    }

    /// Learns that nothing happened up to a revision.
    pub(crate) fn progress(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Drops what is beyond the ring's limits, and snapshots nobody uses.
    pub(crate) fn trim(&mut self, now: Instant) {
        let limits = self.limits;
        while let Some(oldest) = self.ring.front() {
            let too_many = self.ring.len() > limits.max_events || self.ring_bytes > limits.max_bytes;
            let too_old = (self.ring.len() > limits.min_events || self.ring_bytes > limits.min_bytes)
                && now.saturating_duration_since(oldest.seen) > limits.max_age;
            // the latest event stays though it alone is too large, until it is old: watchers must be able to read it
            if !(too_old || too_many && self.ring.len() > 1) {
                break;
            }
            self.floor = oldest.revision;
            self.ring_bytes -= oldest.weight();
            self.ring.pop_front();
        }
        // events of one revision go together
        while self.ring.len() > 1 && self.ring.front().is_some_and(|e| e.revision <= self.floor) {
            if let Some(event) = self.ring.pop_front() {
                self.ring_bytes -= event.weight();
            }
        }
        if self.ring.capacity() > 256 && self.ring.len() * 4 < self.ring.capacity() {
            self.ring.shrink_to(self.ring.len() * 2);
        }
        self.pinned.retain(|p| now.saturating_duration_since(p.used) < PIN_TIME);
    }

    /// Forgets frames of all events: for quiet times.
    pub(crate) fn drop_frames(&self) {
        for event in self.ring.iter().rev().take(FRAMES_KEPT + 1) {
            event.frames.clear();
        }
    }

    /// The objects that only events hold on to.
    pub(crate) fn past_objects(&self) -> Vec<Arc<StoredObject>> {
        let of_event =
            |e: &Arc<CacheEvent>| [Some(Arc::clone(&e.object)), e.prev.clone(), e.left.get().cloned()];
        self.ring.iter().flat_map(of_event).flatten().collect()
    }

    /// Events after a revision, oldest first, at most `max`. `None` when the ring does not reach back that far.
    pub(crate) fn after(&self, revision: Revision, max: usize) -> Option<Vec<Arc<CacheEvent>>> {
        if revision < self.floor {
            return None;
        }
        let from = self.first_after(revision);
        let mut to = (from + max).min(self.ring.len());
        // never split a revision: the position could not say where
        while to > from && to < self.ring.len() && self.ring[to].revision == self.ring[to - 1].revision {
            to += 1;
        }
        Some(self.ring.range(from..to).cloned().collect())
    }

    /// Where in the ring the events after a revision begin. Most who ask have read nearly all of it.
    fn first_after(&self, revision: Revision) -> usize {
        const NEAR: usize = 8;
        let near = self.ring.len().saturating_sub(NEAR);
        if self.ring.get(near).is_some_and(|e| e.revision > revision) {
            return self.ring.partition_point(|e| e.revision <= revision);
        }
        let unread = self.ring.range(near..).rev().take_while(|e| e.revision > revision).count();
        self.ring.len() - unread
    }

    /// The oldest revision watches can start after.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn ring_len(&self) -> usize {
        self.ring.len()
    }

    pub(crate) fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    /// The objects as they were at a revision, if that is still known.
    pub(crate) fn at(&mut self, revision: Revision, now: Instant) -> Option<Objects> {
        if revision > self.revision {
            return None;
        }
        if let Some(pinned) = self.pinned.iter_mut().find(|p| p.revision == revision) {
            pinned.used = now;
            return Some(pinned.objects.clone());
        }
        if revision < self.floor {
            return None;
        }
        let mut objects = self.objects.clone();
        for event in self.ring.iter().rev().take_while(|e| e.revision > revision) {
            let key = event.object.key();
            match &event.prev {
                Some(prev) => objects.insert(Arc::clone(prev)),
                None => objects.remove(key),
            };
        }
        Some(objects)
    }

    /// Holds on to a snapshot that a client has been given a token for.
    pub(crate) fn pin(&mut self, revision: Revision, objects: &Objects, now: Instant) {
        if self.pinned.iter().any(|p| p.revision == revision) {
            return;
        }
        if self.pinned.len() >= MAX_PINNED {
            let oldest = self.pinned.iter().enumerate().min_by_key(|(_, p)| p.used).map(|(i, _)| i);
            if let Some(i) = oldest {
                self.pinned.remove(i);
            }
        }
        self.pinned.push_back(Pinned { revision, objects: objects.clone(), used: now });
    }
}

#[cfg(test)]
mod tests {
    use storage::KeyValue;
    use storage::objects::KeyLayout;

    use super::*;
    use crate::kept::Budget;
    use crate::object::JsonCodec;

    fn state_with(events: i64, bytes: usize, at: Instant) -> State {
        let limits = RingLimits {
            max_age: Duration::from_secs(10),
            min_events: 3,
            min_bytes: 3000,
            ..RingLimits::default()
        };
        let mut state = State::new(limits);
        let (layout, budget) = (KeyLayout::new("/registry", "things", true), Arc::new(Budget::new(0)));
        for i in 1..=events {
            let kv = KeyValue {
                key: format!("/registry/things/a/{i}").into(),
                value: format!(r#"{{"metadata":{{"name":"{i}"}},"x":"{}"}}"#, "x".repeat(bytes)).into(),
                create_revision: Revision(i),
                mod_revision: Revision(i),
            };
            let object =
                StoredObject::decode(&JsonCodec::default(), &layout, &kv, None, &budget).expect("an object");
            state.apply(Update::Put(Arc::new(object)), at);
        }
        state
    }

    #[test]
    fn old_events_go_but_for_a_few_small_ones() {
        let now = Instant::now();
        let cases = [(10, 5, 20), (10, 11, 3), (2000, 5, 20), (2000, 11, 1), (4000, 5, 20), (4000, 11, 0)];
        for (bytes, age, left) in cases {
            let mut state = state_with(20, bytes, now);
            state.trim(now + Duration::from_secs(age));
            assert_eq!(state.ring_len(), left, "{bytes} bytes, {age} s");
            assert_eq!(state.floor(), Revision(20 - left as i64));
        }
    }

    #[test]
    fn events_are_found_from_any_revision_on() {
        let state = state_with(20, 10, Instant::now());
        for revision in 0..=21 {
            let found = state.after(Revision(revision), 100).expect("nothing is gone");
            let expected: Vec<_> = (revision + 1..=20).map(Revision).collect();
            assert_eq!(found.iter().map(|e| e.revision()).collect::<Vec<_>>(), expected);
        }
    }
}
