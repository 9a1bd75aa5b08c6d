//! Writing objects: keys, creation, optimistic update, deletion, lifetimes.
//!
//! Keys are laid out as upstream's: `/registry/PREFIX/[NAMESPACE/]NAME`. An update is a loop the caller drives: take an
//! [`Attempt`], compute the new value from [`Attempt::current`] (asynchronously if need be), [`Attempt::put`] it, and on
//! [`Outcome::Conflict`] go on with the attempt that comes back. Values are opaque.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::{Compare, Error, KeyValue, LeaseId, Op, Revision, Storage};

/// Attempts of one update before it is given up with [`WriteError::Contended`].
pub const MAX_ATTEMPTS: u32 = 64;
/// A lease is shared by objects created within this time of its grant, as upstream does.
pub const LEASE_REUSE: Duration = Duration::from_secs(60);
/// A lease is shared by at most this many objects.
pub const LEASE_MAX_OBJECTS: u32 = 1000;

/// Where the objects of one resource are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLayout {
    prefix: String,
    namespaced: bool,
}

impl KeyLayout {
    /// The layout of a resource: `root` such as `/registry`, `resource` such as `pods` or `services/specs`.
    pub fn new(root: &str, resource: &str, namespaced: bool) -> Self {
        let prefix = format!("{}/{}/", root.trim_end_matches('/'), resource.trim_matches('/'));
        Self { prefix, namespaced }
    }

    /// Prefix of all keys, with a slash at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.namespaced
    }

    /// Prefix of the keys of a namespace; of all keys when it is empty or the resource has no namespaces.
    pub fn namespace_prefix(&self, namespace: &str) -> String {
        if namespace.is_empty() || !self.namespaced {
            self.prefix.clone()
        } else {
            format!("{}{namespace}/", self.prefix)
        }
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Arc<str> {
        let mut key = self.namespace_prefix(namespace);
        key.push_str(name);
        key.into()
    }

    /// Namespace (empty without) and name in a key of this resource, `None` when it is none.
    pub fn split<'k>(&self, key: &'k str) -> Option<(&'k str, &'k str)> {
        let rest = key.strip_prefix(self.prefix.as_str())?;
        if self.namespaced { rest.split_once('/') } else { Some(("", rest)) }
    }
}

/// Why a write was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// A creation found the key taken.
    #[error("key already exists")]
    Exists(KeyValue),
    /// Others changed the key at every one of [`MAX_ATTEMPTS`] attempts.
    #[error("the object kept changing")]
    Contended,
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// Writes values under keys; shared by all resources of a server.
#[derive(Clone)]
pub struct ObjectStore {
    storage: Arc<dyn Storage>,
    leases: Arc<LeasePool>,
}

impl ObjectStore {
    /// Over an engine.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { leases: Arc::new(LeasePool::new(Arc::clone(&storage))), storage }
    }

    /// The engine.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The current value of a key, linearizably.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.storage.get(key).await
    }

    /// Sets a key that must not exist; it vanishes after `ttl_seconds` if given. Answers the creation's revision.
    pub async fn create(
        &self,
        key: Arc<str>,
        value: Bytes,
        ttl_seconds: Option<i64>,
    ) -> Result<Revision, WriteError> {
        let lease = self.leases.lease(ttl_seconds).await?;
        let compare = Compare { key: Arc::clone(&key), mod_revision: Revision(0) };
        let response = self.storage.txn(vec![compare], vec![Op::Put { key, value, lease }]).await?;
        match response.current.into_iter().next().flatten() {
            _ if response.succeeded => Ok(response.revision),
            Some(existing) => Err(WriteError::Exists(existing)),
            None => Err(WriteError::Contended),
        }
    }

    /// Begins an update or deletion with a value from a cache, which may be stale. When the caller then refuses to go
    /// on because of what it sees in a stale value, it should [`Attempt::refresh`] first.
    pub fn attempt_cached(&self, cached: KeyValue) -> Attempt {
        let key = Arc::clone(&cached.key);
        Attempt { store: self.clone(), key, current: Some(cached), fresh: false, attempts: 0 }
    }

    /// Begins an update or deletion with the current value, read linearizably.
    pub async fn attempt(&self, key: Arc<str>) -> Result<Attempt, Error> {
        let current = self.storage.get(&key).await?;
        Ok(Attempt { store: self.clone(), key, current, fresh: true, attempts: 0 })
    }
}

