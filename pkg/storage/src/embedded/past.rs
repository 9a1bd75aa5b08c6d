//! The past beyond what memory holds: which changes it has, reads of it, and watches that begin in it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;

use super::Shared;
use super::index::{Index, Place};
use super::record::Record;
use crate::hub::{Change, MAX_EVENTS_PER_MESSAGE};
use crate::{Error, Event, KeyValue, Revision, WatchMessage, WatchStream};

/// At most about this many bytes of values are read from disk for one message.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// At most this many records are looked through in one go.
const MAX_SCAN: usize = 10_000;
/// Wait before the disk is read again after a failure that may pass.
const PAUSE: Duration = Duration::from_millis(200);

/// A change to a key of which memory holds no more than this.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) revision: Revision,
    pub(super) key: Arc<str>,
    /// Bytes on disk that are free once it is forgotten.
    pub(super) bytes: u32,
}

impl Passed {
    /// The changes of a revision.
    pub(super) fn of(change: &Change) -> impl Iterator<Item = Self> + '_ {
        change.events.iter().map(|event| Self {
            revision: change.revision,
            key: Arc::clone(&event.kv.key),
            bytes: event.prev.as_ref().map_or(0, |prev| prev.key.len() + prev.value.len()) as u32,
        })
    }
}

/// The changes since the compacted revision whose superseded values are on disk only, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unloaded {
    changes: VecDeque<Passed>,
    bytes: u64,
}

impl Unloaded {
    /// Leaves a change to the disk.
    pub(super) fn add(&mut self, index: &mut Index, change: &Change) {
        for passed in Passed::of(change) {
            index.unload(&passed.key, passed.revision);
            self.bytes += u64::from(passed.bytes);
            self.changes.push_back(passed);
        }
    }

    /// Bytes on disk that nothing but these changes needs.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes out the changes up to a revision.
    pub(super) fn take_to(&mut self, revision: Revision) -> Vec<Passed> {
        let n = self.changes.partition_point(|passed| passed.revision <= revision);
        let taken: Vec<_> = self.changes.drain(..n).collect();
        self.bytes -= taken.iter().map(|passed| u64::from(passed.bytes)).sum::<u64>();
        if self.changes.capacity() > 1024 && self.changes.len() * 4 < self.changes.capacity() {
            self.changes.shrink_to_fit();
        }
        taken
    }

    /// Up to where history must be forgotten to stay within limits, an eighth more than needed; `None` when it is
    /// within them.
    pub(super) fn overweight(&self, max_events: usize, max_bytes: u64) -> Option<Revision> {
        if self.changes.len() <= max_events && self.bytes <= max_bytes {
            return None;
        }
        let mut events = self.changes.len().saturating_sub(max_events - max_events / 8);
        let mut bytes = self.bytes.saturating_sub(max_bytes - max_bytes / 8);
        let mut to = None;
        for passed in &self.changes {
            if events == 0 && bytes == 0 {
                break;
            }
            events = events.saturating_sub(1);
            bytes = bytes.saturating_sub(u64::from(passed.bytes));
            to = Some(passed.revision);
        }
        to
    }
}

impl Shared {
    /// Fills in values that are on disk, for a read as of a revision. Blocks.
    pub(super) fn load(
        &self,
        mut kvs: Vec<KeyValue>,
        on_disk: &[(usize, Place)],
        revision: Revision,
    ) -> Result<Vec<KeyValue>, Error> {
        for (i, place) in on_disk {
            kvs[*i].value = self.value(*place, revision)?;
        }
        Ok(kvs)
    }

    /// A value that a read as of a revision needs.
    fn value(&self, place: Place, revision: Revision) -> Result<Bytes, Error> {
        let found = self.archive.as_ref().map(|archive| archive.value(place)).transpose()?.flatten();
        found.ok_or_else(|| {
            let compacted = self.view.read().compacted;
            if compacted > revision {
                Error::Compacted { compacted }
            } else {
                Error::Corrupt(format!("the change of revision {} is missing", place.revision))
            }
        })
    }

