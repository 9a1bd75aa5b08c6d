//! A watch: a position in the ring of changes, seen through a filter.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use storage::Revision;
use tokio::time::{Instant, Sleep};

use crate::back;
use crate::cache::{ByInterest, Filter, ReadVersion, Shared, Snapshot, WatchCache};
use crate::error::Error;
use crate::object::StoredObject;
use crate::objects::Marks;
use crate::state::{CacheEvent, EventKind, State};

/// A bookmark is sent this often.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// The last bookmark is sent this long before the watch ends.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Changes looked through under one lock.
const MAX_SCAN: usize = 256;

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchStart {
    /// Changes after this revision.
    After(Revision),
    /// Changes from now on.
    Now,
    /// First every object as added, from a state like this, then changes: no resourceVersion
    /// ([`ReadVersion::Latest`]) or `0` ([`ReadVersion::Any`]).
    State(ReadVersion),
    /// The same, with a bookmark after the objects: `sendInitialEvents=true`.
    InitialEvents(ReadVersion),
}

/// Which objects can concern a watcher, so that others need not wake it; never wider than the filter allows, never
/// narrower than what it matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Interest {
    /// Any object.
    #[default]
    Everything,
    /// Objects of a namespace.
    Namespace(String),
    /// The object of this namespace (empty without) and name.
    Object(String, String),
    /// Objects whose selectable field (by its place in the codec's order) has this value, in any namespace.
    Field(usize, String),
}

impl Interest {
    /// Whether an object is of interest.
    pub fn covers(&self, object: &StoredObject) -> bool {
        match self {
            Self::Everything => true,
            Self::Namespace(namespace) => object.namespace() == namespace,
            Self::Object(namespace, name) => object.name() == name && object.namespace() == namespace,
            Self::Field(index, value) => object.field(*index) == value,
        }
    }
}

/// What a watch asks for.
#[derive(Clone)]
pub struct WatchOptions {
    /// Where it begins.
    pub start: WatchStart,
    /// Which objects it is about. Applied beside the filter.
    pub interest: Interest,
    /// Only objects that match.
    pub filter: Option<Filter>,
    /// Send bookmarks, about one a minute and one before the end.
    pub bookmarks: bool,
    /// The watch ends after this time.
    pub timeout: Option<Duration>,
}

impl WatchOptions {
    /// All changes from a start on, without bookmarks or end.
    pub fn new(start: WatchStart) -> Self {
        Self { start, interest: Interest::Everything, filter: None, bookmarks: false, timeout: None }
    }
}

/// One thing a watcher is told.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// An object that was there when the watch began.
    Initial(Arc<StoredObject>),
    /// A change.
    Event {
        /// What it is to this watcher.
        kind: EventKind,
        /// The object to show, at the change's revision.
        object: Arc<StoredObject>,
        /// The change, which keeps encoded frames for all watchers. Its frames by kind hold for this `object`.
        event: Arc<CacheEvent>,
    },
    /// Everything up to this revision has been sent.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// It ends the initial objects: annotate it with `k8s.io/initial-events-end: "true"`.
        initial_events_end: bool,
    },
}

/// An open watch. Ends by itself: after its timeout, after an error, when the cache stops.
pub struct Watcher {
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    options: WatchOptions,
    generation: u64,
    position: Revision,
    initial: Option<Initial>,
    next_bookmark: Option<Instant>,
    deadline: Option<Instant>,
    /// For the next bookmark or the end, whichever comes first.
    timer: Option<Pin<Box<Sleep>>>,
    /// Everything had been read when the state was last looked at.
    drained: bool,
    /// The task that listens is also woken by the timer.
    armed: bool,
    /// The deadline is that of the cache's last watches.
    leaving: bool,
    ended: bool,
}

/// Watches end one after the other, so that their clients do not come to another server all at once
/// (`--shutdown-watch-termination-grace-period`).
pub(crate) struct WatchesEnd {
    began: Instant,
    over: Duration,
    /// How many there were when it began.
    watches: u32,
    /// How many know when their turn is.
    told: AtomicU32,
}

impl WatchesEnd {
    /// When the next watch that asks is to end.
    fn next(&self) -> Instant {
        let turn = self.told.fetch_add(1, Ordering::Relaxed).saturating_add(1).min(self.watches);
        self.began + self.over * turn / self.watches
    }
}

/// The objects to be sent first.
struct Initial {
    snapshot: Snapshot,
    next: Option<Arc<str>>,
    mark_end: bool,
}

