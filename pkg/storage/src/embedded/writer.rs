//! The one writer: takes requests in groups, applies them to the next state, makes the group durable with one sync,
//! then shows the state and answers. A group that cannot be made durable has not happened.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::disk::{Batch, Disk};
use super::index::Place;
use super::leases::{LeaseChange, Leases};
use super::past::{Passed, Unloaded};
use super::queue::Request;
use super::record::Record;
use super::{Options, Shared, View};
use crate::hub::Change;
use crate::{Compare, Error, Event, LeaseId, NO_SPACE, Op, Revision, TOO_LARGE, TxnResponse};

/// Changes whose past is forgotten in one round; writes go between rounds.
const FORGET_CHUNK: usize = 2000;
/// Keys of an ended lease that are removed in one round.
const EXPIRE_CHUNK: usize = 1000;
/// Leases at one time.
const MAX_LEASES: usize = 100_000;
/// etcd's limit.
const MAX_LEASE_TTL: i64 = 9_000_000_000;
/// After a failure the writer leaves its own work (expiry, forgetting) alone for this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The hub is not looked through more often than this, however short the past is to be.
const MIN_TIDY_INTERVAL: Duration = Duration::from_millis(1);
/// Looks at the hub without a write before the last records are written to a table.
const SETTLED: u8 = 1;
/// Looks at the hub without a write after which there is nothing more to put in order.
pub(super) const AT_REST: u8 = 3;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) disk: Option<Disk>,
    pub(super) leases: Leases,
    pub(super) next_lease: i64,
    /// Changes after the compacted revision that are on disk only.
    pub(super) unloaded: Unloaded,
    /// Changes before the compacted revision, whose past is still to be forgotten.
    pub(super) forgetting: VecDeque<Passed>,
    /// Records found at start that are of no use any more.
    pub(super) leftover: Vec<Place>,
    pub(super) paused_until: Option<Instant>,
    /// When the hub is looked through for what can be left to the disk.
    pub(super) tidy_at: Instant,
    /// How often the hub has been looked through since something was written, up to [`AT_REST`].
    pub(super) quiet: u8,
}

/// However the writer ends, even by a panic: nobody waits for it any more.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.queue.abandon();
        self.0.hub.end(Error::Closed);
    }
}

/// A group of requests on its way to disk.
struct Group {
    view: View,
    batch: Batch,
    changes: Vec<Arc<Change>>,
    lease_changes: Vec<LeaseChange>,
    forgotten: usize,
    leftover: usize,
    answers: Vec<Answer>,
}

/// An answer that waits for the group.
enum Answer {
    Txn(oneshot::Sender<Result<TxnResponse, Error>>, Result<TxnResponse, Error>),
    Grant(oneshot::Sender<Result<LeaseId, Error>>, Result<LeaseId, Error>),
    Compact(oneshot::Sender<Result<(), Error>>, Result<(), Error>),
}

impl Writer {
    /// Works until the queue is closed.
    pub(super) fn run(mut self) {
        let _end = End(Arc::clone(&self.shared));
        while let Some(requests) = self.shared.queue.take(self.wake_at()) {
            self.round(requests);
        }
        let revision = self.shared.view.read().revision;
        if let Some(disk) = self.disk.take() {
            disk.close(revision);
        }
    }

    /// When there is something to do without a request.
    fn wake_at(&self) -> Option<Instant> {
        let idle = self.forgetting.is_empty() && self.leftover.is_empty();
        let due = if idle { self.leases.next_end() } else { Some(Instant::now()) };
        let due = match (due, self.paused_until) {
            (Some(due), Some(pause)) => Some(due.max(pause)),
            (due, _) => due,
        };
        let untidy = self.quiet < AT_REST || !self.shared.hub.is_empty();
        let tidy = (self.disk.is_some() && untidy).then_some(self.tidy_at);
        due.into_iter().chain(tidy).min()
    }

    fn round(&mut self, requests: Vec<Request>) {
        let now = Instant::now();
        let mut group = Group {
            view: self.shared.view.read().clone(),
            batch: Batch::default(),
            changes: Vec::new(),
            lease_changes: Vec::new(),
            forgotten: 0,
            leftover: 0,
            answers: Vec::new(),
        };
        let before = group.view.revision;
        for request in requests {
            self.take_in(&mut group, request, now);
        }
        if self.paused_until.is_none_or(|until| now >= until) {
            self.paused_until = None;
            self.expire(&mut group, now);
            self.forget(&mut group);
        }
        let committed = match &mut self.disk {
            Some(disk) if !group.batch.is_empty() => disk.commit(&group.batch, before),
            _ => Ok(()),
        };
        match committed {
            Ok(()) => {
                if !group.batch.is_empty() {
                    self.quiet = 0;
                }
                self.show(group);
                self.unload(now);
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot write");
                self.paused_until = Some(now + PAUSE_AFTER_FAILURE);
                for answer in group.answers {
                    answer.fail(&error);
                }
            }
        }
    }

