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

/// An object that is looked at by itself, most often again soon: its tree is kept.
#[derive(Debug)]
struct Single(Arc<StoredObject>);

impl Content for Single {
    fn json(&self) -> Bytes {
        self.0.to_json()
    }

    fn value(&self) -> Option<Value> {
        self.0.tree().ok()
    }
}

/// An object that is looked at among many.
#[derive(Debug)]
struct Listed(Arc<StoredObject>);

impl Content for Listed {
    fn json(&self) -> Bytes {
        self.0.to_json()
    }

    fn value(&self) -> Option<Value> {
        self.0.to_value().ok()
    }
}

fn cached_object(object: &StoredObject, content: Arc<dyn Content>) -> CachedObject {
    CachedObject {
        namespace: Arc::from(object.namespace()),
        name: Arc::from(object.name()),
        revision: object.revision().0,
        content,
    }
}

fn single(object: Arc<StoredObject>) -> CachedObject {
    cached_object(&Arc::clone(&object), Arc::new(Single(object)))
}

fn listed(object: Arc<StoredObject>) -> CachedObject {
    cached_object(&Arc::clone(&object), Arc::new(Listed(object)))
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