impl Watcher {
    pub(crate) async fn begin(cache: &WatchCache, options: WatchOptions) -> Result<Self, Error> {
        cache.wait_for(ReadVersion::Any).await?;
        // known before anything is read: a fresh start meanwhile ends this watch
        let generation = cache.shared.state.read().generation;
        let initial = match options.start {
            WatchStart::After(revision) => {
                if revision < cache.shared.state.read().floor() {
                    back::reach(&cache.shared, revision).await?;
                }
                None
            }
            WatchStart::Now => {
                cache.wait_for(ReadVersion::Latest).await?;
                None
            }
            WatchStart::State(version) | WatchStart::InitialEvents(version) => {
                let snapshot = cache.read(version).await?;
                let mark_end = matches!(options.start, WatchStart::InitialEvents(_));
                Some(Initial { snapshot, next: None, mark_end })
            }
        };
        let shared = Arc::clone(&cache.shared);
        let subscription = shared.wakers.lock().add(options.interest.clone());
        let current = shared.state.read().revision;
        let position = match (&initial, options.start) {
            (Some(initial), _) => initial.snapshot.revision(),
            (None, WatchStart::After(revision)) => revision,
            (None, _) => current,
        };
        let now = Instant::now();
        let deadline = options.timeout.map(|timeout| now + timeout);
        let next_bookmark = options.bookmarks.then(|| next_bookmark(now, deadline));
        Ok(Self {
            shared,
            subscription,
            options,
            generation,
            position,
            initial,
            next_bookmark,
            deadline,
            timer: None,
            drained: false,
            armed: false,
            leaving: false,
            ended: false,
        })
    }

    /// The next things, at least one and at most about `max`; `None` at the end, which follows every error. May be
    /// cancelled without losing anything.
    pub async fn next_batch(&mut self, max: usize) -> Option<Result<Vec<WatchItem>, Error>> {
        std::future::poll_fn(|cx| self.poll_batch(cx, max)).await
    }

