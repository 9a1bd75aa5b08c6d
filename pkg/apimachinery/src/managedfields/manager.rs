//! What the server calls on every write.

use jiff::Timestamp;

use super::fieldpath::Set;
use crate::Value;
use crate::schema::{NodeId, Schema};
use crate::status::{FieldError, Status};

/// Access to the other served versions of the kind being written, as entries recorded at them have to be compared at
/// them.
pub trait Versions {
    /// Schema and root type of the kind at `api_version` (`apps/v1`). `None` when that version is not served: entries
    /// recorded at it are dropped, as upstream does.
    fn schema(&self, api_version: &str) -> Option<(&Schema, NodeId)>;

    /// The object at `api_version`, for which [`Versions::schema`] knows a schema.
    ///
    /// # Errors
    /// Whatever conversion fails with; the write is then recorded as if nothing changed (update) or fails (apply).
    fn convert(&self, object: &Value, api_version: &str) -> Result<Value, Status>;
}

/// For kinds served in one version.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoOtherVersions;

impl Versions for NoOtherVersions {
    fn schema(&self, _api_version: &str) -> Option<(&Schema, NodeId)> {
        None
    }

    fn convert(&self, _object: &Value, api_version: &str) -> Result<Value, Status> {
        Err(Status::internal(format!("no conversion to {api_version}")))
    }
}

/// Fields an endpoint resets on write, and which its writers therefore never own
/// (`rest.ResetFieldsStrategy`, `rest.ResetFieldsFilterStrategy`).
#[derive(Debug, Clone, Default)]
pub enum ResetFields {
    /// Nothing is reset.
    #[default]
    None,
    /// These fields and all below them: `status` for a resource, `spec` and parts of metadata for its `/status`.
    Except(Set),
    /// Everything but the fields that match one of these paths, where `*` stands for any one element, and what is
    /// below or above them: pods' `/resize` and `/ephemeralcontainers`.
    Only(Vec<Vec<String>>),
}

impl ResetFields {
    /// [`ResetFields::Except`] from dotted paths of field names: `["status"]`, `["spec", "metadata.finalizers"]`.
    pub fn except(_paths: &[&str]) -> Self {
        Self::None
    }

    /// [`ResetFields::Only`] from dotted paths: `["spec.containers.*.resources"]`.
    pub fn only(paths: &[&str]) -> Self {
        Self::Only(paths.iter().map(|p| p.split('.').map(str::to_owned).collect()).collect())
    }
}

/// One write, as the field manager needs to know it.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// Schema of the request's version.
    pub schema: &'a Schema,
    /// Type of the object in it.
    pub root: NodeId,
    /// `apiVersion` of the request; all objects handed in are at this version.
    pub api_version: &'a str,
    /// Kind of the object.
    pub kind: &'a str,
    /// Subresource written, `""` for the resource itself.
    pub subresource: &'a str,
    /// Who writes: [`manager_name`] for updates, the `fieldManager` parameter for apply.
    pub manager: &'a str,
    /// Time of the request; recorded in whole seconds.
    pub now: Timestamp,
    /// What the endpoint resets.
    pub reset_fields: &'a ResetFields,
    /// The other versions.
    pub versions: &'a dyn Versions,
}

/// Records a create (`live` is `None`), update or non-apply patch in `new.metadata.managedFields`.
///
/// Called on the object as decoded and patched, before admission and before the strategy resets anything, as upstream
/// does. Never fails: when ownership cannot be computed, the live object's managed fields are kept.
pub fn on_update(_live: Option<&Value>, _new: &mut Value, _write: &Write<'_>) {}

/// Server-side apply: `applied` (which names only what its manager wants) merged into `live` (`None`: the object is
/// to be created), with `metadata.managedFields` set. `default` fills in defaults in the request's version, as the
/// server does after decoding. An apply that changes nothing answers the live object.
///
/// # Errors
/// 400 for a configuration of another kind or version or with managed fields, 409 with one cause a conflict,
/// 500 (`failed to create typed patch object ...`) when it does not fit the schema.
pub fn on_apply(
    live: Option<&Value>,
    applied: &Value,
    _force: bool,
    _default: &dyn Fn(&mut Value),
    _write: &Write<'_>,
) -> Result<Value, Status> {
    Ok(live.unwrap_or(applied).clone())
}

/// The manager's name of a write: `field_manager` (the query parameter) or else the user agent up to its first slash,
/// cut to 128 bytes, unprintable characters left out.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    let _ = user_agent;
    field_manager.to_owned()
}

/// Gives `new` the managed fields of `old` when the two differ in nothing but the times of managed fields entries, so
/// that the write is recognised as one that changes nothing. Called after admission, before the store is written.
pub fn ignore_timestamps(_old: &Value, _new: &mut Value) {}

/// Puts back the managed fields from before mutating admission when a webhook left ones that cannot be decoded.
pub fn restore_if_invalid(_before: Option<&Value>, _object: &mut Value) {}

/// Problems of `metadata.managedFields` as a client may send them (`ValidateManagedFields`).
pub fn validate(_managed_fields: &Value, _path: &str) -> Vec<FieldError> {
    Vec::new()
}
