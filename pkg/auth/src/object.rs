//! How authorizers, token checks and admission read objects: the server's caches behind one small trait.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use async_trait::async_trait;

/// An object as a cache has it, in its stored version. Cheap to clone; the tree is made on demand.
#[derive(Debug, Clone)]
pub struct CachedObject {
    /// Namespace, empty for cluster-wide objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Revision of the object's last change; equal revisions of one key mean equal content.
    pub revision: i64,
    /// Canonical JSON.
    pub json: bytes::Bytes,
}

impl CachedObject {
    /// The object as a tree, `None` when the bytes are not JSON (which the store never holds).
    pub fn value(&self) -> Option<Value> {
        serde_json::from_slice(&self.json).ok()
    }
}

/// Reads of built-in resources, in their stored version. The server implements it over its watch caches; tests over maps.
#[async_trait]
pub trait ObjectReader: Send + Sync + 'static {
    /// A number that grows with every change of the resource that the cache has seen, to know when to look again.
    fn generation(&self, resource: &GroupResource) -> i64;

    /// One object from the cache; namespace is empty for cluster-wide resources.
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<CachedObject>;

    /// All objects from the cache, of one namespace or (`None`) of all, in key order.
    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<CachedObject>;

    /// One object, not older than any write acknowledged before the call.
    async fn get_live(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<CachedObject>, Status>;
}
