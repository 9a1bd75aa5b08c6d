//! One log of changes, many watches.
//!
//! Both engines keep the changes of the recent past here. A watch is a position in the log: it is woken when a change
//! under its prefix is published, and reads on from where it was. So there are no queues per watch to bound or to
//! fill; the log itself is bounded, and a watch that falls behind its floor ends with [`Error::Compacted`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::{Error, Event, Freshness, Revision, WatchMessage, WatchStream};

/// Idle watches send [`WatchMessage::Progress`] this often.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// At most about this many events in one message (one revision is never split).
pub const MAX_EVENTS_PER_MESSAGE: usize = 1000;
/// At most this many revisions are looked through under one lock.
const MAX_SCAN: usize = 4096;

/// All changes of one revision.
#[derive(Debug)]
pub struct Change {
    /// The revision.
    pub revision: Revision,
    /// What changed, in the order of the transaction.
    pub events: Vec<Event>,
}

impl Change {
    /// Bytes that this change holds on to: the values that were superseded, and keys.
    pub fn weight(&self) -> usize {
        const EVENT_OVERHEAD: usize = 200;
        self.events
            .iter()
            .map(|e| EVENT_OVERHEAD + e.kv.key.len() + e.prev.as_ref().map_or(0, |p| p.value.len()))
            .sum()
    }
}

/// The log and its watches.
#[derive(Debug)]
pub struct Hub {
    shared: Arc<RwLock<Log>>,
    /// The revision published last, to wait for.
    reached: tokio::sync::watch::Sender<Revision>,
}

#[derive(Debug)]
struct Log {
    changes: VecDeque<Arc<Change>>,
    weight: usize,
    /// Changes up to and including this revision are gone.
    floor: Revision,
    revision: Revision,
    ended: Option<Error>,
    /// With their prefixes, so that others need not be looked at.
    watches: Vec<(Arc<str>, Weak<Watch>)>,
    /// Where the log was when [`Hub::outlived`] was last asked.
    mark: Revision,
}

impl Log {
    fn open_watches(&self) -> impl Iterator<Item = Arc<Watch>> {
        self.watches.iter().filter_map(|(_, watch)| watch.upgrade())
    }

    /// Up to where every watch has read.
    fn read_by_all(&self) -> Revision {
        let behind = self.open_watches().filter(|w| !w.has_read_all());
        let least = behind.map(|w| w.position.load(Ordering::Acquire)).min();
        Revision(least.unwrap_or(i64::MAX))
    }
}

#[derive(Debug)]
struct Watch {
    prefix: Arc<str>,
    wake: Notify,
    progress_wanted: AtomicBool,
    /// The last revision that changed something under the prefix.
    changed: AtomicI64,
    /// Delivered up to here.
    position: AtomicI64,
    /// Changes were missed.
    broken: AtomicBool,
}

impl Watch {
    /// Nothing under the prefix is unread, though the position may be old: sleeping watches do not follow the log.
    fn has_read_all(&self) -> bool {
        self.changed.load(Ordering::Acquire) <= self.position.load(Ordering::Acquire)
    }
}

impl Hub {
    /// An empty log at a revision whose past is not known.
    pub fn new(floor: Revision, revision: Revision) -> Self {
        let log = Log {
            changes: VecDeque::new(),
            weight: 0,
            floor,
            revision,
            ended: None,
            watches: Vec::new(),
            mark: revision,
        };
        Self { shared: Arc::new(RwLock::new(log)), reached: tokio::sync::watch::Sender::new(revision) }
    }

    /// Waits until a revision has been published.
    pub async fn reaches(&self, revision: Revision) {
        let mut reached = self.reached.subscribe();
        // cannot fail: the sender lives as long as the hub
        let _ = reached.wait_for(|r| *r >= revision).await;
    }

    /// Begins afresh at a revision, as after changes were missed: every open watch ends with [`Error::Compacted`].
    pub fn restart(&self, revision: Revision) {
        let mut log = self.shared.write();
        log.changes = VecDeque::new();
        log.weight = 0;
        log.floor = revision;
        log.revision = revision;
        log.mark = revision;
        for watch in std::mem::take(&mut log.watches).iter().filter_map(|(_, watch)| watch.upgrade()) {
            watch.broken.store(true, Ordering::Release);
            watch.wake.notify_one();
        }
        self.reached.send_replace(revision);
    }

