//! The cache's face: reads at any resourceVersion, and where watches begin.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::Value;
use parking_lot::{Mutex, RwLock};
use storage::objects::KeyLayout;
use storage::{Revision, Storage};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announced::Announced;
use crate::counts::Counts;
use crate::error::Error;
use crate::kept::Budget;
use crate::object::{Codec, Decoded, StoredObject, StoredText};
use crate::objects::{Marks, Objects};
use crate::pump;
use crate::state::{RingLimits, State};
use crate::token::Continue;
use crate::watcher::{Interest, Wakers, WatchOptions, Watcher, WatchesEnd};

/// A read waits this long for the cache to reach a revision, as upstream's does.
const WAIT_FOR_REVISION: Duration = Duration::from_secs(3);
/// While a read waits for a revision, the engine is asked how far it is this often.
const ASK_FOR_PROGRESS: Duration = Duration::from_millis(100);
/// A read waits this long for the cache's first list.
const WAIT_FOR_READY: Duration = Duration::from_secs(10);

/// What a cache is to hold, and how much.
#[derive(Clone)]
pub struct WatchCacheConfig {
    /// The resource's name in logs, such as `deployments.apps`.
    pub resource: String,
    /// Where its objects are.
    pub layout: KeyLayout,
    /// Decodes its values.
    pub codec: Arc<dyn Codec>,
    /// A selectable field, by its place in the codec's order, by whose value objects are found without passing by others.
    pub indexed_field: Option<usize>,
    /// Limits of the ring of recent changes.
    pub ring: RingLimits,
    /// Bytes of encodings kept beside the stored JSON, if the JSON's size is not more.
    pub representation_bytes: usize,
}

impl WatchCacheConfig {
    /// A cache of a resource with default limits.
    pub fn new(resource: impl Into<String>, layout: KeyLayout, codec: Arc<dyn Codec>) -> Self {
        const REPRESENTATION_BYTES: usize = 32 * 1024 * 1024;
        Self {
            resource: resource.into(),
            layout,
            codec,
            indexed_field: None,
            ring: RingLimits::default(),
            representation_bytes: REPRESENTATION_BYTES,
        }
    }
}

/// Which state a read wants; from `resourceVersion` and `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadVersion {
    /// No resourceVersion: not older than any write acknowledged before the read.
    Latest,
    /// `0`: whatever is at hand.
    Any,
    /// This revision or a later one.
    NotOlderThan(Revision),
    /// This very revision.
    Exact(Revision),
}

/// A predicate over objects: selectors, compiled.
#[derive(Clone)]
pub struct Filter {
    marks: Marks,
    matches: Arc<dyn Fn(&StoredObject) -> bool + Send + Sync>,
}

impl Filter {
    /// A predicate. It is asked of every object.
    pub fn new(matches: impl Fn(&StoredObject) -> bool + Send + Sync + 'static) -> Self {
        Self { marks: Marks::default(), matches: Arc::new(matches) }
    }

    /// What a predicate and perhaps another one both hold for.
    pub fn all(other: Option<Self>, matches: impl Fn(&StoredObject) -> bool + Send + Sync + 'static) -> Self {
        let Some(Self { marks, matches: others }) = other else { return Self::new(matches) };
        Self::new(move |object| matches(object) && others(object)).of_those_with(marks)
    }

    /// It need not be asked of objects without these marks.
    #[must_use]
    pub fn of_those_with(self, marks: Marks) -> Self {
        Self { marks: self.marks.and(marks), ..self }
    }

    /// What all objects have that match.
    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    /// Whether an object matches.
    pub fn matches(&self, object: &StoredObject) -> bool {
        (self.matches)(object)
    }
}

/// What a list asks for.
#[derive(Clone)]
pub struct ListOptions {
    /// Only this namespace; empty is all.
    pub namespace: String,
    /// Only the object of this name (a field selector on `metadata.name`); with a namespace a look-up.
    pub name: Option<String>,
    /// The state wanted; not looked at when `continue_token` is given.
    pub version: ReadVersion,
    /// At most this many objects, 0 is no limit. With [`ReadVersion::Any`] it is not applied, as upstream's cache.
    pub limit: usize,
    /// Go on from here.
    pub continue_token: Option<String>,
    /// Only objects that match.
    pub filter: Option<Filter>,
}

