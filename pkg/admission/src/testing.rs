//! A source of objects over a map, and requests in one line, for the tests of plugins.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, GroupVersionKind, GroupVersionResource};
use apimachinery::status::Status;
use async_trait::async_trait;
use auth::object::testing::Objects;
use auth::{CachedObject, ObjectReader, UserInfo};
use parking_lot::Mutex;

use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Plugin};

/// [`ObjectSource`] over [`Objects`] that remembers what was written.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) objects: Objects,
    pub(crate) written: Mutex<Vec<Value>>,
}

impl Source {
    pub(crate) fn new<'a>(objects: impl IntoIterator<Item = (&'a str, &'a str, Value)>) -> Arc<Self> {
        Arc::new(Self { objects: Objects::new(objects), written: Mutex::default() })
    }
}

#[async_trait]
impl ObjectReader for Source {
    fn generation(&self, resource: &GroupResource) -> i64 {
        self.objects.generation(resource)
    }

    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<CachedObject> {
        self.objects.get(resource, namespace, name)
    }

    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<CachedObject> {
        self.objects.list(resource, namespace)
    }

    async fn get_live(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<CachedObject>, Status> {
        self.objects.get_live(resource, namespace, name).await
    }
}

#[async_trait]
impl ObjectSource for Source {
    async fn update(
        &self,
        resource: &GroupResource,
        _subresource: &str,
        object: Value,
    ) -> Result<Value, Status> {
        self.objects.put(&resource.group, &resource.resource, &object);
        self.written.lock().push(object.clone());
        Ok(object)
    }

    async fn create(&self, resource: &GroupResource, object: Value) -> Result<Value, Status> {
        self.objects.put(&resource.group, &resource.resource, &object);
        self.written.lock().push(object.clone());
        Ok(object)
    }

    async fn list_live(
        &self,
        resource: &GroupResource,
        namespace: Option<&str>,
    ) -> Result<Vec<CachedObject>, Status> {
        Ok(self.list(resource, namespace))
    }
}

/// A request about `group/resource[/subresource]`; name and namespace come from the object.
pub(crate) fn request<'a>(
    operation: Operation,
    resource: &str,
    user: &'a UserInfo,
    object: Option<Value>,
    old: Option<&'a Value>,
) -> AdmissionRequest<'a> {
    let mut parts = resource.split('/');
    let group = parts.next().unwrap_or("").to_owned();
    let plural = parts.next().unwrap_or("").to_owned();
    let subresource = parts.next().unwrap_or("").to_owned();
    let shown = object.as_ref().or(old).cloned().unwrap_or(Value::Null);
    let kind = apimachinery::meta::str_at(&shown, &["kind"]).to_owned();
    AdmissionRequest {
        operation,
        gvr: GroupVersionResource::new(group.clone(), "v1", plural),
        gvk: GroupVersionKind::new(group, "v1", kind),
        subresource,
        namespace: apimachinery::meta::namespace(&shown).to_owned(),
        name: apimachinery::meta::name(&shown).to_owned(),
        object,
        old_object: old,
        options: None,
        user,
        dry_run: false,
    }
}

/// Both phases; gives the object as it came out, or the message of the refusal.
pub(crate) async fn run(plugin: &dyn Plugin, mut request: AdmissionRequest<'_>) -> Result<Value, String> {
    let mut notes = Notes::default();
    if plugin.handles(request.operation) {
        plugin.admit(&mut request, &mut notes).await.map_err(|s| s.message)?;
        plugin.validate(&request, &mut notes).await.map_err(|s| s.message)?;
    }
    Ok(request.object.unwrap_or(Value::Null))
}
