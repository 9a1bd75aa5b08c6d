//! Reads and writes of any resource by name, for the server's own needs: subresource handlers, hooks, admission,
//! bootstrap. The same path as requests from outside, without HTTP.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::descriptor::Resources;
use apimachinery::meta::GroupVersionResource;
use apimachinery::status::Status;

use crate::context::RequestContext;
use crate::core::Core;
use crate::extension::{DeleteRequest, Mutation};

/// `metadata.uid` and `metadata.resourceVersion` an object must still have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The uid, if it matters.
    pub uid: Option<String>,
    /// The resourceVersion, if it matters.
    pub resource_version: Option<String>,
}

/// How an internal write goes.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Change nothing, answer what would be.
    pub dry_run: bool,
    /// Run the admission chain.
    pub admission: bool,
    /// Run strategy, hooks and validation. Off, the object is stored as given, as upstream's bindings and scale-like
    /// writes do that go to the storage below the registry.
    pub rules: bool,
    /// Record the changed fields in `metadata.managedFields` under this name.
    pub manager: Option<String>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { dry_run: false, admission: false, rules: true, manager: None }
    }
}

/// What a delete came to.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The object as it is now, or was last, in the version asked for.
    pub object: Value,
    /// It is gone; else it waits for finalizers or its grace period.
    pub gone: bool,
}

/// Access to every resource served. Cheap to clone.
#[derive(Clone)]
pub struct ResourceStore {
    pub(crate) core: Arc<Core>,
}

/// What a failure of the store below is to a client.
pub fn store_failure(error: storage::Error) -> Status {
    watchcache::Error::Storage(error).into()
}

impl ResourceStore {
    /// What is served now.
    pub fn resources(&self) -> Arc<Resources> {
        self.core.resources.snapshot()
    }

    /// The store below, for state that is no API object (allocation bitmaps) and for transactions of one's own.
    pub fn storage(&self) -> &Arc<dyn storage::Storage> {
        self.core.objects.storage()
    }

    /// One object in the version asked for, not older than any write acknowledged before the call; 404 without it.
    pub async fn get(
        &self,
        gvr: &GroupVersionResource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Status> {
        self.core.get_value(gvr, namespace, name).await
    }

    /// All objects of one namespace or (`None`) of all, in the version asked for and key order, not older than any
    /// write acknowledged before the call.
    pub async fn list(
        &self,
        gvr: &GroupVersionResource,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, Status> {
        self.core.list_values(gvr, namespace).await
    }

    /// Creates an object; 409 when the name is taken.
    pub async fn create(
        &self,
        context: &RequestContext,
        gvr: &GroupVersionResource,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        self.core.create_value(context, gvr, namespace, object, options).await
    }

    /// Changes an object by a function of its newest version, again after each conflict (unless the mutation keeps a
    /// resourceVersion that is no longer current: then 409).
    #[allow(clippy::too_many_arguments, reason = "a name has three parts")]
    pub async fn update(
        &self,
        context: &RequestContext,
        gvr: &GroupVersionResource,
        namespace: &str,
        name: &str,
        subresource: &str,
        mutation: Mutation<'_>,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        self.core.update_value(context, gvr, namespace, name, subresource, mutation, options).await
    }

    /// Deletes an object with all of a DELETE's semantics.
    pub async fn delete(
        &self,
        context: &RequestContext,
        gvr: &GroupVersionResource,
        namespace: &str,
        name: &str,
        request: &DeleteRequest,
    ) -> Result<Deleted, Status> {
        self.core.delete_value(context, gvr, namespace, name, request).await
    }
}