    /// The next changes under a prefix after a position, and how far they go. Blocks.
    fn read_past(&self, prefix: &str, position: Revision) -> Result<(Vec<Event>, Revision), Error> {
        let Some(archive) = &self.archive else {
            return Err(Error::Compacted { compacted: self.hub.floor() });
        };
        // in this order: the view is not older than what the hub has let go
        let until = self.hub.floor();
        let view = self.view.read().clone();
        let check = || {
            let compacted = self.view.read().compacted;
            if position < compacted { Err(Error::Compacted { compacted }) } else { Ok(()) }
        };
        check()?;
        let mut events = Vec::new();
        let (mut bytes, mut scanned) = (0, 0);
        let mut reached = until.max(position);
        let mut last = position;
        archive.records(Revision(position.0 + 1), until, prefix, |place, record| {
            let full =
                bytes >= MAX_MESSAGE_BYTES || events.len() >= MAX_EVENTS_PER_MESSAGE || scanned >= MAX_SCAN;
            // the changes of a revision stay together
            if full && place.revision > last {
                reached = last;
                return Ok(ControlFlow::Break(()));
            }
            scanned += 1;
            last = place.revision;
            if let Some(record) = record {
                let event = self.event(&view.index, record)?;
                bytes += event.kv.value.len() + event.prev.as_ref().map_or(0, |prev| prev.value.len());
                events.push(event);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        // what was compacted meanwhile may have been missing
        check()?;
        Ok((events, reached))
    }

    fn event(&self, index: &Index, record: Record) -> Result<Event, Error> {
        let revision = record.place.revision;
        let prev = match index.before(&record.key, record.place) {
            Some((mut kv, Some(place))) => {
                kv.value = self.value(place, Revision(revision.0 - 1))?;
                Some(kv)
            }
            Some((kv, None)) => Some(kv),
            None => None,
        };
        let deleted = record.value.is_none();
        let kv = KeyValue {
            key: record.key,
            value: record.value.unwrap_or_default(),
            create_revision: record.created,
            mod_revision: revision,
        };
        Ok(Event { kv, prev, deleted })
    }
}

/// A watch that may begin, or fall back, beyond what the hub holds: it reads the disk up to where the hub begins, and
/// goes on there.
pub(super) struct Past {
    shared: Arc<Shared>,
    prefix: Arc<str>,
    position: Revision,
    stage: Stage,
}

enum Stage {
    Disk,
    Hub(WatchStream),
    Ended,
}

impl Past {
    /// Begins a watch; [`Error::Compacted`] when its start is gone.
    pub(super) fn open(shared: Arc<Shared>, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        let position = Revision(start.0 - 1);
        let stage = match shared.hub.watch(prefix, start) {
            Ok(stream) => Stage::Hub(stream),
            Err(Error::Compacted { .. }) => {
                let compacted = shared.view.read().compacted;
                if position < compacted {
                    return Err(Error::Compacted { compacted });
                }
                Stage::Disk
            }
            Err(error) => return Err(error),
        };
        let past = Self { shared, prefix: prefix.into(), position, stage };
        Ok(Box::pin(futures::stream::unfold(past, Self::next)))
    }

    async fn next(mut self) -> Option<(Result<WatchMessage, Error>, Self)> {
        loop {
            match &mut self.stage {
                Stage::Ended => return None,
                Stage::Hub(stream) => match stream.next().await? {
                    Ok(message) => {
                        let reached = match &message {
                            WatchMessage::Events(events) => events.last().map(|e| e.kv.mod_revision),
                            WatchMessage::Progress(revision) => Some(*revision),
                        };
                        self.position = self.position.max(reached.unwrap_or_default());
                        return Some((Ok(message), self));
                    }
                    // it fell behind what memory holds
                    Err(Error::Compacted { .. }) => self.stage = Stage::Disk,
                    Err(error) => return Some((Err(error), self.ended())),
                },
                Stage::Disk => match self.read().await {
                    Ok(events) if events.is_empty() => {}
                    Ok(events) => return Some((Ok(WatchMessage::Events(events)), self)),
                    Err(Error::Unavailable(text)) => {
                        tracing::debug!(text, "reading the past again");
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Some((Err(error), self.ended())),
                },
            }
        }
    }

    fn ended(mut self) -> Self {
        self.stage = Stage::Ended;
        self
    }

    /// Reads on from disk, or steps over to the hub.
    async fn read(&mut self) -> Result<Vec<Event>, Error> {
        match self.shared.hub.watch(&self.prefix, Revision(self.position.0 + 1)) {
            Ok(stream) => {
                self.stage = Stage::Hub(stream);
                return Ok(Vec::new());
            }
            Err(Error::Compacted { .. }) => {}
            Err(error) => return Err(error),
        }
        let (shared, prefix, position) = (Arc::clone(&self.shared), Arc::clone(&self.prefix), self.position);
        let read = tokio::task::spawn_blocking(move || shared.read_past(&prefix, position)).await;
        let (events, reached) =
            read.map_err(|_| Error::Unavailable("reading the past was interrupted".into()))??;
        self.position = reached;
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_beyond_its_limits_is_forgotten_from_the_oldest_on() {
        let mut unloaded = Unloaded::default();
        let mut index = Index::default();
        for i in 1..=80 {
            let place = Place { revision: Revision(i), sub: 0 };
            let event = index.put(&"/a".into(), vec![b'v'; 98].into(), None, place);
            unloaded.add(&mut index, &Change { revision: Revision(i), events: vec![event] });
        }
        // the first put superseded nothing, the others 100 bytes each
        assert_eq!(unloaded.bytes, 7900);
        assert_eq!(unloaded.overweight(80, 7900), None);
        assert_eq!(unloaded.overweight(79, u64::MAX), Some(Revision(10)), "down to seven eighths");
        assert_eq!(unloaded.overweight(usize::MAX, 4000), Some(Revision(45)));
        assert_eq!(unloaded.take_to(Revision(10)).len(), 10);
        assert_eq!((unloaded.bytes, unloaded.changes.len()), (7000, 70));
        assert_eq!(index.bytes(), 98, "only the newest value is in memory");
    }
}
