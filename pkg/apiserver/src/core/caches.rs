//! Watch caches, one for each place in the store; two resources that share a place share its cache.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::descriptor::{ResourceDescriptor, Resources};
use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use bytes::Bytes;
use parking_lot::RwLock;
use storage::Storage;
use storage::objects::KeyLayout;
use watchcache::{Codec, DecodeError, Decoded, FieldSource, JsonCodec, WatchCache, WatchCacheConfig};

/// Root of all keys, upstream's `--etcd-prefix` default.
const ROOT: &str = "/registry";

/// A cache and the names of the selectable fields it computes.
pub(crate) struct Cached {
    pub(crate) cache: Arc<WatchCache>,
    pub(crate) fields: Vec<String>,
    /// The resource it was started for.
    resource: GroupResource,
}

impl Cached {
    /// Place of a selectable field in the cache's order.
    pub(crate) fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f == name)
    }
}

/// The caches of a server, started when first needed.
pub(crate) struct Caches {
    storage: Arc<dyn Storage>,
    running: RwLock<Running>,
}

/// Caches by their place in the store.
#[derive(Default)]
struct Running {
    of: HashMap<String, Arc<Cached>>,
    /// No watch goes on.
    watches_ended: bool,
    /// The server has ended: nothing follows the store any more.
    stopped: bool,
}

/// Where a resource's objects are.
pub(crate) fn layout(descriptor: &ResourceDescriptor) -> KeyLayout {
    KeyLayout::new(ROOT, &descriptor.storage.prefix, descriptor.namespaced)
}

impl Caches {
    /// Over a store.
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, running: RwLock::default() }
    }

    /// The cache of a resource. `resources` is what is served, as others may share the place.
    pub(crate) fn of(&self, resources: &Resources, descriptor: &ResourceDescriptor) -> Arc<Cached> {
        let prefix = &descriptor.storage.prefix;
        if let Some(cached) = self.running.read().of.get(prefix) {
            return Arc::clone(cached);
        }
        let mut running = self.running.write();
        if let Some(cached) = running.of.get(prefix) {
            return Arc::clone(cached);
        }
        let cached = Arc::new(self.start(resources, descriptor));
        if running.watches_ended {
            cached.cache.end_watches(Duration::ZERO);
        }
        if running.stopped {
            cached.cache.cancel();
        }
        running.of.insert(prefix.clone(), Arc::clone(&cached));
        cached
    }

    fn start(&self, resources: &Resources, descriptor: &ResourceDescriptor) -> Cached {
        let sharing = resources.all.iter().filter(|d| d.storage.prefix == descriptor.storage.prefix);
        let mut fields: Vec<String> = Vec::new();
        let mut sources: Vec<FieldSource> = Vec::new();
        let mut indexed_field = None;
        for field in sharing.flat_map(|d| &d.selectable_fields).chain(&descriptor.selectable_fields) {
            if !fields.contains(&field.name) {
                indexed_field = indexed_field.or(field.indexed.then_some(fields.len()));
                fields.push(field.name.clone());
                let value = field.value;
                sources.push(Arc::new(value));
            }
        }
        let codec = Arc::new(StoredCodec { json: JsonCodec::new(sources), descriptor: descriptor.clone() });
        let config = WatchCacheConfig {
            indexed_field,
            ..WatchCacheConfig::new(descriptor.group_resource().to_string(), layout(descriptor), codec)
        };
        let resource = descriptor.group_resource();
        Cached { cache: WatchCache::start(Arc::clone(&self.storage), config), fields, resource }
    }

    /// The cache of a resource if it runs already.
    pub(crate) fn running(&self, descriptor: &ResourceDescriptor) -> Option<Arc<Cached>> {
        self.running.read().of.get(&descriptor.storage.prefix).cloned()
    }

    /// Starts every cache, and waits until they have read the store.
    pub(crate) async fn warm(
        &self,
        resources: &Resources,
        wanted: impl Fn(&ResourceDescriptor) -> bool,
        timeout: Duration,
    ) -> Result<(), Status> {
        let caches: Vec<Arc<Cached>> =
            resources.all.iter().filter(|d| wanted(d)).map(|d| self.of(resources, d)).collect();
        for cached in caches {
            cached.cache.wait_ready(timeout).await.map_err(Status::from)?;
        }
        Ok(())
    }

    /// Whether every running cache is ready.
    pub(crate) fn ready(&self) -> bool {
        self.running.read().of.values().all(|c| c.cache.is_ready())
    }

    /// Sizes of every running cache by resource (`deployments.apps`).
    pub(crate) fn stats(&self) -> Vec<(GroupResource, watchcache::Stats)> {
        self.running.read().of.values().map(|c| (c.resource.clone(), c.cache.stats())).collect()
    }

    /// Forgets the cache of a resource that is no longer served.
    pub(crate) async fn remove(&self, prefix: &str) {
        let removed = self.running.write().of.remove(prefix);
        if let Some(cached) = removed {
            cached.cache.stop().await;
        }
    }

    /// Ends every watch within this time, for good.
    pub(crate) fn end_watches(&self, over: Duration) {
        let mut running = self.running.write();
        running.watches_ended = true;
        running.of.values().for_each(|cached| cached.cache.end_watches(over));
    }

    /// Watches that are open.
    pub(crate) fn watches(&self) -> usize {
        self.running.read().of.values().map(|cached| cached.cache.watches()).sum()
    }

    /// Ends every watch and every task, for good: whoever asks for a cache later gets one that is not ready.
    pub(crate) async fn stop(&self) {
        let all: Vec<Arc<Cached>> = {
            let mut running = self.running.write();
            running.stopped = true;
            running.of.values().cloned().collect()
        };
        for cached in all {
            cached.cache.stop().await;
        }
    }
}

/// Reads stored values: our JSON, or what upstream's server wrote.
struct StoredCodec {
    json: JsonCodec,
    descriptor: ResourceDescriptor,
}

impl Codec for StoredCodec {
    fn decode(&self, _key: &str, value: &Bytes) -> Result<Decoded, DecodeError> {
        let json = crate::codec::stored_json(&self.descriptor, value).map_err(|e| DecodeError(e.message))?;
        self.json.decode_json(&json)
    }

    fn decoded(&self, value: &Bytes, tree: &Value) -> Option<Decoded> {
        Some(self.json.decoded(value.clone(), tree))
    }
}