    /// Makes a durable group visible, then answers.
    fn show(&mut self, group: Group) {
        let Group { view, changes, lease_changes, forgotten, leftover, answers, batch } = group;
        let revision = view.revision;
        let live_bytes = view.index.bytes();
        {
            let mut shown = self.shared.view.write();
            *shown = view;
            self.shared.hub.publish(changes, revision);
        }
        for change in lease_changes {
            self.leases.apply(change);
        }
        self.forgetting.drain(..forgotten);
        self.leftover.drain(..leftover);
        if let Some(compacted) = batch.compacted {
            self.forgetting.extend(self.unloaded.take_to(compacted));
            let gone = self.shared.hub.trim(compacted);
            self.forgetting.extend(gone.iter().flat_map(|change| Passed::of(change)));
        }
        for answer in answers {
            answer.send();
        }
        if forgotten > 0 && self.forgetting.is_empty() {
            self.forgetting.shrink_to_fit();
        }
        if forgotten > 0
            && let Some(disk) = &mut self.disk
        {
            disk.reclaim(live_bytes as u64 + self.unloaded.bytes());
            self.shared.disk_bytes.store(disk.bytes(), Ordering::Relaxed);
        }
    }

    /// Leaves to the disk the past that memory has no room for, and now and then what nobody has yet to read.
    fn unload(&mut self, now: Instant) {
        let Some(disk) = &mut self.disk else { return };
        let (soft, hard) = (self.options.history_bytes, self.options.max_history_bytes);
        let mut to = self.shared.hub.overweight(soft, hard);
        if now >= self.tidy_at {
            self.tidy_at = now + self.options.history_age.max(MIN_TIDY_INTERVAL);
            to = to.max(self.shared.hub.outlived());
            self.shared.disk_bytes.store(disk.bytes(), Ordering::Relaxed);
            match self.quiet {
                // something has just been written
                0 => {}
                SETTLED => disk.settle(),
                AT_REST => {}
                // what was written to a table has been freed by now
                _ => (self.options.at_rest)(),
            }
            self.quiet = AT_REST.min(self.quiet + 1);
        }
        let Some(to) = to else { return };
        let mut view = self.shared.view.read().clone();
        for change in self.shared.hub.trim(to) {
            self.unloaded.add(&mut view.index, &change);
        }
        *self.shared.view.write() = view;
    }

    fn take_in(&mut self, group: &mut Group, request: Request, now: Instant) {
        match request {
            Request::Txn { compares, ops, reply } => {
                let result = self.txn(group, &compares, ops);
                group.answers.push(Answer::Txn(reply, result));
            }
            Request::Grant { ttl_seconds, reply } => {
                let result = self.grant(group, ttl_seconds, now);
                group.answers.push(Answer::Grant(reply, result));
            }
            Request::Compact { revision, reply } => {
                let result = compact(group, revision);
                group.answers.push(Answer::Compact(reply, result));
            }
        }
    }

    fn txn(&self, group: &mut Group, compares: &[Compare], ops: Vec<Op>) -> Result<TxnResponse, Error> {
        let index = &group.view.index;
        let current: Vec<_> = compares.iter().map(|c| index.get(&c.key)).collect();
        let holds = |(compare, kv): (&Compare, &Option<crate::KeyValue>)| {
            compare.mod_revision == kv.as_ref().map_or(Revision(0), |kv| kv.mod_revision)
        };
        if !compares.iter().zip(&current).all(holds) {
            return Ok(TxnResponse { succeeded: false, revision: group.view.revision, current });
        }
        self.check(group, &ops)?;
        group.write(ops);
        Ok(TxnResponse { succeeded: true, revision: group.view.revision, current: Vec::new() })
    }

    /// Whether the operations can be done at all.
    fn check(&self, group: &Group, ops: &[Op]) -> Result<(), Error> {
        let mut keys = HashSet::new();
        let mut size = 0;
        for op in ops {
            let (Op::Put { key, .. } | Op::Delete { key }) = op;
            if !keys.insert(&**key) {
                return Err(Error::Invalid("duplicate key given in txn request".into()));
            }
            size += key.len();
            if let Op::Put { value, lease, .. } = op {
                size += value.len();
                if lease.is_some_and(|id| !self.leases.contains(id)) {
                    return Err(Error::LeaseNotFound);
                }
            }
        }
        if size > self.options.max_txn_bytes {
            return Err(Error::TooLarge(TOO_LARGE.into()));
        }
        let writes = ops.iter().any(|op| matches!(op, Op::Put { .. }));
        if writes && group.view.index.bytes() + size > self.options.max_bytes {
            return Err(Error::NoSpace(format!(
                "{NO_SPACE}: the store's quota of {} bytes is used up",
                self.options.max_bytes
            )));
        }
        Ok(())
    }