    /// Appends changes (revisions ascending, after everything published) and moves to `revision`.
    pub fn publish(&self, changes: Vec<Arc<Change>>, revision: Revision) {
        let mut log = self.shared.write();
        let mut any_gone = false;
        for (prefix, watch) in &log.watches {
            let last =
                changes.iter().rev().find(|c| c.events.iter().any(|e| e.kv.key.starts_with(&**prefix)));
            let Some(change) = last else { continue };
            let Some(watch) = watch.upgrade() else {
                any_gone = true;
                continue;
            };
            watch.changed.store(change.revision.0, Ordering::Release);
            watch.wake.notify_one();
        }
        if any_gone {
            log.watches.retain(|(_, watch)| watch.strong_count() > 0);
        }
        for change in changes {
            log.weight += change.weight();
            log.changes.push_back(change);
        }
        log.revision = log.revision.max(revision);
        let revision = log.revision;
        drop(log);
        self.reached.send_if_modified(|reached| {
            let newer = *reached < revision;
            *reached = revision.max(*reached);
            newer
        });
    }

    /// The revision published last.
    pub fn revision(&self) -> Revision {
        self.shared.read().revision
    }

    /// Changes up to and including this revision are gone.
    pub fn floor(&self) -> Revision {
        self.shared.read().floor
    }

    /// Drops changes up to and including `to` and returns them; watches that had not read them end.
    pub fn trim(&self, to: Revision) -> Vec<Arc<Change>> {
        let mut log = self.shared.write();
        let to = to.min(log.revision);
        if to <= log.floor {
            return Vec::new();
        }
        let keep_from = log.changes.partition_point(|c| c.revision <= to);
        let gone: Vec<_> = log.changes.drain(..keep_from).collect();
        log.weight -= gone.iter().map(|c| c.weight()).sum::<usize>();
        log.floor = to;
        if log.changes.capacity() > 1024 && log.changes.len() * 4 < log.changes.capacity() {
            log.changes.shrink_to_fit();
        }
        for watch in log.open_watches() {
            let position = watch.position.load(Ordering::Acquire);
            if position >= to.0 {
                continue;
            }
            if watch.has_read_all() {
                watch.position.store(to.0, Ordering::Release);
            } else {
                watch.wake.notify_one();
            }
        }
        gone
    }

    /// Up to where the log should be trimmed to stay within its bounds: above `soft` bytes what every watch has read,
    /// above `hard` bytes regardless of watches. `None` when it is within them.
    pub fn overweight(&self, soft: usize, hard: usize) -> Option<Revision> {
        let log = self.shared.read();
        if log.weight <= soft {
            return None;
        }
        let read_by_all = log.read_by_all();
        // an eighth more than needed, so that trimming does not run at every write
        let mut soft_excess = log.weight.saturating_sub(soft - soft / 8);
        let mut hard_excess = log.weight.saturating_sub(hard);
        let mut to = None;
        for change in &log.changes {
            let weight = change.weight();
            let wanted = soft_excess > 0 && change.revision <= read_by_all;
            if !wanted && hard_excess == 0 {
                break;
            }
            soft_excess = soft_excess.saturating_sub(weight);
            hard_excess = hard_excess.saturating_sub(weight);
            to = Some(change.revision);
        }
        to
    }

    /// Up to where the log holds what was there at the last call already and what every watch has read since. Whoever asks
    /// at intervals, and trims to it, keeps a quiet log from holding on to the past; `None` when there is nothing.
    pub fn outlived(&self) -> Option<Revision> {
        let mut log = self.shared.write();
        let now = log.revision;
        let to = std::mem::replace(&mut log.mark, now).min(log.read_by_all());
        log.changes.front().is_some_and(|oldest| oldest.revision <= to).then_some(to)
    }

    /// There is nothing in the log.
    pub fn is_empty(&self) -> bool {
        self.shared.read().changes.is_empty()
    }

    /// Bytes the log holds on to.
    pub fn weight(&self) -> usize {
        self.shared.read().weight
    }

    /// Freshness of a prefix that is being watched, as far as the hub has come.
    pub fn freshness(&self, prefix: &str) -> Freshness {
        let log = self.shared.read();
        let changed = log
            .watches
            .iter()
            .filter(|(of, _)| **of == *prefix)
            .filter_map(|(_, watch)| watch.upgrade())
            .map(|w| w.changed.load(Ordering::Acquire))
            .min()
            .map_or(log.revision, Revision);
        Freshness { revision: log.revision, changed }
    }

    /// Makes every watch say how far it has come.
    pub fn request_progress(&self) {
        for watch in self.shared.read().open_watches() {
            watch.progress_wanted.store(true, Ordering::Release);
            watch.wake.notify_one();
        }
    }

    /// Ends every watch with an error, now and in future.
    pub fn end(&self, error: Error) {
        let mut log = self.shared.write();
        log.ended = Some(error);
        for watch in log.open_watches() {
            watch.wake.notify_one();
        }
    }

