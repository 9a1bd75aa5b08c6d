//! [`crate::ResourceStore`]'s side of the write path: internal reads and writes as trees.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::GroupVersionResource;
use apimachinery::status::Status;
use watchcache::{ListOptions, ReadVersion, StoredObject};

use super::create::{Place, WriteParams};
use super::update::{Change, Subject};
use super::{Core, Target};
use crate::context::RequestContext;
use crate::extension::{DeleteRequest, Mutation};
use crate::store::{Deleted, WriteOptions};

/// A change by a function.
struct Mutate<'a>(Mutation<'a>);

impl Change for Mutate<'_> {
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status> {
        (self.0)(old.cloned().unwrap_or_default())
    }
}

fn params(options: &WriteOptions) -> WriteParams {
    WriteParams {
        dry_run: options.dry_run,
        admission: options.admission,
        rules: options.rules,
        manager: options.manager.clone(),
        applies: false,
        options: None,
        url_name: None,
    }
}

/// The tree of a cached object in a version.
pub(crate) fn tree(target: &Target, object: &StoredObject) -> Result<Value, Status> {
    let mut value = object.to_value().map_err(|e| Status::internal(e.to_string()))?;
    target.served().from_storage(&mut value);
    Ok(value)
}

impl Core {
    pub(crate) async fn get_value(
        &self,
        gvr: &GroupVersionResource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Status> {
        let target = self.target(gvr)?;
        let cached = self.caches.of(&self.resources.snapshot(), &target.descriptor);
        match cached.cache.get(namespace, name, ReadVersion::Latest).await? {
            Some(object) => tree(&target, &object),
            None => Err(target.not_found(name)),
        }
    }

    pub(crate) async fn list_values(
        &self,
        gvr: &GroupVersionResource,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, Status> {
        let target = self.target(gvr)?;
        let cached = self.caches.of(&self.resources.snapshot(), &target.descriptor);
        let page = cached.cache.list(&ListOptions::all(namespace.unwrap_or(""))).await?;
        page.items.iter().map(|object| tree(&target, object)).collect()
    }

    pub(crate) async fn create_value(
        self: &Arc<Self>,
        context: &RequestContext,
        gvr: &GroupVersionResource,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let target = self.target(gvr)?;
        if let Some(map) = object.as_object_mut() {
            let gvk = target.gvk();
            map.insert("apiVersion".into(), gvk.group_version().to_string().into());
            map.insert("kind".into(), gvk.kind.into());
        }
        crate::codec::complete(&target.descriptor, target.served(), &mut object, None);
        let place = Place { context, target: &target, namespace };
        self.create(&place, object, &params(options)).await.map(|written| written.object)
    }

    #[allow(clippy::too_many_arguments, reason = "a name has three parts")]
    pub(crate) async fn update_value(
        self: &Arc<Self>,
        context: &RequestContext,
        gvr: &GroupVersionResource,
        namespace: &str,
        name: &str,
        subresource: &str,
        mutation: Mutation<'_>,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let target = self.target(gvr)?;
        let subject = Subject { place: Place { context, target: &target, namespace }, name, subresource };
        self.update(&subject, &Mutate(mutation), &params(options)).await.map(|written| written.object)
    }

    pub(crate) async fn delete_value(
        self: &Arc<Self>,
        context: &RequestContext,
        gvr: &GroupVersionResource,
        namespace: &str,
        name: &str,
        request: &DeleteRequest,
    ) -> Result<Deleted, Status> {
        let target = self.target(gvr)?;
        let subject = Subject { place: Place { context, target: &target, namespace }, name, subresource: "" };
        let params = WriteParams { dry_run: request.dry_run, rules: true, ..WriteParams::default() };
        self.delete(&subject, request, &params).await
    }
}
