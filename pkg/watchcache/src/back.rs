//! Extending the ring into the past. A cache that has just started knows the present only, and a ring holds a minute or
//! so; the store keeps everything since its last compaction. So when a client names a revision from before the ring, its
//! changes are read from the store once, for all who come back with old revisions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use storage::{Error as StorageError, Event, KeyValue, Revision, WatchMessage};

use crate::cache::Shared;
use crate::error::Error;
use crate::object::StoredObject;
use crate::pump;
use crate::state::CacheEvent;
use crate::watcher::too_old;

/// Longest time that reading the past may take; the watch is told that its revision is too old then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the ring begin at `revision` or before. [`Error::Expired`] when the store has forgotten it, or when there is
/// more past than the ring has room for.
pub(crate) async fn reach(shared: &Shared, revision: Revision) -> Result<(), Error> {
    let _one = shared.reaching_back.lock().await;
    let floor = shared.state.read().floor();
    if revision >= floor {
        return Ok(());
    }
    match tokio::time::timeout(PATIENCE, extend(shared, revision)).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Err(error)) if !matches!(error, StorageError::Compacted { .. }) => Err(error.into()),
        _ => Err(too_old(revision, floor)),
    }
}

/// `false` when there is no room.
async fn extend(shared: &Shared, revision: Revision) -> Result<bool, StorageError> {
    let generation = shared.state.read().generation;
    let prefix = shared.config.layout.prefix();
    let mut stream = shared.storage.watch_with_prev(prefix, Revision(revision.0 + 1)).await?;
    let mut read = Past { shared, known: HashMap::new(), events: Vec::new(), bytes: 0, now: Instant::now() };
    while let Some(message) = stream.next().await {
        let reached = match message? {
            WatchMessage::Progress(reached) => reached,
            WatchMessage::Events(events) => {
                let reached = events.last().map_or(revision, |event| event.kv.mod_revision);
                for event in events {
                    read.take(event);
                }
                reached
            }
        };
        let mut state = shared.state.write();
        let (room, room_bytes) = state.room();
        if state.generation != generation || read.events.len() > room || read.bytes > room_bytes {
            return Ok(false);
        }
        // the ring may have let go of more meanwhile; then there is more to read
        let floor = state.floor();
        if reached >= floor {
            read.events.retain(|event| event.revision() <= floor);
            return Ok(state.extend_back(read.events, revision));
        }
    }
    Err(StorageError::Closed)
}

/// Changes read from the store.
struct Past<'s> {
    shared: &'s Shared,
    /// Objects by key as they are after the changes so far, decoded once.
    known: HashMap<Arc<str>, Arc<StoredObject>>,
    events: Vec<Arc<CacheEvent>>,
    bytes: usize,
    now: Instant,
}

impl Past<'_> {
    fn take(&mut self, event: Event) {
        let Event { kv, prev, deleted } = event;
        let prev = prev.and_then(|prev| self.object(&prev));
        let revision = kv.mod_revision;
        self.known.remove(&kv.key);
        // what cannot be decoded is not there, as in the cache itself
        let after = if deleted { None } else { self.object(&kv) };
        let (object, deleted) = match (after, &prev) {
            (Some(object), _) => (object, false),
            (None, Some(prev)) => (Arc::new(prev.at_revision(revision)), true),
            (None, None) => return,
        };
        if !deleted {
            self.known.insert(kv.key, Arc::clone(&object));
        }
        let event = CacheEvent::new(revision, object, prev, deleted, self.now);
        self.bytes += event.weight();
        self.events.push(Arc::new(event));
    }

    /// The object of a value, the one decoded before if it is the same.
    fn object(&self, kv: &KeyValue) -> Option<Arc<StoredObject>> {
        match self.known.get(&kv.key) {
            Some(known) if known.revision() == kv.mod_revision => Some(Arc::clone(known)),
            _ => pump::decode(self.shared, kv).ok().map(Arc::new),
        }
    }
}
