//! What keeps a cache following the store: list, watch, begin again when the watch cannot go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use storage::{Error as StorageError, Event, KeyValue, RangeRequest, Revision, WatchMessage};

use crate::cache::Shared;
use crate::error::Error;
use crate::object::StoredObject;
use crate::objects::Objects;
use crate::state::Update;

/// Wait before the next try after a failure, doubled up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Old changes and unused encodings are let go this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Encodings unused for two of every so many sweeps are let go.
const SWEEPS_PER_REPRESENTATIONS: u32 = 2;
/// Objects decoded before other tasks get their turn.
const DECODE_CHUNK: usize = 128;

/// Follows the store until stopped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    tokio::select! {
        () = follow(&shared) => {}
        () = stop.cancelled() => {}
    }
    shared.mark_stopped();
}

async fn follow(shared: &Shared) {
    let resource = shared.config.resource.as_str();
    let mut backoff = MIN_BACKOFF;
    loop {
        match list_at(shared, None).await {
            Ok((objects, broken, revision)) => {
                backoff = MIN_BACKOFF;
                install(shared, objects, broken, revision);
                let end = watch(shared).await;
                tracing::warn!(resource, "starting afresh, ending all watches: {end}");
            }
            Err(error) => {
                tracing::warn!(resource, %error, "cannot list");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

fn install(shared: &Shared, objects: Objects, broken: BTreeMap<Arc<str>, String>, revision: Revision) {
    for (key, message) in &broken {
        tracing::error!(resource = shared.config.resource, %key, message, "stored value cannot be decoded");
    }
    // before anyone begins to watch what may be older than this
    shared.rung.store(0, Ordering::Release);
    let bytes = {
        let mut state = shared.state.write();
        state.install(objects, broken, revision);
        state.bytes
    };
    allow_representations(shared, bytes);
    shared.wakers.lock().ring_all();
    shared.publish_reached();
}

/// Watches from where the state is, over interruptions, until changes may have been missed; answers why.
async fn watch(shared: &Shared) -> String {
    let prefix = shared.config.layout.prefix();
    let resource = shared.config.resource.as_str();
    let mut backoff = MIN_BACKOFF;
    // nothing has had time to grow old
    let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
    let mut sweeps = 0_u32;
    loop {
        let start = Revision(shared.state.read().revision.0 + 1);
        let mut stream = match shared.storage.watch(prefix, start).await {
            Ok(stream) => stream,
            Err(error @ StorageError::Compacted { .. }) => return error.to_string(),
            Err(error) => {
                tracing::warn!(resource, %error, "cannot watch");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
                continue;
            }
        };
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(Ok(WatchMessage::Events(events))) => {
                        backoff = MIN_BACKOFF;
                        apply(shared, events);
                    }
                    Some(Ok(WatchMessage::Progress(revision))) => shared.progress(revision),
                    Some(Err(error @ StorageError::Compacted { .. })) => return error.to_string(),
                    Some(Err(error)) => {
                        tracing::warn!(resource, %error, "watch broke off");
                        break;
                    }
                    None => break,
                },
                () = shared.relist.notified() => return "the store's revision went back".into(),
                _ = sweep.tick() => {
                    sweeps = sweeps.wrapping_add(1);
                    tidy(shared, sweeps);
                }
            }
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

fn apply(shared: &Shared, events: Vec<Event>) {
    let now = Instant::now();
    shared.counts.events.add(events.len());
    let updates: Vec<Update> = events.into_iter().map(|event| update(shared, event)).collect();
    let (applied, bytes) = {
        let mut state = shared.state.write();
        let applied: Vec<_> = updates.into_iter().filter_map(|update| state.apply(update, now)).collect();
        (applied, state.bytes)
    };
    allow_representations(shared, bytes);
    shared.wakers.lock().ring(&applied);
    if let Some(last) = applied.last() {
        shared.rung.store(last.revision().0, Ordering::Release);
    }
    shared.publish_reached();
}

/// Encodings may take what is configured, or as much as the JSON if that is more: that holds an object's protobuf message
/// beside what it is in compressed lists and in Tables.
fn allow_representations(shared: &Shared, json_bytes: usize) {
    shared.budget.set_limit(shared.config.representation_bytes.max(json_bytes));
}

fn update(shared: &Shared, event: Event) -> Update {
    let Event { kv, deleted, .. } = event;
    if deleted {
        return Update::Delete { key: kv.key, revision: kv.mod_revision };
    }
    match decode(shared, &kv) {
        Ok(object) => Update::Put(Arc::new(object)),
        Err(message) => {
            tracing::error!(resource = shared.config.resource, key = %kv.key, message, "stored value cannot be decoded");
            Update::Broken { key: kv.key, revision: kv.mod_revision, message }
        }
    }
}

pub(crate) fn decode(shared: &Shared, kv: &KeyValue) -> Result<StoredObject, String> {
    let config = &shared.config;
    let decoded = shared.announced.take(&kv.key, &kv.value);
    StoredObject::decode(&*config.codec, &config.layout, kv, decoded, &shared.budget).map_err(|e| {
        shared.counts.undecodable.add(1);
        e.to_string()
    })
}

fn tidy(shared: &Shared, sweeps: u32) {
    let mut state = shared.state.write();
    let before = state.ring_len();
    state.trim(Instant::now());
    if before == state.ring_len() {
        state.drop_frames();
        // of writes that failed
        shared.announced.clear();
    }
    if !sweeps.is_multiple_of(SWEEPS_PER_REPRESENTATIONS) || shared.budget.used() == 0 {
        return;
    }
    let (objects, past) = (state.objects.clone(), state.past_objects());
    drop(state);
    for object in objects.values().chain(&past) {
        object.sweep();
    }
}

type Listed = (Objects, BTreeMap<Arc<str>, String>, Revision);

/// All objects as the store has them, latest or at a revision.
pub(crate) async fn list_at(shared: &Shared, revision: Option<Revision>) -> Result<Listed, Error> {
    let prefix = shared.config.layout.prefix();
    let request =
        RangeRequest { start: prefix.to_owned(), end: storage::prefix_end(prefix), limit: 0, revision };
    let response = shared.storage.range(request).await?;
    let mut objects = Vec::with_capacity(response.kvs.len());
    let mut broken = BTreeMap::new();
    for (i, kv) in response.kvs.into_iter().enumerate() {
        match decode(shared, &kv) {
            Ok(object) => objects.push(Arc::new(object)),
            Err(message) => {
                broken.insert(kv.key, message);
            }
        }
        if i % DECODE_CHUNK == DECODE_CHUNK - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok((Objects::new(objects, shared.config.indexed_field), broken, response.revision))
}
