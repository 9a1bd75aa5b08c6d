//! What all handlers share: the resources, the store, the caches, and the rules of writing.
//!
//! One file a rule: [`create`], [`update`], [`delete`] are the write path below HTTP, [`metadata`] what is true of every
//! object's metadata, [`caches`] the watch caches by storage location, [`encode`] the bytes that reads are served from.

pub(crate) mod admit;
pub(crate) mod caches;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod encode;
pub(crate) mod manage;
pub(crate) mod metadata;
pub(crate) mod reader;
pub(crate) mod update;
pub(crate) mod values;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::Value;
use apimachinery::descriptor::{Registry, ResourceDescriptor, ServedVersion};
use apimachinery::meta::{GroupResource, GroupVersionKind, GroupVersionResource};
use apimachinery::status::Status;
use storage::Revision;
use storage::objects::{ObjectStore, WriteError};
use watchcache::StoredText;

use crate::extension::{SubresourceHandler, WriteHook};
use crate::metrics::StorageMetrics;
use caches::Caches;

/// Key of a handler: group, resource, subresource.
pub(crate) type HandlerKey = (String, String, String);

/// What plugs into the write path and the routes; set once, after the store exists that its parts read from.
#[derive(Default)]
pub(crate) struct Extensions {
    pub(crate) admission: admission::Chain,
    pub(crate) handlers: HashMap<HandlerKey, Arc<dyn SubresourceHandler>>,
    pub(crate) hooks: HashMap<(String, String), Arc<dyn WriteHook>>,
}

/// Shared state of the server.
pub(crate) struct Core {
    pub(crate) resources: Arc<Registry>,
    pub(crate) objects: ObjectStore,
    pub(crate) caches: Caches,
    /// How the store does, to be registered with the process's metrics.
    pub(crate) storage_metrics: StorageMetrics,
    pub(crate) extensions: OnceLock<Extensions>,
}

impl Core {
    /// Tells the cache of a resource, if it has one, of a value about to be written, unless the store will tell of it in
    /// another form; see [`watchcache::WatchCache::announce`].
    pub(crate) fn announce(
        &self,
        descriptor: &ResourceDescriptor,
        key: &Arc<str>,
        text: &StoredText,
        tree: &Value,
    ) {
        if self.objects.stores_as_given()
            && let Some(cached) = self.caches.running(descriptor)
        {
            cached.cache.announce(key, text, tree);
        }
    }

    /// The handler of a subresource (empty: of the whole resource).
    pub(crate) fn handler(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
    ) -> Option<Arc<dyn SubresourceHandler>> {
        let key = (group.to_owned(), resource.to_owned(), subresource.to_owned());
        self.extensions.get()?.handlers.get(&key).cloned()
    }

    /// The hook around writes of a resource.
    pub(crate) fn hook(&self, descriptor: &ResourceDescriptor) -> Option<Arc<dyn WriteHook>> {
        let key = (descriptor.group.clone(), descriptor.plural.clone());
        self.extensions.get()?.hooks.get(&key).cloned()
    }

    /// The resource and version of a name.
    pub(crate) fn target(&self, gvr: &GroupVersionResource) -> Result<Target, Status> {
        let snapshot = self.resources.snapshot();
        let descriptor = snapshot.resource(&gvr.group, &gvr.resource).ok_or_else(Status::path_not_found)?;
        let version = descriptor
            .versions
            .iter()
            .position(|v| v.version == gvr.version)
            .ok_or_else(Status::path_not_found)?;
        Ok(Target { descriptor: Arc::clone(descriptor), version })
    }
}

/// A resource in one of its versions.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) descriptor: Arc<ResourceDescriptor>,
    version: usize,
}

impl Target {
    /// The version.
    pub(crate) fn served(&self) -> &ServedVersion {
        &self.descriptor.versions[self.version]
    }

    /// The kind in this version.
    pub(crate) fn gvk(&self) -> GroupVersionKind {
        self.descriptor.gvk(&self.served().version)
    }

    /// The resource in this version.
    pub(crate) fn gvr(&self) -> GroupVersionResource {
        self.descriptor.gvr(&self.served().version)
    }

    /// `apiVersion` of objects in this version.
    pub(crate) fn api_version(&self) -> String {
        self.gvk().group_version().to_string()
    }

    /// Group and resource, as messages name it.
    pub(crate) fn group_resource(&self) -> GroupResource {
        self.descriptor.group_resource()
    }

    /// Schema and type of the stored version, for the canonical form.
    pub(crate) fn stored_version(&self) -> &ServedVersion {
        let stored = &self.descriptor.storage.gvk.version;
        self.descriptor.version(stored).unwrap_or_else(|| self.served())
    }

    /// Objects in this version are stored as they are.
    pub(crate) fn stores_served_version(&self) -> bool {
        let (served, stored) = (self.served(), &self.descriptor.storage.gvk);
        served.conversion.is_none()
            && served.version == stored.version
            && self.descriptor.kind == stored.kind
            && self.descriptor.group == stored.group
    }

    /// The 422 of field errors.
    pub(crate) fn invalid(&self, name: &str, errors: &[apimachinery::status::FieldError]) -> Status {
        Status::invalid(&self.descriptor.group, &self.descriptor.kind, name, errors)
    }

    /// The 404 of an object.
    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.group_resource(), name)
    }
}

/// About the time it takes to write an object of so many bytes: to read, complete, judge and encode it.
pub(crate) fn write_time(bytes: usize) -> Duration {
    Duration::from_nanos(20 * bytes as u64)
}

/// Puts a revision into `metadata.resourceVersion`.
pub(crate) fn set_resource_version(object: &mut Value, revision: Revision) {
    if let Some(metadata) = apimachinery::meta::metadata_mut(object) {
        metadata.insert("resourceVersion".into(), Value::from(revision.to_string()));
    }
}

/// The status of a failed write other than "exists".
pub(crate) fn write_failure(error: WriteError, resource: &GroupResource, name: &str) -> Status {
    match error {
        WriteError::Exists(_) => Status::already_exists(resource, name),
        WriteError::Contended => Status::server_timeout(resource, "update", 1),
        WriteError::Storage(error) => Status::from(watchcache::Error::Storage(error)),
    }
}

/// Whether a write failed because the object is larger than the store takes.
pub(crate) fn is_too_large<T>(written: &Result<T, WriteError>) -> bool {
    matches!(written, Err(WriteError::Storage(storage::Error::TooLarge(_))))
}

/// Takes the managed fields out of an object that is too large with them, as upstream does for the writes of clients that
/// do not apply. Whether there was something to take out.
pub(crate) fn drop_owners(params: &create::WriteParams, object: &mut Value) -> bool {
    !params.applies
        && params.manager.is_some()
        && apimachinery::meta::metadata_mut(object).is_some_and(|m| m.remove("managedFields").is_some())
}

/// Puts back the managed fields from before mutating admission when what is there now cannot be read. Most often nothing
/// has touched them, which is cheaper to see than to read them. Answers the warning to send then.
pub(crate) fn restore_managed_fields(before: Option<&Value>, object: &mut Value) -> Option<String> {
    if object.pointer("/metadata/managedFields") == before {
        return None;
    }
    apimachinery::managedfields::restore_if_invalid(before, object)
}