impl ListOptions {
    /// Everything in a namespace (empty: in all), not older than any acknowledged write.
    pub fn all(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: None,
            version: ReadVersion::Latest,
            limit: 0,
            continue_token: None,
            filter: None,
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct ListPage {
    /// The objects, in key order.
    pub items: Vec<Arc<StoredObject>>,
    /// `metadata.resourceVersion` of the list.
    pub revision: Revision,
    /// `metadata.continue`, empty at the end.
    pub continue_token: String,
    /// `metadata.remainingItemCount`; not known with a filter, absent at the end.
    pub remaining: Option<usize>,
}

/// All objects of the resource at one revision. Cheap to take and to hold.
#[derive(Debug, Clone)]
pub struct Snapshot {
    layout: KeyLayout,
    pub(crate) objects: Objects,
    revision: Revision,
}

impl Snapshot {
    /// The revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Objects in key order, of a namespace or (empty) of all.
    pub fn iter(&self, namespace: &str) -> impl Iterator<Item = Arc<StoredObject>> + '_ {
        let prefix = self.layout.namespace_prefix(namespace);
        self.objects.range(&prefix, None, Marks::default()).map(Arc::clone)
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<StoredObject>> {
        self.objects.get(&self.layout.key(namespace, name)).cloned()
    }
}

/// Sizes of a cache, and what it has done since it was started, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Objects held.
    pub objects: usize,
    /// Bytes of their JSON.
    pub bytes: usize,
    /// Revision reached.
    pub revision: Revision,
    /// Changes in the ring.
    pub ring_events: usize,
    /// Bytes of objects in the ring.
    pub ring_bytes: usize,
    /// Bytes of encodings kept.
    pub representation_bytes: usize,
    /// Open watches.
    pub watchers: usize,
    /// Fresh starts, the first included: each further one ended all watches.
    pub starts: u64,
    /// Changes taken in.
    pub events: u64,
    /// Values that could not be decoded.
    pub undecodable: u64,
    /// Objects sent to watches as they began.
    pub initial_events: u64,
    /// Lists answered.
    pub lists: u64,
    /// Objects that lists looked at.
    pub looked_at: u64,
    /// Objects that lists answered.
    pub listed: u64,
}

/// A cache of one resource. Stops when dropped or [`WatchCache::stop`]ped.
pub struct WatchCache {
    pub(crate) shared: Arc<Shared>,
    tasks: TaskTracker,
    /// Held by who makes encodings of many objects.
    encoding: tokio::sync::Mutex<()>,
}

/// What the cache, its pump and its watchers share.
pub(crate) struct Shared {
    pub(crate) config: WatchCacheConfig,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) state: RwLock<State>,
    pub(crate) wakers: Mutex<Wakers>,
    /// Whom changes up to this revision concern has been told.
    pub(crate) rung: AtomicI64,
    /// Revision and generation reached; what reads wait on.
    pub(crate) reached: watch::Sender<(u64, Revision)>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) announced: Announced,
    pub(crate) counts: Counts,
    pub(crate) stop: CancellationToken,
    pub(crate) relist: Notify,
    /// Held by whoever extends the ring into the past: one is enough.
    pub(crate) reaching_back: tokio::sync::Mutex<()>,
    pub(crate) stopped: AtomicBool,
    /// True with `stopped` at the latest.
    pub(crate) watches_ended: AtomicBool,
    /// Watches are ending one by one.
    pub(crate) watches_end: OnceLock<WatchesEnd>,
}

