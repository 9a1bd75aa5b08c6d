//! The three patch formats that change an object without field ownership: JSON Patch (RFC 6902), JSON merge patch
//! (RFC 7396) and strategic merge patch. Server-side apply is [`crate::managedfields::on_apply`].
//!
//! Behaviour: `k8s.io/apiserver/pkg/endpoints/handlers/patch.go` (codes and texts), `evanphx/json-patch` v4
//! (JSON Patch), `k8s.io/apimachinery/pkg/util/strategicpatch` (strategic merge).
//!
//! A body is parsed once ([`Patch::parse`]) and applied as often as the optimistic write has to be retried
//! ([`Patch::apply`]).

mod gotext;
mod json;
mod merge;
mod order;
mod strategic;

use crate::schema::{NodeId, Schema};
use crate::status::{Details, FieldError, Reason, Status};
use crate::{Map, Value};
pub(crate) use gotext::{Plain, Syntax, type_name};
pub use json::JsonPatchError;
pub(crate) use order::{compare, equal};
pub use strategic::StrategicError;

/// Most operations a JSON Patch may have.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

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
    Merge(Map),
    Strategic(Map),
}

impl Patch {
    /// Parses a body.
    ///
    /// # Errors
    /// 400 when it is malformed, 413 for a JSON Patch of more than [`MAX_JSON_PATCH_OPERATIONS`].
    pub fn parse(kind: PatchType, body: &[u8]) -> Result<Self, Status> {
        let parsed = crate::json::parse(body)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        Self::from_value(kind, parsed.value)
    }

    /// A patch from a body that was decoded already, for callers that decode strictly.
    ///
    /// # Errors
    /// As [`Patch::parse`].
    pub fn from_value(kind: PatchType, body: Value) -> Result<Self, Status> {
        let refused = |wanted: &str, got: &Value| {
            Err(Status::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type {wanted}",
                json_type(got)
            )))
        };
        let body = match (kind, body) {
            (PatchType::Json, Value::Array(operations)) => {
                if let Some(other) =
                    operations.iter().find(|operation| !operation.is_object() && !operation.is_null())
                {
                    return refused("jsonpatch.Operation", other);
                }
                if operations.len() > MAX_JSON_PATCH_OPERATIONS {
                    return Err(Status::request_too_large(format!(
                        "Request entity too large: The allowed maximum operations in a JSON patch is \
                         {MAX_JSON_PATCH_OPERATIONS}, got {}",
                        operations.len()
                    )));
                }
                Body::Json(operations.into_vec())
            }
            (PatchType::Json, other) => return refused("jsonpatch.Patch", &other),
            (PatchType::Merge, Value::Object(map)) => Body::Merge(map),
            (PatchType::StrategicMerge, Value::Object(map)) => Body::Strategic(map),
            (_, other) => return refused("map[string]interface {}", &other),
        };
        Ok(Self { body })
    }

    /// What field validation has to say about the patch itself: members of JSON Patch operations that are none.
    /// The object it leads to is checked when it is decoded.
    pub fn unknown_fields(&self) -> Vec<String> {
        let Body::Json(operations) = &self.body else { return Vec::new() };
        let mut unknown = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            for member in operation.as_object().into_iter().flat_map(Map::keys) {
                if !matches!(member.as_str(), "op" | "path" | "from" | "value") {
                    unknown.push(format!("json patch unknown field \"[{index}].{member}\""));
                }
            }
        }
        unknown
    }

    /// The patched object. `current` and the patch are in the same served version, `root` is the type of the object.
    ///
    /// # Errors
    /// 400 for what is wrong with the patch itself, 422 for an operation that cannot be applied to this object, 500
    /// (as upstream, without reason) for a strategic merge patch that does not fit the lists it patches.
    pub fn apply(&self, current: &Value, schema: &Schema, root: NodeId) -> Result<Value, Status> {
        match &self.body {
            Body::Json(operations) => {
                let mut patched = current.clone();
                json::apply(&mut patched, operations).map_err(|_| unprocessable())?;
                Ok(patched)
            }
            Body::Merge(patch) => {
                let mut patched = current.as_object().cloned().unwrap_or_default();
                merge::merge(&mut patched, patch);
                Ok(Value::Object(patched))
            }
            Body::Strategic(patch) => {
                let current = current.as_object().cloned().unwrap_or_default();
                strategic::Merger::new(schema)
                    .merge(current, patch.clone(), root)
                    .map(Value::Object)
                    .map_err(strategic_status)
            }
        }
    }

    /// The answer when the patched object cannot be decoded: 422 that shows what was decoded and `why` it failed.
    pub fn undecodable(&self, patched: &Value, why: &str) -> Status {
        let shown = match &self.body {
            Body::Json(_) | Body::Merge(_) => patched.to_string(),
            Body::Strategic(patch) => Plain(&Value::Object(patch.clone())).to_string(),
        };
        Status::invalid("", "", "", &[FieldError::invalid("patch", shown, why)])
    }
}

/// 422 with upstream's generic text, which hides the particulars.
fn unprocessable() -> Status {
    Status::new(422, Reason::Invalid, "the server rejected our request due to an error in our request")
        .with_details(Details::default())
}

fn strategic_status(error: StrategicError) -> Status {
    match error {
        StrategicError::PrimitiveListFormat
        | StrategicError::RetainKeysFormat
        | StrategicError::SetOrderFormat => Status::bad_request(error.to_string()),
        StrategicError::ListOfLists => unprocessable(),
        other => Status::new(500, Reason::Unknown, other.to_string()),
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
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

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