    /// Changes of keys starting with `prefix` from `start` on. [`Error::Compacted`] when the log does not reach back.
    pub fn watch(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        let mut log = self.shared.write();
        if let Some(error) = &log.ended {
            return Err(error.clone());
        }
        if start <= log.floor {
            return Err(Error::Compacted { compacted: log.floor });
        }
        let watch = Arc::new(Watch {
            prefix: prefix.into(),
            wake: Notify::new(),
            progress_wanted: AtomicBool::new(true),
            changed: AtomicI64::new(log.revision.0),
            position: AtomicI64::new(start.0 - 1),
            broken: AtomicBool::new(false),
        });
        if log.watches.len() >= log.watches.capacity() {
            // before it grows: those gone since the last change need no place
            log.watches.retain(|(_, watch)| watch.strong_count() > 0);
        }
        log.watches.push((Arc::clone(&watch.prefix), Arc::downgrade(&watch)));
        let reader = Reader { shared: Arc::clone(&self.shared), watch, failed: false };
        Ok(Box::pin(stream::unfold(reader, Reader::next)))
    }
}

/// The reading end of a watch.
struct Reader {
    shared: Arc<RwLock<Log>>,
    watch: Arc<Watch>,
    failed: bool,
}

enum Step {
    Message(WatchMessage),
    /// Looked through as many changes as one lock allows, without a match.
    Again,
    Wait,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<WatchMessage, Error>, Self)> {
        if self.failed {
            return None;
        }
        loop {
            match self.step() {
                Ok(Step::Message(message)) => return Some((Ok(message), self)),
                Ok(Step::Again) => tokio::task::yield_now().await,
                Ok(Step::Wait) => {
                    let idle = tokio::time::timeout(PROGRESS_INTERVAL, self.watch.wake.notified());
                    if idle.await.is_err() {
                        self.watch.progress_wanted.store(true, Ordering::Release);
                    }
                }
                Err(error) => {
                    self.failed = true;
                    return Some((Err(error), self));
                }
            }
        }
    }

    fn step(&self) -> Result<Step, Error> {
        let log = self.shared.read();
        if let Some(error) = &log.ended {
            return Err(error.clone());
        }
        let position = Revision(self.watch.position.load(Ordering::Acquire));
        if position < log.floor || self.watch.broken.load(Ordering::Acquire) {
            return Err(Error::Compacted { compacted: log.floor });
        }
        let from = log.changes.partition_point(|c| c.revision <= position);
        let mut events = Vec::new();
        let mut read_to = log.revision.max(position);
        for (scanned, change) in log.changes.range(from..).enumerate() {
            if scanned >= MAX_SCAN || events.len() >= MAX_EVENTS_PER_MESSAGE {
                read_to = Revision(change.revision.0 - 1);
                break;
            }
            let prefix = &*self.watch.prefix;
            events.extend(change.events.iter().filter(|e| e.kv.key.starts_with(prefix)).cloned());
        }
        let revision = log.revision;
        let more = log.changes.back().is_some_and(|c| c.revision > read_to);
        self.watch.position.store(read_to.0, Ordering::Release);
        drop(log);
        if !events.is_empty() {
            return Ok(Step::Message(WatchMessage::Events(events)));
        }
        if more {
            return Ok(Step::Again);
        }
        // a watch from the future has nothing to say until it is reached
        if position <= revision && self.watch.progress_wanted.swap(false, Ordering::AcqRel) {
            return Ok(Step::Message(WatchMessage::Progress(read_to)));
        }
        Ok(Step::Wait)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;
    use crate::KeyValue;

    fn change(key: &str, revision: i64) -> Arc<Change> {
        let revision = Revision(revision);
        let kv = KeyValue {
            key: key.into(),
            value: "v".into(),
            create_revision: revision,
            mod_revision: revision,
        };
        Arc::new(Change { revision, events: vec![Event { kv, prev: None, deleted: false }] })
    }

    #[tokio::test]
    async fn what_was_read_an_interval_ago_is_outlived() {
        let hub = Hub::new(Revision(0), Revision(0));
        let mut watch = hub.watch("/a/", Revision(1)).expect("nothing is gone");
        let mut read = || while watch.next().now_or_never().is_some() {};
        read();
        hub.publish(vec![change("/a/x", 1)], Revision(1));
        hub.publish(vec![change("/b/x", 2)], Revision(2));
        assert_eq!(hub.outlived(), None, "it has just come");
        assert_eq!(hub.outlived(), None, "a watch has not read it");
        read();
        hub.publish(vec![change("/a/y", 3)], Revision(3));
        assert_eq!(hub.outlived(), Some(Revision(2)), "the latest has just come");
        hub.trim(Revision(2));
        assert_eq!((hub.outlived(), hub.is_empty()), (None, false));
        read();
        assert_eq!(hub.outlived(), Some(Revision(3)));
        hub.trim(Revision(3));
        assert_eq!((hub.outlived(), hub.is_empty()), (None, true));
    }
}
