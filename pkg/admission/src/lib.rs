//! The ordered admission chain and its built-in plugins.
//!
//! A write passes two phases: every plugin may change the object in upstream's order ([`Plugin::admit`]), then every
//! plugin may refuse the final object ([`Plugin::validate`]). Plugins read the server's caches through
//! [`ObjectSource`]; webhooks and policies will be plugins like any other.
//! Source: `k8s.io/apiserver/pkg/admission`, order and default set of `k8s.io/kubernetes/pkg/kubeapiserver/options`.

pub mod chain;
mod config;
mod durations;
pub mod plugins;
#[cfg(test)]
mod testing;

pub use chain::{Chain, ConfigError};
pub use config::PluginConfigs;

use std::collections::BTreeMap;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, GroupVersionKind, GroupVersionResource};
use apimachinery::status::Status;
use async_trait::async_trait;
use auth::{ObjectReader, UserInfo};
use prometheus_client::registry::Registry;

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object, or a POST to a subresource that makes something (binding, eviction, token).
    Create,
    /// A changed object, status and other subresources included.
    Update,
    /// A removed object; `old_object` is what is removed.
    Delete,
    /// A streaming subresource (exec, attach, port-forward, proxy); the object is its options.
    Connect,
}

impl Operation {
    /// As in AdmissionReview: `CREATE`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The two walks through the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Plugins may change the object.
    Mutate,
    /// Plugins may refuse it.
    Validate,
}

impl Phase {
    /// As in upstream's metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mutate => "admit",
            Self::Validate => "validate",
        }
    }
}

/// One request on its way through the chain. Objects are in the request's version.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    /// What is done.
    pub operation: Operation,
    /// The resource.
    pub gvr: GroupVersionResource,
    /// Kind of the object (of the subresource's body where that has its own).
    pub gvk: GroupVersionKind,
    /// Subresource, empty for the resource itself.
    pub subresource: String,
    /// Namespace, empty for cluster-wide resources.
    pub namespace: String,
    /// Name; empty on create with generateName until it is generated, and on deletecollection.
    pub name: String,
    /// The object, changed in place by the mutating phase; `None` on delete.
    pub object: Option<Value>,
    /// What is there now; `None` on create and connect.
    pub old_object: Option<&'a Value>,
    /// `CreateOptions`, `UpdateOptions`, `PatchOptions` or `DeleteOptions`, `None` on connect.
    pub options: Option<&'a Value>,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Nothing is to be kept.
    pub dry_run: bool,
}

impl AdmissionRequest<'_> {
    /// Group and resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.gvr.group.clone(), self.gvr.resource.clone())
    }

    /// Whether the request is about this resource (not one of its subresources).
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is_sub(group, resource, "")
    }

    /// Whether the request is about this subresource.
    pub fn is_sub(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.gvr.group == group && self.gvr.resource == resource && self.subresource == subresource
    }

    /// The object, or null when there is none.
    pub fn object(&self) -> &Value {
        self.object.as_ref().unwrap_or(&Value::Null)
    }

    /// The object as it was, or null when there is none.
    pub fn old(&self) -> &Value {
        self.old_object.unwrap_or(&Value::Null)
    }

    /// The name messages use: an object of generateName goes by its prefix, a nameless one by `Unknown`.
    pub fn shown_name(&self) -> &str {
        let object = self.object();
        [
            self.name.as_str(),
            apimachinery::meta::name(object),
            apimachinery::meta::str_at(object, &["metadata", "generateName"]),
        ]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or("Unknown")
    }

    /// The 403 of this request: `RESOURCE "NAME" is forbidden: WHY`.
    pub fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.group_resource(), self.shown_name(), why)
    }
}

/// What plugins leave beside their verdict.
#[derive(Debug, Default)]
pub struct Notes {
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// Annotations of the audit event.
    pub audit_annotations: BTreeMap<String, String>,
}

/// What plugins may ask of the server: its caches, and the few writes admission makes itself.
#[async_trait]
pub trait ObjectSource: ObjectReader {
    /// Replaces an object (`subresource` empty) or its status with optimistic concurrency on its resourceVersion, as
    /// the server itself and without admission. Gives the stored object; 409 when it changed meanwhile.
    async fn update(
        &self,
        resource: &GroupResource,
        subresource: &str,
        object: Value,
    ) -> Result<Value, Status>;

    /// Creates an object as the server itself and without admission; 409 when it exists.
    async fn create(&self, resource: &GroupResource, object: Value) -> Result<Value, Status>;

    /// Lists objects, not older than any write acknowledged before the call.
    async fn list_live(
        &self,
        resource: &GroupResource,
        namespace: Option<&str>,
    ) -> Result<Vec<auth::CachedObject>, Status>;
}

/// One admission plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Name as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// In which phases it has a say.
    fn phases(&self) -> &'static [Phase];

    /// Whether the plugin looks at this operation at all.
    fn handles(&self, operation: Operation) -> bool;

    /// Registers metrics of the plugin's own.
    fn register(&self, _registry: &mut Registry) {}

    /// The mutating phase: may change `request.object`, or refuse.
    async fn admit(&self, _request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        Ok(())
    }

    /// The validating phase: may refuse.
    async fn validate(&self, _request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        Ok(())
    }
}
