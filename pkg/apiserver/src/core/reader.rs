//! The server's caches as authorizers and admission plugins read them.

use std::sync::Arc;

use admission::ObjectSource;
use apimachinery::Value;
use apimachinery::meta::{GroupResource, name as name_of, namespace as namespace_of};
use apimachinery::status::Status;
use async_trait::async_trait;
use auth::{CachedObject, Content, ObjectReader, UserInfo};
use bytes::Bytes;
use jiff::Timestamp;
use watchcache::{ReadVersion, Snapshot, StoredObject};

use super::caches::Cached;
use super::{Core, Target};
use crate::context::RequestContext;
use crate::store::WriteOptions;

/// Reads the watch caches; writes as the server itself.
#[derive(Clone)]
pub(crate) struct CacheReader {
    pub(crate) core: Arc<Core>,
}

/// The content of an object of a cache.
#[derive(Debug)]
struct Held {
    object: Arc<StoredObject>,
    /// Its tree is kept: it is looked at by itself, most often again soon.
    keep: bool,
}

impl Content for Held {
    fn json(&self) -> Bytes {
        self.object.to_json()
    }

    fn value(&self) -> Option<Value> {
        let tree = if self.keep { self.object.tree() } else { self.object.to_value() };
        tree.ok()
    }
}

fn cached_object(object: Arc<StoredObject>, keep: bool) -> CachedObject {
    CachedObject {
        namespace: Arc::from(object.namespace()),
        name: Arc::from(object.name()),
        revision: object.revision().0,
        content: Arc::new(Held { object, keep }),
    }
}

/// An object asked for by name.
fn single(object: Arc<StoredObject>) -> CachedObject {
    cached_object(object, true)
}

/// One of many.
fn listed(object: Arc<StoredObject>) -> CachedObject {
    cached_object(object, false)
}

impl CacheReader {
    fn cache(&self, resource: &GroupResource) -> Option<Arc<Cached>> {
        let resources = self.core.resources.snapshot();
        let descriptor = resources.resource(&resource.group, &resource.resource)?;
        Some(self.core.caches.of(&resources, descriptor))
    }

    fn target(&self, resource: &GroupResource) -> Result<Target, Status> {
        let resources = self.core.resources.snapshot();
        let descriptor =
            resources.resource(&resource.group, &resource.resource).ok_or_else(Status::path_not_found)?;
        self.core.target(&descriptor.gvr(&descriptor.storage.gvk.version))
    }

    fn collect(snapshot: &Snapshot, namespace: Option<&str>) -> Vec<CachedObject> {
        snapshot.iter(namespace.unwrap_or("")).map(listed).collect()
    }
}

#[async_trait]
impl ObjectReader for CacheReader {
    fn generation(&self, resource: &GroupResource) -> i64 {
        self.cache(resource).map_or(0, |c| c.cache.last_change().0)
    }

    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<CachedObject> {
        let snapshot = self.cache(resource)?.cache.snapshot();
        snapshot.get(namespace, name).map(single)
    }

    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<CachedObject> {
        self.cache(resource).map_or_else(Vec::new, |c| Self::collect(&c.cache.snapshot(), namespace))
    }

    fn select(
        &self,
        resource: &GroupResource,
        namespace: Option<&str>,
        field: &str,
        value: &str,
    ) -> Vec<CachedObject> {
        let Some(cached) = self.cache(resource) else { return Vec::new() };
        let Some(index) = cached.field(field) else { return Vec::new() };
        let snapshot = cached.cache.snapshot();
        snapshot.iter(namespace.unwrap_or("")).filter(|o| o.field(index) == value).map(listed).collect()
    }

    async fn get_live(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<CachedObject>, Status> {
        let Some(cached) = self.cache(resource) else { return Ok(None) };
        let found = cached.cache.get(namespace, name, ReadVersion::Latest).await?;
        Ok(found.map(single))
    }
}

#[async_trait]
impl ObjectSource for CacheReader {
    async fn update(
        &self,
        resource: &GroupResource,
        subresource: &str,
        object: Value,
    ) -> Result<Value, Status> {
        let target = self.target(resource)?;
        let context = RequestContext::internal(Arc::new(UserInfo::apiserver()), Timestamp::now());
        let (namespace, name) = (namespace_of(&object).to_owned(), name_of(&object).to_owned());
        self.core
            .update_value(
                &context,
                &target.gvr(),
                &namespace,
                &name,
                subresource,
                &move |_| Ok(object.clone()),
                &WriteOptions::default(),
            )
            .await
    }

    async fn create(&self, resource: &GroupResource, object: Value) -> Result<Value, Status> {
        let target = self.target(resource)?;
        let context = RequestContext::internal(Arc::new(UserInfo::apiserver()), Timestamp::now());
        let namespace = namespace_of(&object).to_owned();
        self.core.create_value(&context, &target.gvr(), &namespace, object, &WriteOptions::default()).await
    }

    async fn list_live(
        &self,
        resource: &GroupResource,
        namespace: Option<&str>,
    ) -> Result<Vec<CachedObject>, Status> {
        let Some(cached) = self.cache(resource) else { return Ok(Vec::new()) };
        let snapshot = cached.cache.read(ReadVersion::Latest).await?;
        Ok(Self::collect(&snapshot, namespace))
    }
}
