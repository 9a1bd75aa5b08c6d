//! A store with objects in it, a cache over it, and a store that can fail.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apimachinery::{Value, json};
use async_trait::async_trait;
use futures::StreamExt as _;
use parking_lot::Mutex;
use storage::embedded::{Embedded, Options};
use storage::objects::KeyLayout;
use storage::{
    Compare, Error, LeaseId, Op, RangeRequest, RangeResponse, Revision, Storage, TxnResponse, WatchStream,
};
use tokio::sync::watch;
use watchcache::{FieldSource, JsonCodec, StoredObject, WatchCache, WatchCacheConfig, WatchItem, Watcher};

/// A store of `things` in namespaces, selectable by `spec.node`.
pub(crate) struct World {
    pub(crate) storage: Arc<Flaky>,
    pub(crate) cache: Arc<WatchCache>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut WatchCacheConfig)) -> Self {
        let storage = Arc::new(Flaky::new(Embedded::in_memory(Options::default())));
        Self::over(storage, change).await
    }

    pub(crate) async fn over(storage: Arc<Flaky>, change: impl FnOnce(&mut WatchCacheConfig)) -> Self {
        let layout = KeyLayout::new("/registry", "things", true);
        let node: FieldSource = Arc::new(|o: &Value| o["spec"]["node"].as_str().unwrap_or("").to_owned());
        let mut config = WatchCacheConfig::new("things", layout, Arc::new(JsonCodec::new(vec![node])));
        change(&mut config);
        let cache = WatchCache::start(Arc::<Flaky>::clone(&storage), config);
        cache.wait_ready(std::time::Duration::from_secs(5)).await.unwrap();
        Self { storage, cache }
    }

    pub(crate) async fn put(&self, namespace: &str, name: &str, node: &str) -> Revision {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Thing",
            "metadata": {"labels": {"node": node}, "name": name, "namespace": namespace, "uid": "u"},
            "spec": {"node": node},
        });
        self.put_raw(&format!("{namespace}/{name}"), object.to_string()).await
    }

    pub(crate) async fn put_raw(&self, path: &str, value: String) -> Revision {
        let op = Op::Put { key: format!("/registry/things/{path}").into(), value: value.into(), lease: None };
        self.storage.txn(Vec::new(), vec![op]).await.unwrap().revision
    }

    pub(crate) async fn delete(&self, namespace: &str, name: &str) -> Revision {
        let op = Op::Delete { key: format!("/registry/things/{namespace}/{name}").into() };
        self.storage.txn(Vec::new(), vec![op]).await.unwrap().revision
    }

    /// A write elsewhere in the store.
    pub(crate) async fn elsewhere(&self) -> Revision {
        let op = Op::Put { key: "/registry/others/x".into(), value: "{}".into(), lease: None };
        self.storage.txn(Vec::new(), vec![op]).await.unwrap().revision
    }
}

/// `ns/name@revision:node`.
pub(crate) fn show(object: &StoredObject) -> String {
    let tree: Value = serde_json::from_slice(&object.to_json()).unwrap();
    assert_eq!(tree["metadata"]["resourceVersion"], object.revision().to_string());
    assert_eq!(tree, object.to_value().unwrap());
    format!("{}/{}@{}:{}", object.namespace(), object.name(), object.revision(), object.field(0))
}

pub(crate) fn show_item(item: &WatchItem) -> String {
    match item {
        WatchItem::Initial(object) => format!("INITIAL {}", show(object)),
        WatchItem::Event { kind, object, event } => {
            assert_eq!(object.revision(), event.revision());
            format!("{} {}", kind.as_str(), show(object))
        }
        WatchItem::Bookmark { revision, initial_events_end: true } => format!("END {revision}"),
        WatchItem::Bookmark { revision, .. } => format!("BOOKMARK {revision}"),
    }
}

/// The next `n` things a watcher is told.
pub(crate) async fn take(watcher: &mut Watcher, n: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < n {
        let next =
            tokio::time::timeout(std::time::Duration::from_secs(100), watcher.next_batch(n - all.len()));
        let batch = next.await.expect("a watch delivers").expect("a watch goes on").unwrap();
        all.extend(batch.iter().map(show_item));
    }
    all
}

/// An engine whose watches can be broken, and which can be unreachable.
pub(crate) struct Flaky {
    inner: Arc<Embedded>,
    down: AtomicBool,
    /// Watches opened before this changed end with the error in it.
    broken: watch::Sender<Option<Error>>,
    pub(crate) watches: Mutex<Vec<Revision>>,
}

impl Flaky {
    pub(crate) fn new(inner: Arc<Embedded>) -> Self {
        Self {
            inner,
            down: AtomicBool::new(false),
            broken: watch::Sender::new(None),
            watches: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn break_watches(&self, error: Error) {
        self.broken.send_replace(Some(error));
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), Error> {
        if self.down.load(Ordering::SeqCst) { Err(Error::Unavailable("down".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Storage for Flaky {
    async fn current_revision(&self) -> Result<Revision, Error> {
        self.check()?;
        self.inner.current_revision().await
    }
    async fn freshness(&self, prefix: &str) -> Result<storage::Freshness, Error> {
        self.check()?;
        self.inner.freshness(prefix).await
    }
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.check()?;
        self.inner.range(request).await
    }
    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnResponse, Error> {
        self.inner.txn(compares, ops).await
    }
    async fn watch(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        self.check()?;
        self.watches.lock().push(start);
        let stream = self.inner.watch(prefix, start).await?;
        let mut broken = self.broken.subscribe();
        broken.mark_unchanged();
        let end = async move {
            let _ = broken.changed().await;
            Err(broken.borrow().clone().unwrap_or(Error::Closed))
        };
        let end = futures::stream::once(end).map(Some).chain(futures::stream::once(async { None }));
        let stream = futures::stream::select(stream.map(Some), end);
        Ok(Box::pin(stream.take_while(|m| std::future::ready(m.is_some())).filter_map(std::future::ready)))
    }
    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }
    async fn grant_lease(&self, ttl_seconds: i64) -> Result<LeaseId, Error> {
        self.inner.grant_lease(ttl_seconds).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    async fn size(&self) -> Result<u64, Error> {
        self.inner.size().await
    }
}