impl WatchCache {
    /// Starts a cache: lists and follows the store until stopped.
    pub fn start(storage: Arc<dyn Storage>, config: WatchCacheConfig) -> Arc<Self> {
        let shared = Arc::new(Shared {
            budget: Arc::new(Budget::new(config.representation_bytes)),
            state: RwLock::new(State::new(config.ring)),
            config,
            storage,
            wakers: Mutex::new(Wakers::default()),
            rung: AtomicI64::new(0),
            announced: Announced::default(),
            counts: Counts::default(),
            reached: watch::Sender::new((0, Revision(0))),
            stop: CancellationToken::new(),
            relist: Notify::new(),
            reaching_back: tokio::sync::Mutex::new(()),
            stopped: AtomicBool::new(false),
            watches_ended: AtomicBool::new(false),
            watches_end: OnceLock::new(),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(pump::run(Arc::clone(&shared)));
        tasks.close();
        Arc::new(Self { shared, tasks, encoding: tokio::sync::Mutex::default() })
    }

    /// Ends every watch within this time, one after the other, and then those begun later at once. Reads go on.
    pub fn end_watches(&self, over: Duration) {
        if over.is_zero() {
            self.shared.end_watches();
        } else {
            self.shared.end_watches_over(over);
        }
    }

    /// Watches that are open.
    pub fn watches(&self) -> usize {
        self.shared.wakers.lock().len()
    }

    /// Ends every watch and the task that follows the store.
    pub fn cancel(&self) {
        self.shared.stop.cancel();
    }

    /// Ends every watch and the task that follows the store, and waits for it.
    pub async fn stop(&self) {
        self.cancel();
        self.tasks.wait().await;
    }

    /// Where the resource's objects are.
    pub fn layout(&self) -> &KeyLayout {
        &self.shared.config.layout
    }

    /// Whether the first list has been read.
    pub fn is_ready(&self) -> bool {
        self.shared.reached.borrow().0 > 0
    }

    /// Waits for the first list.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), Error> {
        let mut reached = self.shared.reached.subscribe();
        match tokio::time::timeout(timeout, reached.wait_for(|(generation, _)| *generation > 0)).await {
            Ok(Ok(_)) if !self.shared.stopped.load(Ordering::Acquire) => Ok(()),
            _ => Err(Error::NotReady),
        }
    }

    /// One object, `None` when there is none. [`ReadVersion::Exact`] is answered when the revision is still held.
    pub async fn get(
        &self,
        namespace: &str,
        name: &str,
        version: ReadVersion,
    ) -> Result<Option<Arc<StoredObject>>, Error> {
        let key = self.layout().key(namespace, name);
        if let ReadVersion::Exact(_) = version {
            return Ok(self.read(version).await?.objects.get(&key).cloned());
        }
        self.wait_for(version).await?;
        let state = self.shared.state.read();
        match state.objects.get(&key) {
            None if !state.broken.is_empty() => match state.broken.get(&*key) {
                Some(message) => Err(Error::Undecodable { key: key.to_string(), message: message.clone() }),
                None => Ok(None),
            },
            found => Ok(found.cloned()),
        }
    }

    /// A snapshot of all objects. Exact revisions no longer held are read from the store.
    pub async fn read(&self, version: ReadVersion) -> Result<Snapshot, Error> {
        self.wait_for(version).await?;
        if let ReadVersion::Exact(revision) = version {
            let held = self.shared.state.write().at(revision, std::time::Instant::now());
            let objects = match held {
                Some(objects) => objects,
                None => pump::list_at(&self.shared, Some(revision)).await?.0,
            };
            return Ok(Snapshot { layout: self.layout().clone(), objects, revision });
        }
        let state = self.shared.state.read();
        if let Some((key, message)) = state.broken.first_key_value() {
            return Err(Error::Undecodable { key: key.to_string(), message: message.clone() });
        }
        let (objects, revision) = (state.objects.clone(), state.revision);
        Ok(Snapshot { layout: self.layout().clone(), objects, revision })
    }

    /// A page of objects.
    pub async fn list(&self, options: &ListOptions) -> Result<ListPage, Error> {
        let prefix = self.layout().namespace_prefix(&options.namespace);
        let mut limit = options.limit;
        let (snapshot, start) = match options.continue_token.as_deref().filter(|t| !t.is_empty()) {
            None => {
                if options.version == ReadVersion::Any {
                    limit = 0;
                }
                (self.read(options.version).await?, None)
            }
            Some(token) => {
                let token = Continue::decode(token)?;
                let snapshot = self.read_for_token(&token).await?;
                (snapshot, Some(format!("{prefix}{}", token.start)))
            }
        };
        let (page, looked_at) = select(&snapshot, &prefix, start.as_deref(), limit, options);
        let counts = &self.shared.counts;
        counts.lists.add(1);
        counts.looked_at.add(looked_at);
        counts.listed.add(page.items.len());
        if !page.continue_token.is_empty() {
            self.shared.state.write().pin(snapshot.revision, &snapshot.objects, std::time::Instant::now());
        }
        Ok(page)
    }

    /// For who is about to ask for encodings of many objects ([`StoredObject::representation`]): many informers start at
    /// once, and each encoding shall be made once. The answer is the turn to make them, to be held meanwhile; `None`,
    /// after some time, when another has just made some.
    pub async fn turn_to_encode(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if let Ok(turn) = self.encoding.try_lock() {
            return Some(turn);
        }
        drop(self.encoding.lock().await);
        None
    }

    /// Tells of a value that is about to be written under a key, with its tree, so that it need not be decoded when the
    /// store tells of it. It does no harm when the write then fails.
    pub fn announce(&self, key: &Arc<str>, text: &StoredText, tree: &Value) {
        if let Some(decoded) = self.shared.config.codec.decoded(text.json(), tree) {
            let splice = Some(text.splice);
            self.shared.announced.put(Arc::clone(key), Decoded { splice, ..decoded });
        }
    }

    /// Begins a watch.
    pub async fn watch(&self, options: WatchOptions) -> Result<Watcher, Error> {
        Watcher::begin(self, options).await
    }

    /// The objects as the cache has them at this moment, however old.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.shared.state.read();
        Snapshot { layout: self.layout().clone(), objects: state.objects.clone(), revision: state.revision }
    }