    /// [`Watcher::next_batch`], for those who poll.
    pub fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Option<Result<Vec<WatchItem>, Error>>> {
        loop {
            if self.ended || self.shared.watches_ended.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            if self.drained && self.armed && !self.is_due() && self.subscription.is_silent_for(cx) {
                // asked again after its latest event
                return Poll::Pending;
            }
            // known before the bell is looked at: whatever of it was of interest has rung this bell
            let rung = self.shared.rung.load(Ordering::Acquire);
            // before the state is read, so that what comes after rings again
            let since = self.subscription.silence();
            if self.drained {
                // the changes passed by need not be there any more, however many they were
                let passed = since.map_or(rung, |since| since - 1);
                self.position = self.position.max(Revision(passed));
            }
            if let Some(end) = self.shared.watches_end.get().filter(|_| !self.leaving) {
                self.leaving = true;
                self.end_by(end.next());
            }
            let began = self.initial.is_none();
            let items = match self.initial_batch(max).map_or_else(|| self.step(max), Ok) {
                Ok(items) => items,
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            };
            if !items.is_empty() {
                return Poll::Ready(Some(Ok(items)));
            }
            if !began {
                // more objects, or what changed since they were read
                continue;
            }
            if self.poll_timer(cx).is_ready() {
                let now = Instant::now();
                if self.deadline.is_some_and(|deadline| now >= deadline) {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                (self.timer, self.armed) = (None, false);
                if self.next_bookmark.is_some_and(|due| now >= due) {
                    self.next_bookmark = Some(next_bookmark(now, self.deadline));
                    if self.shared.reached.borrow().1 < self.position {
                        // begun in the future: nothing to vouch for yet
                        continue;
                    }
                    let bookmark = WatchItem::Bookmark { revision: self.position, initial_events_end: false };
                    return Poll::Ready(Some(Ok(vec![bookmark])));
                }
                continue;
            }
            if self.subscription.listen(cx) {
                self.armed = true;
                return Poll::Pending;
            }
        }
    }

    fn end_by(&mut self, end: Instant) {
        let deadline = self.deadline.map_or(end, |deadline| deadline.min(end));
        self.deadline = Some(deadline);
        self.next_bookmark =
            self.next_bookmark.map(|due| due.min(next_bookmark(Instant::now(), Some(deadline))));
        (self.timer, self.armed) = (None, false);
    }

    fn is_due(&self) -> bool {
        self.timer.as_ref().is_some_and(|timer| timer.is_elapsed())
    }

    /// Ready when a bookmark or the end is due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) => timer,
            none => {
                let Some(at) = [self.deadline, self.next_bookmark].into_iter().flatten().min() else {
                    return Poll::Pending;
                };
                none.insert(Box::pin(tokio::time::sleep_until(at)))
            }
        };
        timer.as_mut().poll(cx)
    }

    /// Everything up to this revision has been handed out, apart from initial objects still to come.
    pub fn position(&self) -> Revision {
        self.position
    }

    /// The next initial objects; `None` when there are none left. May be empty when all were filtered out.
    fn initial_batch(&mut self, max: usize) -> Option<Vec<WatchItem>> {
        let items = self.next_initial(max)?;
        let objects = items.iter().filter(|item| matches!(item, WatchItem::Initial(_))).count();
        self.shared.counts.initial_events.add(objects);
        Some(items)
    }

    fn next_initial(&mut self, max: usize) -> Option<Vec<WatchItem>> {
        let initial = self.initial.as_mut()?;
        let layout = &self.shared.config.layout;
        let prefix = match &self.options.interest {
            Interest::Namespace(namespace) | Interest::Object(namespace, _) => {
                layout.namespace_prefix(namespace)
            }
            _ => layout.prefix().to_owned(),
        };
        let interest = match &self.options.interest {
            Interest::Field(index, value) => Marks::of_field(*index, value),
            _ => Marks::default(),
        };
        let marks = self.options.filter.as_ref().map(Filter::marks).unwrap_or_default().and(interest);
        let range = initial.snapshot.objects.range(&prefix, initial.next.as_deref(), marks);
        let mut items = Vec::new();
        let mut last = None;
        for (scanned, object) in range.enumerate() {
            if items.len() >= max || scanned >= MAX_SCAN.max(max) {
                initial.next = last.map(|key: &Arc<str>| format!("{key}\0").into());
                return Some(items);
            }
            last = Some(object.key());
            let matches = self.options.interest.covers(object)
                && self.options.filter.as_ref().is_none_or(|filter| filter.matches(object));
            if matches {
                items.push(WatchItem::Initial(Arc::clone(object)));
            }
        }
        if initial.mark_end {
            let revision = initial.snapshot.revision();
            items.push(WatchItem::Bookmark { revision, initial_events_end: true });
        }
        self.initial = None;
        Some(items)
    }

    /// Changes after the position; moves it.
    fn step(&mut self, max: usize) -> Result<Vec<WatchItem>, Error> {
        let mut items = Vec::new();
        loop {
            let (events, revision) = {
                let state = self.shared.state.read();
                (self.unread(&state)?, state.revision)
            };
            let drained = events.len() < MAX_SCAN;
            for event in events {
                self.position = event.revision();
                let matches = |object: &StoredObject| {
                    self.options.interest.covers(object)
                        && self.options.filter.as_ref().is_none_or(|filter| filter.matches(object))
                };
                if let Some((kind, object)) = event.seen_through(matches) {
                    let object = Arc::clone(object);
                    items.push(WatchItem::Event { kind, object, event });
                }
            }
            if drained {
                self.position = self.position.max(revision);
            }
            self.drained = drained;
            if drained || items.len() >= max {
                return Ok(items);
            }
        }
    }

    fn unread(&self, state: &State) -> Result<Vec<Arc<CacheEvent>>, Error> {
        if state.generation != self.generation {
            return Err(Error::Expired("The resourceVersion for the provided watch is too old.".into()));
        }
        state.after(self.position, MAX_SCAN).ok_or_else(|| too_old(self.position, state.floor()))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.wakers.lock().remove(&self.options.interest, &self.subscription);
    }
}

pub(crate) fn too_old(revision: Revision, floor: Revision) -> Error {
    Error::Expired(format!("too old resource version: {revision} ({floor})"))
}

fn next_bookmark(now: Instant, deadline: Option<Instant>) -> Instant {
    let regular = now + BOOKMARK_INTERVAL;
    let last =
        deadline.and_then(|deadline| deadline.checked_sub(BOOKMARK_BEFORE_END)).filter(|last| *last > now);
    last.map_or(regular, |last| last.min(regular))
}

/// A watcher's bell.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    /// The first revision it was rung for since the watcher last looked, 0 when it was not.
    since: AtomicI64,
    /// Stays when it is rung: a watcher is mostly the same task's.
    waker: Mutex<Option<Waker>>,
}