    fn grant(&mut self, group: &mut Group, ttl_seconds: i64, now: Instant) -> Result<LeaseId, Error> {
        if !(1..=MAX_LEASE_TTL).contains(&ttl_seconds) {
            return Err(Error::Invalid(format!("a lease cannot last {ttl_seconds} s")));
        }
        let granted_here = group.lease_changes.iter().filter(|c| matches!(c, LeaseChange::Grant(..))).count();
        if self.leases.len() + granted_here >= MAX_LEASES {
            return Err(Error::NoSpace(format!("{NO_SPACE}: there are {MAX_LEASES} leases")));
        }
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        let ttl = Duration::from_secs(ttl_seconds.unsigned_abs());
        group.batch.leases.push((id, Some(SystemTime::now() + ttl)));
        group.lease_changes.push(LeaseChange::Grant(id, now + ttl));
        Ok(id)
    }

    /// Removes what ended leases hold.
    fn expire(&self, group: &mut Group, now: Instant) {
        let Some((id, keys)) = self.leases.ended(now, EXPIRE_CHUNK) else { return };
        let last = keys.len() < EXPIRE_CHUNK;
        // a request of this very group may have put a key under another lease, or none
        let ops = keys
            .into_iter()
            .filter(|key| group.view.index.lease(key) == Some(id))
            .map(|key| Op::Delete { key })
            .collect();
        group.write(ops);
        if last {
            group.batch.leases.push((id, None));
            group.lease_changes.push(LeaseChange::Remove(id));
        }
    }

    /// Forgets a part of what compaction has made unreachable.
    fn forget(&self, group: &mut Group) {
        group.leftover = self.leftover.len().min(FORGET_CHUNK);
        group.batch.free.extend_from_slice(&self.leftover[..group.leftover]);
        for passed in self.forgetting.iter().take(FORGET_CHUNK) {
            group.forgotten += 1;
            group.batch.free.extend(group.view.index.forget(&passed.key, passed.revision));
            group.batch.freed_bytes += passed.bytes as usize;
        }
        if group.batch.compacted.is_some() || self.forgetting.len() > group.forgotten {
            return;
        }
        let options = &self.options;
        let to = if self.disk.is_some() {
            self.unloaded.overweight(options.max_history_events, options.max_history_disk_bytes)
        } else {
            self.shared.hub.overweight(options.history_bytes, options.max_history_bytes)
        };
        if let Some(to) = to {
            // nothing newer than what is durable
            let to = to.min(self.shared.view.read().revision);
            if to > group.view.compacted {
                group.view.compacted = to;
                group.batch.compacted = Some(to);
            }
        }
    }
}

impl Group {
    /// Makes writes at the next revision, if they change anything.
    fn write(&mut self, ops: Vec<Op>) {
        let revision = Revision(self.view.revision.0 + 1);
        let mut events: Vec<Event> = Vec::with_capacity(ops.len());
        for op in ops {
            let place = Place { revision, sub: events.len() as u32 };
            let index = &mut self.view.index;
            let (Op::Put { key, .. } | Op::Delete { key }) = &op;
            let old_lease = index.lease(key);
            let (event, lease) = match op {
                Op::Put { key, value, lease } => (index.put(&key, value, lease, place), lease),
                Op::Delete { key } => match index.delete(&key, place) {
                    Some(event) => (event, None),
                    None => continue,
                },
            };
            if old_lease != lease {
                let key = &event.kv.key;
                let detach = old_lease.map(|id| LeaseChange::Detach(id, Arc::clone(key)));
                let attach = lease.map(|id| LeaseChange::Attach(id, Arc::clone(key)));
                self.lease_changes.extend(detach.into_iter().chain(attach));
            }
            self.batch.records.push(Record {
                place,
                key: Arc::clone(&event.kv.key),
                value: (!event.deleted).then(|| event.kv.value.clone()),
                created: event.kv.create_revision,
                lease,
            });
            events.push(event);
        }
        if !events.is_empty() {
            self.view.revision = revision;
            self.changes.push(Arc::new(Change { revision, events }));
        }
    }
}

fn compact(group: &mut Group, revision: Revision) -> Result<(), Error> {
    let view = &mut group.view;
    if revision <= view.compacted {
        return Err(Error::Compacted { compacted: view.compacted });
    }
    if revision > view.revision {
        return Err(Error::Future { requested: revision, current: view.revision });
    }
    view.compacted = revision;
    group.batch.compacted = Some(revision);
    Ok(())
}

impl Answer {
    // nobody waits for the answer when a request has been given up
    fn send(self) {
        match self {
            Self::Txn(reply, result) => drop(reply.send(result)),
            Self::Grant(reply, result) => drop(reply.send(result)),
            Self::Compact(reply, result) => drop(reply.send(result)),
        }
    }

    fn fail(self, error: &Error) {
        match self {
            Self::Txn(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Grant(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Compact(reply, _) => drop(reply.send(Err(error.clone()))),
        }
    }
}