    /// The revision of the last change of the resource that the cache has seen; equal numbers mean equal objects.
    pub fn last_change(&self) -> Revision {
        self.shared.state.read().last_change()
    }

    /// Sizes, for metrics.
    pub fn stats(&self) -> Stats {
        let (state, counts) = (self.shared.state.read(), &self.shared.counts);
        Stats {
            objects: state.objects.len(),
            bytes: state.bytes,
            revision: state.revision,
            ring_events: state.ring_len(),
            ring_bytes: state.ring_bytes(),
            representation_bytes: self.shared.budget.used(),
            watchers: self.shared.wakers.lock().len(),
            starts: state.generation,
            events: counts.events.get(),
            undecodable: counts.undecodable.get(),
            initial_events: counts.initial_events.get(),
            lists: counts.lists.get(),
            looked_at: counts.looked_at.get(),
            listed: counts.listed.get(),
        }
    }

    async fn read_for_token(&self, token: &Continue) -> Result<Snapshot, Error> {
        let Some(revision) = token.revision else { return self.read(ReadVersion::Latest).await };
        match self.read(ReadVersion::Exact(revision)).await {
            Err(Error::Expired(_) | Error::Storage(storage::Error::Compacted { .. })) => {
                let inconsistent = Continue { start: token.start.clone(), revision: None };
                Err(Error::ContinueExpired {
                    message: CONTINUE_EXPIRED.into(),
                    inconsistent_continue: inconsistent.encode(),
                })
            }
            other => other,
        }
    }

    /// Waits until the cache can answer a read.
    pub(crate) async fn wait_for(&self, version: ReadVersion) -> Result<(), Error> {
        if !self.is_ready() {
            self.wait_ready(WAIT_FOR_READY).await?;
        }
        if self.shared.stopped.load(Ordering::Acquire) {
            return Err(Error::NotReady);
        }
        match version {
            ReadVersion::Any => Ok(()),
            ReadVersion::Latest => self.wait_for_latest().await,
            ReadVersion::NotOlderThan(revision) | ReadVersion::Exact(revision) => {
                self.wait_for_revision(revision).await
            }
        }
    }

    async fn wait_for_latest(&self) -> Result<(), Error> {
        let before = self.shared.reached.borrow().1;
        let fresh = self.shared.storage.freshness(self.layout().prefix()).await?;
        if fresh.revision < before {
            // the store has gone back in time (restored from a backup): what is cached never happened
            self.shared.relist.notify_one();
            return Err(Error::NotReady);
        }
        if !self.reaches(fresh.changed, Instant::now() + WAIT_FOR_REVISION).await? {
            let current = self.shared.reached.borrow().1;
            return Err(Error::TooLargeResourceVersion { requested: fresh.changed, current });
        }
        if self.shared.reached.borrow().1 < fresh.revision {
            self.shared.progress(fresh.revision);
        }
        Ok(())
    }

