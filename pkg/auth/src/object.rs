//! How authorizers, token checks and admission read objects: the server's caches behind one small trait.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use async_trait::async_trait;
use bytes::Bytes;

/// An object as a cache has it, in its stored version. Cheap to clone; the tree is made on demand.
#[derive(Debug, Clone)]
pub struct CachedObject {
    /// Namespace, empty for cluster-wide objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Revision of the object's last change; equal revisions of one key mean equal content.
    pub revision: i64,
    /// What it says.
    pub content: Arc<dyn Content>,
}

impl CachedObject {
    /// The object as canonical JSON.
    pub fn json(&self) -> Bytes {
        self.content.json()
    }

    /// The object as a tree, `None` when it is none (which the store never holds).
    pub fn value(&self) -> Option<Value> {
        self.content.value()
    }
}

/// The content of a [`CachedObject`], in the forms a cache can give it.
pub trait Content: std::fmt::Debug + Send + Sync {
    /// Canonical JSON.
    fn json(&self) -> Bytes;

    /// The tree; caches keep it for objects that are asked for often.
    fn value(&self) -> Option<Value>;
}

/// JSON text.
impl Content for Bytes {
    fn json(&self) -> Bytes {
        self.clone()
    }

    fn value(&self) -> Option<Value> {
        serde_json::from_slice(self).ok()
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

    /// Objects from the cache one of whose selectable fields (`spec.nodeName`) has this value. The default reads every
    /// object; caches that know the field's values do better.
    fn select(
        &self,
        resource: &GroupResource,
        namespace: Option<&str>,
        field: &str,
        value: &str,
    ) -> Vec<CachedObject> {
        let path: Vec<&str> = field.split('.').collect();
        self.list(resource, namespace)
            .into_iter()
            .filter(|o| o.value().is_some_and(|v| apimachinery::meta::str_at(&v, &path) == value))
            .collect()
    }

    /// One object, not older than any write acknowledged before the call.
    async fn get_live(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<CachedObject>, Status>;
}

/// Objects in a map, for tests of this and other crates.
pub mod testing {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicI64, Ordering};

    use apimachinery::meta;
    use parking_lot::RwLock;

    use super::{Arc, Bytes, CachedObject, GroupResource, ObjectReader, Status, Value, async_trait};

    type Key = (GroupResource, String, String);

    /// An [`ObjectReader`] over a map.
    #[derive(Default)]
    pub struct Objects {
        objects: RwLock<BTreeMap<Key, CachedObject>>,
        revision: AtomicI64,
    }

    impl Objects {
        /// Holds these objects: group, resource, object.
        pub fn new<'a>(objects: impl IntoIterator<Item = (&'a str, &'a str, Value)>) -> Self {
            let all = Self::default();
            for (group, resource, object) in objects {
                all.put(group, resource, &object);
            }
            all
        }

        /// Adds or replaces an object.
        pub fn put(&self, group: &str, resource: &str, object: &Value) {
            let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
            let (namespace, name) = (meta::namespace(object), meta::name(object));
            let cached = CachedObject {
                namespace: namespace.into(),
                name: name.into(),
                revision,
                content: Arc::new(Bytes::from(object.to_string())),
            };
            let key = (GroupResource::new(group, resource), namespace.to_owned(), name.to_owned());
            self.objects.write().insert(key, cached);
        }

        /// Removes an object.
        pub fn remove(&self, group: &str, resource: &str, namespace: &str, name: &str) {
            self.revision.fetch_add(1, Ordering::SeqCst);
            let key = (GroupResource::new(group, resource), namespace.to_owned(), name.to_owned());
            self.objects.write().remove(&key);
        }
    }

    #[async_trait]
    impl ObjectReader for Objects {
        fn generation(&self, _resource: &GroupResource) -> i64 {
            self.revision.load(Ordering::SeqCst)
        }

        fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<CachedObject> {
            self.objects.read().get(&(resource.clone(), namespace.to_owned(), name.to_owned())).cloned()
        }

        fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<CachedObject> {
            let objects = self.objects.read();
            let wanted = |key: &&Key| key.0 == *resource && namespace.is_none_or(|n| n == key.1);
            objects.keys().filter(wanted).map(|key| objects[key].clone()).collect()
        }

        async fn get_live(
            &self,
            resource: &GroupResource,
            namespace: &str,
            name: &str,
        ) -> Result<Option<CachedObject>, Status> {
            Ok(self.get(resource, namespace, name))
        }
    }

    /// `Arc<Objects>` as the trait object most constructors take.
    pub fn reader(objects: &Arc<Objects>) -> Arc<dyn ObjectReader> {
        objects.clone()
    }
}