impl Subscription {
    fn ring(&self, revision: Revision) {
        // Released even when it rings already: what was done before the ring must be seen by who silences it.
        let rung = self.since.fetch_update(Ordering::AcqRel, Ordering::Acquire, |since| {
            Some(if since == 0 { revision.0.max(1) } else { since })
        });
        if rung != Ok(0) {
            return;
        }
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Answers since when it has been ringing, if it has.
    fn silence(&self) -> Option<i64> {
        // a swap, not a store: what was done before the ring must be seen after it
        Some(self.since.swap(0, Ordering::AcqRel)).filter(|since| *since > 0)
    }

    /// The task will be woken by the next ring, and none has come.
    fn is_silent_for(&self, cx: &Context<'_>) -> bool {
        self.since.load(Ordering::Acquire) == 0
            && self.waker.lock().as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
    }

    /// Has the task woken at the next ring; `false` when it has been rung meanwhile.
    fn listen(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.waker.lock();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.since.load(Ordering::Acquire) == 0
    }
}

/// All bells, by what they are rung for.
#[derive(Default)]
pub(crate) struct Wakers {
    by_interest: ByInterest,
    /// Which selectable fields anyone is interested in, with counts.
    fields: Vec<(usize, usize)>,
    namespaces: usize,
    objects: usize,
    count: usize,
}

impl Wakers {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn add(&mut self, interest: Interest) -> Arc<Subscription> {
        let subscription = Arc::<Subscription>::default();
        self.tally(&interest, 1);
        self.by_interest.entry(interest).or_default().push(Arc::clone(&subscription));
        subscription
    }

    fn remove(&mut self, interest: &Interest, subscription: &Arc<Subscription>) {
        let Some(list) = self.by_interest.get_mut(interest) else { return };
        let Some(at) = list.iter().position(|s| Arc::ptr_eq(s, subscription)) else { return };
        list.swap_remove(at);
        if list.is_empty() {
            self.by_interest.remove(interest);
        }
        self.tally(interest, -1);
    }

    fn tally(&mut self, interest: &Interest, by: isize) {
        self.count = self.count.saturating_add_signed(by);
        match interest {
            Interest::Everything => {}
            Interest::Namespace(_) => self.namespaces = self.namespaces.saturating_add_signed(by),
            Interest::Object(..) => self.objects = self.objects.saturating_add_signed(by),
            Interest::Field(index, _) => match self.fields.iter_mut().find(|(i, _)| i == index) {
                Some((_, count)) => *count = count.saturating_add_signed(by),
                None => self.fields.push((*index, 1)),
            },
        }
    }

    /// Rings for changes.
    pub(crate) fn ring(&self, events: &[Arc<CacheEvent>]) {
        if self.count == 0 || events.is_empty() {
            return;
        }
        self.ring_one(&Interest::Everything, events[0].revision());
        for event in events {
            let (object, revision) = (event.object(), event.revision());
            if self.namespaces > 0 {
                self.ring_one(&Interest::Namespace(object.namespace().to_owned()), revision);
            }
            if self.objects > 0 {
                let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
                self.ring_one(&Interest::Object(namespace, name), revision);
            }
            for (index, _) in self.fields.iter().filter(|(_, count)| *count > 0) {
                let now = object.field(*index);
                self.ring_one(&Interest::Field(*index, now.to_owned()), revision);
                if let Some(before) = event.prev().map(|p| p.field(*index)).filter(|before| *before != now) {
                    self.ring_one(&Interest::Field(*index, before.to_owned()), revision);
                }
            }
        }
    }

    /// Rings for everyone: the state was replaced.
    pub(crate) fn ring_all(&self) {
        for subscription in self.by_interest.values().flatten() {
            subscription.ring(Revision(0));
        }
    }

    fn ring_one(&self, interest: &Interest, revision: Revision) {
        for subscription in self.by_interest.get(interest).into_iter().flatten() {
            subscription.ring(revision);
        }
    }
}

impl Shared {
    /// The cache follows the store no more.
    pub(crate) fn mark_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
        self.end_watches();
    }

    /// No watch goes on.
    pub(crate) fn end_watches(&self) {
        self.watches_ended.store(true, Ordering::Release);
        self.wakers.lock().ring_all();
    }

    /// No watch goes on after this time.
    pub(crate) fn end_watches_over(&self, over: Duration) {
        let wakers = self.wakers.lock();
        let watches = u32::try_from(wakers.len()).unwrap_or(u32::MAX).max(1);
        // whoever was first has said when
        let _ = self.watches_end.set(WatchesEnd {
            began: Instant::now(),
            over,
            watches,
            told: AtomicU32::new(0),
        });
        wakers.ring_all();
    }
}
