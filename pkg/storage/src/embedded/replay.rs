//! Rebuilding the state from what is on disk, record by record, so that a long past does not pass through memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::View;
use super::disk::Notes;
use super::index::{Index, Place};
use super::leases::{LeaseChange, Leases};
use super::past::Unloaded;
use super::record::Record;
use crate::hub::Change;
use crate::{Error, Revision};

/// A state being rebuilt.
pub(super) struct Replay {
    view: View,
    /// Up to here changes are on disk only.
    floor: Revision,
    changes: VecDeque<Arc<Change>>,
    weight: usize,
    /// Past values that are to stay in memory.
    history_bytes: usize,
    unloaded: Unloaded,
    open: Option<Change>,
    leases: Leases,
    next_lease: i64,
    leftover: Vec<Place>,
    now: Instant,
}

/// A state as the engine begins with it.
pub(super) struct Replayed {
    pub(super) view: View,
    /// Up to here changes are on disk only.
    pub(super) floor: Revision,
    /// The changes since.
    pub(super) changes: Vec<Arc<Change>>,
    pub(super) unloaded: Unloaded,
    pub(super) leases: Leases,
    pub(super) next_lease: i64,
    /// Records that a compaction had not got round to freeing.
    pub(super) leftover: Vec<Place>,
}

impl Replay {
    pub(super) fn new(notes: Notes, history_bytes: usize) -> Self {
        let compacted = notes.compacted;
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut leases = Leases::default();
        let mut next_lease = 1;
        for (id, ends) in notes.leases {
            let left = ends.duration_since(wall).unwrap_or_default();
            leases.apply(LeaseChange::Grant(id, now + left));
            next_lease = next_lease.max(id.0 + 1);
        }
        Self {
            view: View { index: Index::default(), revision: compacted, compacted },
            floor: compacted,
            changes: VecDeque::new(),
            weight: 0,
            history_bytes,
            unloaded: Unloaded::default(),
            open: None,
            leases,
            next_lease,
            leftover: Vec::new(),
            now,
        }
    }

    /// The revision come to so far.
    pub(super) fn revision(&self) -> Revision {
        self.view.revision
    }

    /// Takes in the next record.
    pub(super) fn take(&mut self, record: Record) -> Result<(), Error> {
        let revision = record.place.revision;
        let index = &mut self.view.index;
        let old_lease = index.lease(&record.key);
        let event = index.restore(&record.key, record.value, record.created, record.lease, record.place);
        if let Some(id) = old_lease {
            self.leases.apply(LeaseChange::Detach(id, Arc::clone(&event.kv.key)));
        }
        if let Some(id) = record.lease {
            if !self.leases.contains(id) {
                // its note went before its keys, as a failed write can leave it: it ends now
                self.leases.apply(LeaseChange::Grant(id, self.now));
            }
            self.leases.apply(LeaseChange::Attach(id, Arc::clone(&event.kv.key)));
        }
        if revision <= self.view.compacted {
            self.leftover.extend(index.forget(&event.kv.key, revision));
            return Ok(());
        }
        if let Some(change) = self.open.as_mut().filter(|change| change.revision == revision) {
            change.events.push(event);
            return Ok(());
        }
        self.close_change();
        // every revision after the compacted one changed something
        let expected = Revision(self.view.revision.0 + 1);
        if revision != expected {
            return Err(Error::Corrupt(format!("the changes of revision {expected} are missing")));
        }
        self.view.revision = revision;
        self.open = Some(Change { revision, events: vec![event] });
        Ok(())
    }

    /// A revision is complete; the oldest ones go when memory is for newer ones.
    fn close_change(&mut self) {
        let Some(change) = self.open.take() else { return };
        self.weight += change.weight();
        self.changes.push_back(Arc::new(change));
        while self.weight > self.history_bytes
            && let Some(oldest) = self.changes.pop_front()
        {
            self.weight -= oldest.weight();
            self.floor = oldest.revision;
            self.unloaded.add(&mut self.view.index, &oldest);
        }
    }

    /// The state, when there are no more records.
    pub(super) fn finish(mut self) -> Replayed {
        self.close_change();
        Replayed {
            view: self.view,
            floor: self.floor,
            changes: self.changes.into(),
            unloaded: self.unloaded,
            leases: self.leases,
            next_lease: self.next_lease,
            leftover: self.leftover,
        }
    }
}