/// One try at changing a key.
#[derive(Clone)]
pub struct Attempt {
    store: ObjectStore,
    key: Arc<str>,
    current: Option<KeyValue>,
    fresh: bool,
    attempts: u32,
}

/// What became of an [`Attempt`].
pub enum Outcome {
    /// Written (or nothing had to be), at this revision.
    Done(Revision),
    /// The key had changed; the new attempt holds what it is now.
    Conflict(Attempt),
}

impl Attempt {
    /// The key.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// What the change starts from, `None` when the key does not exist.
    pub fn current(&self) -> Option<&KeyValue> {
        self.current.as_ref()
    }

    /// [`Attempt::current`] was read from the engine, not from a cache.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The attempt with the value the engine has now.
    pub async fn refresh(self) -> Result<Self, Error> {
        let current = self.store.storage.get(&self.key).await?;
        Ok(Self { current, fresh: true, ..self })
    }

    /// Sets the key if it is still [`Attempt::current`]. The same bytes are not written again: the outcome is then the
    /// revision they have, checked against the engine when the attempt came from a cache.
    pub async fn put(self, value: Bytes, ttl_seconds: Option<i64>) -> Result<Outcome, WriteError> {
        if let Some(current) = self.current.as_ref().filter(|c| c.value == value) {
            let revision = current.mod_revision;
            if self.fresh {
                return Ok(Outcome::Done(revision));
            }
            let fresh = self.refresh().await?;
            return match fresh.current() {
                Some(now) if now.mod_revision == revision => Ok(Outcome::Done(revision)),
                _ => fresh.again().map(Outcome::Conflict),
            };
        }
        let lease = self.store.leases.lease(ttl_seconds).await?;
        let put = Op::Put { key: Arc::clone(&self.key), value, lease };
        self.commit(put).await
    }

    /// Removes the key if it is still [`Attempt::current`]. The outcome's revision is the removal's.
    pub async fn delete(self) -> Result<Outcome, WriteError> {
        let delete = Op::Delete { key: Arc::clone(&self.key) };
        self.commit(delete).await
    }

    async fn commit(self, op: Op) -> Result<Outcome, WriteError> {
        let mod_revision = self.current.as_ref().map_or(Revision(0), |c| c.mod_revision);
        let compare = Compare { key: Arc::clone(&self.key), mod_revision };
        let response = self.store.storage.txn(vec![compare], vec![op]).await?;
        if response.succeeded {
            return Ok(Outcome::Done(response.revision));
        }
        let current = response.current.into_iter().next().flatten();
        Self { current, fresh: true, ..self }.again().map(Outcome::Conflict)
    }

    fn again(self) -> Result<Self, WriteError> {
        let attempts = self.attempts + 1;
        if attempts < MAX_ATTEMPTS { Ok(Self { attempts, ..self }) } else { Err(WriteError::Contended) }
    }
}

/// Leases by lifetime, each shared by many objects: an engine would choke on one lease an event.
struct LeasePool {
    storage: Arc<dyn Storage>,
    open: Mutex<HashMap<i64, OpenLease>>,
}

#[derive(Debug, Clone, Copy)]
struct OpenLease {
    id: LeaseId,
    granted: Instant,
    objects: u32,
}

impl OpenLease {
    fn usable(&self, now: Instant) -> bool {
        self.objects < LEASE_MAX_OBJECTS && now.duration_since(self.granted) < LEASE_REUSE
    }
}

impl LeasePool {
    fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, open: Mutex::new(HashMap::new()) }
    }

    /// A lease that lasts at least `ttl_seconds` from now.
    async fn lease(&self, ttl_seconds: Option<i64>) -> Result<Option<LeaseId>, Error> {
        let Some(ttl) = ttl_seconds.filter(|ttl| *ttl > 0) else { return Ok(None) };
        let mut open = self.open.lock().await;
        let now = Instant::now();
        if let Some(lease) = open.get_mut(&ttl).filter(|l| l.usable(now)) {
            lease.objects += 1;
            return Ok(Some(lease.id));
        }
        // what is past reuse is of no use to any lifetime
        open.retain(|_, lease| lease.usable(now));
        let id = self.storage.grant_lease(ttl + LEASE_REUSE.as_secs().cast_signed()).await?;
        open.insert(ttl, OpenLease { id, granted: now, objects: 1 });
        Ok(Some(id))
    }
}