    /// Waits for a revision that a client names: it may be elsewhere in the store, or in the future.
    async fn wait_for_revision(&self, revision: Revision) -> Result<(), Error> {
        let deadline = Instant::now() + WAIT_FOR_REVISION;
        loop {
            if self.shared.reached.borrow().1 >= revision {
                return Ok(());
            }
            // when the store cannot say, the watch may still come to it
            if let Ok(fresh) = self.shared.storage.freshness(self.layout().prefix()).await
                && fresh.revision >= revision
                && self.reaches(fresh.changed, deadline).await?
            {
                self.shared.progress(fresh.revision);
                return Ok(());
            }
            let next = (Instant::now() + ASK_FOR_PROGRESS).min(deadline);
            if self.reaches(revision, next).await? {
                return Ok(());
            }
            if next >= deadline {
                let current = self.shared.reached.borrow().1;
                return Err(Error::TooLargeResourceVersion { requested: revision, current });
            }
        }
    }

    /// Whether the cache comes to a revision in time.
    async fn reaches(&self, revision: Revision, deadline: Instant) -> Result<bool, Error> {
        if self.shared.reached.borrow().1 >= revision {
            return Ok(true);
        }
        let mut reached = self.shared.reached.subscribe();
        match tokio::time::timeout_at(deadline, reached.wait_for(|(_, r)| *r >= revision)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(_)) => Err(Error::NotReady),
            Err(_) => Ok(false),
        }
    }
}

impl Drop for WatchCache {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    /// Notes that nothing is missing up to a revision, and lets waiting reads go on.
    pub(crate) fn progress(&self, revision: Revision) {
        self.state.write().progress(revision);
        self.publish_reached();
    }

    pub(crate) fn publish_reached(&self) {
        let state = self.state.read();
        let now = (state.generation, state.revision);
        drop(state);
        self.reached.send_if_modified(|reached| {
            let newer = *reached < now;
            if newer {
                *reached = now;
            }
            newer
        });
    }
}

/// Upstream's text; clients show it.
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can \
    start a new list without the continue parameter, or use the continue token in this response to retrieve the \
    remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
    created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// The objects of a page, and how many were looked at to find them.
fn select(
    snapshot: &Snapshot,
    prefix: &str,
    start: Option<&str>,
    limit: usize,
    options: &ListOptions,
) -> (ListPage, usize) {
    let mut page = ListPage {
        items: Vec::new(),
        revision: snapshot.revision,
        continue_token: String::new(),
        remaining: None,
    };
    let looked_at = Cell::new(0);
    let matches = |object: &StoredObject| {
        looked_at.update(|n| n + 1);
        options.name.as_deref().is_none_or(|name| object.name() == name)
            && options.filter.as_ref().is_none_or(|filter| filter.matches(object))
    };
    let unfiltered = options.filter.is_none() && options.name.is_none();
    if let (Some(name), false) = (&options.name, options.namespace.is_empty() && snapshot.layout.namespaced())
    {
        // one key, if it is not before where the list goes on
        let found = snapshot.get(&options.namespace, name);
        page.items =
            found.filter(|o| start.is_none_or(|s| &**o.key() >= s) && matches(o)).into_iter().collect();
        return (page, looked_at.get());
    }
    let marks = options.filter.as_ref().map(Filter::marks).unwrap_or_default();
    let mut candidates = snapshot.objects.range(prefix, start, marks);
    if limit == 0 {
        page.items = candidates.filter(|o| matches(o)).cloned().collect();
        return (page, looked_at.get());
    }
    page.items.extend(candidates.by_ref().filter(|o| matches(o)).take(limit).cloned());
    let rest = if unfiltered { candidates.count() } else { usize::from(candidates.any(|o| matches(o))) };
    if let (Some(last), true) = (page.items.last(), rest > 0) {
        let after = format!("{}\0", &last.key()[prefix.len()..]);
        page.continue_token = Continue { start: after, revision: Some(snapshot.revision) }.encode();
        page.remaining = unfiltered.then_some(rest);
    }
    (page, looked_at.get())
}

/// Which watchers an interest concerns; kept by the pump's side.
pub(crate) type ByInterest = HashMap<Interest, Vec<Arc<crate::watcher::Subscription>>>;
