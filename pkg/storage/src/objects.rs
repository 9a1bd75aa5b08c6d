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

use crate::{Compare, Error, KeyValue, LeaseId, Op, Revision, Storage, TxnResponse};

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

/// The form in which a value is stored, made of the one it is handed in.
pub type Encode = fn(&Bytes) -> Bytes;

/// Writes values under keys; shared by all resources of a server.
#[derive(Clone)]
pub struct ObjectStore {
    storage: Arc<dyn Storage>,
    leases: Arc<LeasePool>,
    encode: Option<Encode>,
}

impl ObjectStore {
    /// Over an engine.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { leases: Arc::new(LeasePool::new(Arc::clone(&storage))), storage, encode: None }
    }

    /// Stores values in another form than they are handed in. What is read comes in whatever form it has, and values that
    /// caches hand in may be in either.
    #[must_use]
    pub fn encoding(self, encode: Encode) -> Self {
        Self { encode: Some(encode), ..self }
    }

    fn encoded(&self, value: Bytes) -> Bytes {
        match self.encode {
            Some(encode) => encode(&value),
            None => value,
        }
    }

    /// Values are stored in the form in which they are handed in.
    pub fn stores_as_given(&self) -> bool {
        self.encode.is_none()
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
        let compare = Compare { key: Arc::clone(&key), mod_revision: Revision(0) };
        let response = self.put(compare, key, self.encoded(value), ttl_seconds).await?;
        match response.current.into_iter().next().flatten() {
            _ if response.succeeded => Ok(response.revision),
            Some(existing) => Err(WriteError::Exists(existing)),
            None => Err(WriteError::Contended),
        }
    }

    /// A conditional put under a shared lease; should the lease be gone, under a new one.
    async fn put(
        &self,
        compare: Compare,
        key: Arc<str>,
        value: Bytes,
        ttl_seconds: Option<i64>,
    ) -> Result<TxnResponse, Error> {
        let lease = self.leases.lease(ttl_seconds).await?;
        let op = |lease| Op::Put { key: Arc::clone(&key), value: value.clone(), lease };
        match self.storage.txn(vec![compare.clone()], vec![op(lease)]).await {
            Err(Error::LeaseNotFound) => {
                self.leases.forget(lease).await;
                let lease = self.leases.lease(ttl_seconds).await?;
                self.storage.txn(vec![compare], vec![op(lease)]).await
            }
            answer => answer,
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
        let encoded = self.store.encoded(value.clone());
        let same = |current: &&KeyValue| current.value == encoded || (!self.fresh && current.value == value);
        if let Some(current) = self.current.as_ref().filter(same) {
            let revision = current.mod_revision;
            if self.fresh {
                return Ok(Outcome::Done(revision));
            }
            let fresh = self.refresh().await?;
            return match fresh.current() {
                // what a cache has in the form handed in may be stored in another one still
                Some(now) if now.mod_revision == revision && now.value == encoded => {
                    Ok(Outcome::Done(revision))
                }
                _ => fresh.again().map(Outcome::Conflict),
            };
        }
        let response = self.store.put(self.compare(), Arc::clone(&self.key), encoded, ttl_seconds).await?;
        self.outcome(response)
    }

    /// Removes the key if it is still [`Attempt::current`]. The outcome's revision is the removal's.
    pub async fn delete(self) -> Result<Outcome, WriteError> {
        let delete = Op::Delete { key: Arc::clone(&self.key) };
        let response = self.store.storage.txn(vec![self.compare()], vec![delete]).await?;
        self.outcome(response)
    }

    fn compare(&self) -> Compare {
        let mod_revision = self.current.as_ref().map_or(Revision(0), |c| c.mod_revision);
        Compare { key: Arc::clone(&self.key), mod_revision }
    }

    fn outcome(self, response: TxnResponse) -> Result<Outcome, WriteError> {
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

    /// Does not hand out a lease again.
    async fn forget(&self, lease: Option<LeaseId>) {
        self.open.lock().await.retain(|_, open| Some(open.id) != lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{Embedded, Options};

    fn store() -> ObjectStore {
        ObjectStore::new(Embedded::in_memory(Options::default()))
    }

    async fn lease_count(store: &ObjectStore) -> usize {
        store.leases.open.lock().await.len()
    }

    #[test]
    fn keys_are_laid_out_as_upstreams() {
        let pods = KeyLayout::new("/registry", "pods", true);
        let services = KeyLayout::new("/registry/", "services/specs", true);
        let nodes = KeyLayout::new("/registry", "minions", false);
        assert_eq!(&*pods.key("default", "web"), "/registry/pods/default/web");
        assert_eq!(&*services.key("default", "web"), "/registry/services/specs/default/web");
        assert_eq!(&*nodes.key("", "n1"), "/registry/minions/n1");
        assert_eq!(pods.namespace_prefix("a"), "/registry/pods/a/");
        assert_eq!(pods.namespace_prefix(""), "/registry/pods/");
        assert_eq!(pods.split("/registry/pods/default/web"), Some(("default", "web")));
        assert_eq!(nodes.split("/registry/minions/n1"), Some(("", "n1")));
        for other in ["/registry/podsx/default/web", "/registry/pods/web", "/other"] {
            assert_eq!(pods.split(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn creation_answers_what_is_in_the_way() {
        let store = store();
        let first = store.create("/a".into(), "1".into(), None).await.unwrap();
        let Err(WriteError::Exists(existing)) = store.create("/a".into(), "2".into(), None).await else {
            panic!("created twice")
        };
        assert_eq!((existing.value, existing.mod_revision), ("1".into(), first));
    }

    #[tokio::test]
    async fn updates_go_on_from_what_they_find() {
        let store = store();
        store.create("/n".into(), "0".into(), None).await.unwrap();
        let count = |store: ObjectStore| async move {
            let mut conflicts = 0;
            let mut attempt = store.attempt("/n".into()).await.unwrap();
            loop {
                let now: u32 = String::from_utf8_lossy(&attempt.current().unwrap().value).parse().unwrap();
                match attempt.put((now + 1).to_string().into(), None).await.unwrap() {
                    Outcome::Done(_) => break conflicts,
                    Outcome::Conflict(next) => {
                        conflicts += 1;
                        attempt = next;
                    }
                }
            }
        };
        futures::future::join_all((0..30).map(|_| count(store.clone()))).await;
        assert_eq!(store.get("/n").await.unwrap().unwrap().value, "30");
    }

    #[tokio::test]
    async fn the_same_bytes_are_not_written_again() {
        let store = store();
        let made = store.create("/a".into(), "1".into(), None).await.unwrap();
        let attempt = store.attempt("/a".into()).await.unwrap();
        assert!(matches!(attempt.put("1".into(), None).await.unwrap(), Outcome::Done(r) if r == made));
        // from a cache: only if the cache was right
        let cached = store.get("/a").await.unwrap().unwrap();
        let attempt = store.attempt_cached(cached.clone());
        assert!(matches!(attempt.put("1".into(), None).await.unwrap(), Outcome::Done(r) if r == made));
        let attempt = store.attempt("/a".into()).await.unwrap();
        attempt.put("2".into(), None).await.unwrap();
        let Outcome::Conflict(next) = store.attempt_cached(cached).put("1".into(), None).await.unwrap()
        else {
            panic!("a stale cache was believed")
        };
        assert_eq!(next.current().unwrap().value, "2");
        assert!(matches!(next.delete().await.unwrap(), Outcome::Done(Revision(3))));
        assert_eq!(store.get("/a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn values_are_stored_in_another_form() {
        let store = store().encoding(|value| [b"x", &value[..]].concat().into());
        let made = store.create("/a".into(), "1".into(), None).await.unwrap();
        let held = store.get("/a").await.unwrap().unwrap();
        assert_eq!(held.value, "x1");
        // the same value is not written again, whichever form a cache has it in
        for cached in [held.clone(), KeyValue { value: "1".into(), ..held.clone() }] {
            let attempt = store.attempt_cached(cached);
            assert!(matches!(attempt.put("1".into(), None).await.unwrap(), Outcome::Done(r) if r == made));
        }
        // unless it is stored in the old form
        let plain = ObjectStore::new(Arc::clone(store.storage()));
        plain.attempt("/a".into()).await.unwrap().put("1".into(), None).await.unwrap();
        let cached = store.get("/a").await.unwrap().unwrap();
        let Outcome::Conflict(next) = store.attempt_cached(cached).put("1".into(), None).await.unwrap()
        else {
            panic!("a value in another form was left alone")
        };
        assert!(matches!(next.put("1".into(), None).await.unwrap(), Outcome::Done(Revision(3))));
        assert_eq!(store.get("/a").await.unwrap().unwrap().value, "x1");
    }

    #[tokio::test]
    async fn attempts_are_bounded() {
        let store = store();
        store.create("/a".into(), "0".into(), None).await.unwrap();
        let mut attempt = store.attempt("/a".into()).await.unwrap();
        for i in 1.. {
            let other = store.attempt("/a".into()).await.unwrap();
            other.put(format!("other {i}").into(), None).await.unwrap();
            attempt = match attempt.put("mine".into(), None).await {
                Ok(Outcome::Conflict(next)) => next,
                Ok(Outcome::Done(_)) => panic!("written over another's change"),
                Err(error) => {
                    assert!(matches!(error, WriteError::Contended));
                    assert_eq!(i, MAX_ATTEMPTS);
                    break;
                }
            };
        }
    }

    #[tokio::test]
    async fn leases_are_shared_by_lifetime() {
        let store = store();
        for i in 0..=LEASE_MAX_OBJECTS {
            store.create(format!("/{i}").into(), "1".into(), Some(3600)).await.unwrap();
        }
        assert_eq!(lease_count(&store).await, 1);
        store.create("/short".into(), "1".into(), Some(60)).await.unwrap();
        assert_eq!(lease_count(&store).await, 2);
        assert_eq!(
            store.storage.grant_lease(1).await.unwrap(),
            LeaseId(4),
            "two for the first lifetime, one for the other"
        );
        // a lease that is gone is replaced
        store.leases.open.lock().await.get_mut(&60).unwrap().id = LeaseId(999);
        store.create("/again".into(), "1".into(), Some(60)).await.unwrap();
        assert_eq!(store.leases.open.lock().await[&60].id, LeaseId(5));
    }
}
