//! One watch of etcd for everything: it feeds the hub that all watches of this server read.
//!
//! It sees every revision under the prefix in order, so whoever waits for a revision waits for the hub and needs no
//! progress request per watch. Etcd before 3.4.31 and 3.5.13 answers progress requests too early; there the watch
//! covers all keys, and every revision shows itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd::messages::{WatchCreateRequest, WatchResponse};
use storage::hub::Change;
use storage::{Error, Event, Revision, prefix_end};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::convert;
use crate::engine::Inner;

/// Wait before the watch is opened again after a failure, doubled up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A quiet watch is asked for progress this often, which also finds a dead connection.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Changes that all watches have read are let go after this time, or twice as long.
const TIDY_INTERVAL: Duration = Duration::from_secs(15);

/// What is asked of the feed.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    progress: Notify,
    /// Etcd is too old to be asked for progress.
    pub(crate) unreliable: AtomicBool,
}

impl Wishes {
    pub(crate) fn ask_for_progress(&self) {
        self.progress.notify_one();
    }
}

/// Keeps the hub fed until stopped.
pub(crate) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    tokio::select! {
        () = feed(&inner) => {}
        () = stop.cancelled() => {}
    }
    inner.hub.end(Error::Closed);
}

async fn feed(inner: &Inner) {
    let mut backoff = MIN_BACKOFF;
    loop {
        let before = inner.hub.revision();
        match session(inner).await {
            Error::Compacted { .. } => begin_afresh(inner).await,
            error => tracing::warn!(%error, "the watch of etcd broke off"),
        }
        if inner.hub.revision() > before {
            backoff = MIN_BACKOFF;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Changes were missed: the hub goes on from now, and its watches end.
async fn begin_afresh(inner: &Inner) {
    match inner.current_revision().await {
        Ok(revision) => {
            tracing::warn!(%revision, "changes were compacted before they were seen; all watches begin anew");
            inner.hub.restart(revision);
        }
        Err(error) => tracing::warn!(%error, "cannot ask etcd for its revision"),
    }
}

/// One connection's worth; answers why it ended.
async fn session(inner: &Inner) -> Error {
    match open_and_follow(inner).await {
        Ok(()) => Error::Unavailable("etcd ended the watch".into()),
        Err(error) => error,
    }
}

async fn open_and_follow(inner: &Inner) -> Result<(), Error> {
    inner.learn_version().await?;
    let unreliable = inner.wishes.unreliable.load(Ordering::Acquire);
    let current = inner.current_revision().await?;
    if current < inner.hub.revision() {
        // restored from a backup: what the hub knows has not happened
        return Err(Error::Compacted { compacted: current });
    }
    let start = Revision(inner.hub.revision().0 + 1);
    // what was there before is known to who follows
    let mut watch = open(inner, start, unreliable, false).await?;
    let mut tidy = tokio::time::interval(TIDY_INTERVAL);
    loop {
        let response = tokio::select! {
            response = watch.message() => response,
            () = inner.wishes.progress.notified(), if !unreliable => {
                watch.request_progress().map_err(|e| inner.error(&e, start))?;
                continue;
            }
            _ = tidy.tick() => {
                if let Some(to) = inner.hub.outlived() {
                    drop(inner.hub.trim(to));
                }
                continue;
            }
            () = tokio::time::sleep(ASK_INTERVAL) => {
                // a dead connection shows itself by the keep-alive; progress frees waiting readers
                if !unreliable {
                    watch.request_progress().map_err(|e| inner.error(&e, start))?;
                }
                continue;
            }
        };
        let Some(response) = response.map_err(|e| inner.error(&e, start))? else { return Ok(()) };
        match Seen::of(response, unreliable)? {
            Seen::Events(changes, revision) => publish(inner, changes, revision),
            Seen::Progress(revision) => publish(inner, Vec::new(), revision),
            Seen::Nothing => {}
        }
    }
}

/// Opens a watch with what the feed covers, with what was there before each change or without.
pub(crate) async fn open(
    inner: &Inner,
    start: Revision,
    all: bool,
    with_prev: bool,
) -> Result<etcd::Watch, Error> {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let (key, range_end) =
        if all { (text("\0"), text("\0")) } else { (text(&inner.root), text(&prefix_end(&inner.root))) };
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision: start.0,
        progress_notify: true,
        prev_kv: with_prev,
    };
    inner.in_time(start, inner.client.watch(create)).await
}

fn publish(inner: &Inner, changes: Vec<Change>, revision: Revision) {
    let under_root = |event: &Event| event.kv.key.starts_with(inner.root.as_str());
    let changes = changes
        .into_iter()
        .filter_map(|mut change| {
            change.events.retain(under_root);
            (!change.events.is_empty()).then(|| Arc::new(change))
        })
        .collect();
    inner.hub.publish(changes, revision);
    if let Some(to) = inner.hub.overweight(inner.config.history_bytes, inner.config.max_history_bytes) {
        drop(inner.hub.trim(to));
    }
}

/// What a message of etcd says.
pub(crate) enum Seen {
    Events(Vec<Change>, Revision),
    Progress(Revision),
    Nothing,
}

impl Seen {
    pub(crate) fn of(response: WatchResponse, unreliable: bool) -> Result<Self, Error> {
        if response.canceled {
            let compacted = Revision(response.compact_revision);
            return Err(if compacted > Revision(0) {
                Error::Compacted { compacted }
            } else {
                Error::Unavailable(format!("etcd ended the watch: {}", response.cancel_reason))
            });
        }
        if response.created {
            return Ok(Self::Nothing);
        }
        if response.events.is_empty() {
            // -1 is the answer to a request, other numbers are etcd's own notices, which were always right
            if unreliable && response.watch_id < 0 {
                return Ok(Self::Nothing);
            }
            return Ok(response.header.map_or(Self::Nothing, |h| Self::Progress(Revision(h.revision))));
        }
        // the revision in the header may be ahead of the events: those of a revision come in one message, the rest later
        let mut changes: Vec<Change> = Vec::new();
        let many = response.events.len() > 1;
        for event in response.events {
            let Some(kv) = &event.kv else { continue };
            let revision = Revision(kv.mod_revision);
            // of other users' keys nothing is wanted but their revision; they need not be text
            let converted = convert::event(event, many);
            match changes.last_mut() {
                Some(change) if change.revision == revision => change.events.extend(converted.ok()),
                _ => changes.push(Change { revision, events: converted.ok().into_iter().collect() }),
            }
        }
        let last = changes.last().map_or(Revision(0), |c| c.revision);
        Ok(Self::Events(changes, last))
    }
}
