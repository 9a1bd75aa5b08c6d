//! Between trees and bytes: what is stored, what clients send, and the encodings of answers that are not plain JSON.
//!
//! Stored values are canonical JSON: `kind`, `apiVersion` and `metadata` first (so that a list can leave the first two
//! out of its items, as upstream's do), then the other fields sorted; without resourceVersion, which is the revision.

use apimachinery::Value;
use apimachinery::coerce::FieldValidation;
use apimachinery::decode::{self, Expected};
use apimachinery::descriptor::{ResourceDescriptor, Resources, ServedVersion};
use apimachinery::meta::{GroupVersionKind, at, metadata_mut};
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::Status;
use apimachinery::{default, managedfields, protobuf};
use bytes::Bytes;
use component::http::Response;
use http::StatusCode;
use serde_json::value::RawValue;

use crate::core::Target;
use crate::negotiate::{Format, MediaType};
use crate::respond;
use crate::text;

/// First bytes of upstream's protobuf envelope.
const PROTOBUF_MAGIC: &[u8] = b"k8s\0";

/// Whether stored bytes are upstream's protobuf.
pub(crate) fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(PROTOBUF_MAGIC)
}

/// JSON of a value that upstream's server stored as protobuf.
pub(crate) fn stored_to_json(descriptor: &ResourceDescriptor, bytes: &[u8]) -> Result<Bytes, Status> {
    let broken =
        |why: String| Status::internal(format!("unable to decode a stored {}: {why}", descriptor.kind));
    let envelope = protobuf::unwrap(bytes).map_err(|e| broken(e.to_string()))?;
    let gvk = &descriptor.storage.gvk;
    let (schema, root) = stored_type(descriptor).ok_or_else(|| broken(format!("no schema of {gvk:?}")))?;
    let mut object = protobuf::decode(schema, root, envelope.raw).map_err(|e| broken(e.to_string()))?;
    if let Some(map) = object.as_object_mut() {
        map.insert("kind".into(), envelope.kind.into());
        map.insert("apiVersion".into(), envelope.api_version.into());
    }
    default::normalise(schema, root, &mut object);
    Ok(canonical(&object).into())
}

/// The type of what is stored, which may be a kind of another group (events).
fn stored_type(descriptor: &ResourceDescriptor) -> Option<(&Schema, NodeId)> {
    let gvk = &descriptor.storage.gvk;
    if gvk.group == descriptor.group
        && let Some(version) = descriptor.version(&gvk.version).or(descriptor.versions.first())
    {
        return Some((&version.schema, version.root));
    }
    let catalog = apis::catalog();
    catalog.kind(gvk).map(|definition| (&**catalog.schema(), definition.node))
}

/// The tree of a stored value.
pub(crate) fn from_stored(descriptor: &ResourceDescriptor, bytes: &Bytes) -> Result<Value, Status> {
    let json = if is_protobuf(bytes) { stored_to_json(descriptor, bytes)? } else { bytes.clone() };
    // as deep as bodies may be: serde_json stops at 128 levels
    apimachinery::json::parse(&json)
        .map(|parsed| parsed.value)
        .map_err(|e| Status::internal(format!("unable to decode a stored {}: {e}", descriptor.kind)))
}

/// Whether a stored object's deletion has begun.
pub(crate) fn is_being_deleted(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Head {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<Box<RawValue>>,
    }
    serde_json::from_slice::<Head>(bytes).is_ok_and(|h| h.metadata.deletion_timestamp.is_some())
}

/// What every write stores: the object (in its stored version) normalised, as bytes.
pub(crate) fn to_stored(target: &Target, object: &mut Value) -> Bytes {
    normalise(target, object);
    stored_text(object)
}

fn normalise(target: &Target, object: &mut Value) {
    let version = target.stored_version();
    stamp(object, &target.descriptor.storage.gvk);
    // events.k8s.io keeps its objects as a kind of another group, in the form its conversion makes
    if target.descriptor.storage.gvk.group == target.descriptor.group {
        default::normalise(&version.schema, version.root, object);
    }
}

/// The canonical text without resourceVersion, which the store gives.
fn stored_text(object: &mut Value) -> Bytes {
    if let Some(metadata) = metadata_mut(object) {
        metadata.remove("resourceVersion");
    }
    canonical(object).into()
}

/// [`to_stored`], with the old times of managed fields where nothing else has changed, so that a write that changes
/// nothing stores the same bytes.
pub(crate) fn to_stored_keeping_times(target: &Target, object: &mut Value, old: &Value) -> Bytes {
    normalise(target, object);
    // whatever version the client named, it is the one being replaced
    if let (Some(metadata), Some(version)) = (metadata_mut(object), at(old, &["metadata", "resourceVersion"]))
    {
        metadata.insert("resourceVersion".into(), version.clone());
    }
    managedfields::ignore_timestamps(old, object);
    stored_text(object)
}

fn stamp(object: &mut Value, gvk: &GroupVersionKind) {
    if let Some(map) = object.as_object_mut() {
        map.insert("kind".into(), gvk.kind.as_str().into());
        map.insert("apiVersion".into(), gvk.group_version().to_string().into());
    }
}

/// The canonical text of an object.
pub(crate) fn canonical(object: &Value) -> Vec<u8> {
    const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
    let Some(map) = object.as_object() else { return object.to_string().into_bytes() };
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let mut field = |key: &str, value: &Value| {
        if out.len() > 1 {
            out.push(b',');
        }
        text::string(key, &mut out);
        out.push(b':');
        text::value(value, &mut out);
    };
    for key in FIRST {
        if let Some(value) = map.get(key) {
            field(key, value);
        }
    }
    for (key, value) in map.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())) {
        field(key, value);
    }
    out.push(b'}');
    out
}

/// What the canonical text of an object of a kind begins with, up to its metadata.
pub(crate) fn canonical_head(gvk: &GroupVersionKind) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", gvk.kind, gvk.group_version())
}

/// A decoder for one kind, knowing which others exist.
pub(crate) struct Reader<'a> {
    pub(crate) resources: &'a Resources,
    pub(crate) gvk: &'a GroupVersionKind,
    pub(crate) schema: &'a Schema,
    pub(crate) root: NodeId,
}

impl Reader<'_> {
    fn expected<T>(&self, run: impl FnOnce(&Expected<'_>) -> T) -> T {
        let is_registered = |gvk: &GroupVersionKind| is_registered(self.resources, gvk);
        run(&Expected { gvk: self.gvk, schema: self.schema, root: self.root, is_registered: &is_registered })
    }

    /// Decodes a body; warnings are those of unknown and repeated fields.
    pub(crate) fn decode(
        &self,
        body: &[u8],
        format: Format,
        validation: FieldValidation,
    ) -> Result<decode::Decoded, Status> {
        let format = match format {
            Format::Json => decode::Format::Json,
            Format::Yaml => decode::Format::Yaml,
            Format::Protobuf => decode::Format::Protobuf,
        };
        self.expected(|expected| decode::object(body, format, expected, validation))
    }
}

/// Whether the server knows a kind, as a resource or as what a subresource takes.
fn is_registered(resources: &Resources, gvk: &GroupVersionKind) -> bool {
    resources.kind(&gvk.group, &gvk.kind).is_some_and(|d| d.version(&gvk.version).is_some())
        || resources.all.iter().flat_map(|d| &d.versions).flat_map(|v| &v.subresources).any(|s| s.gvk == *gvk)
}

/// Fills in what the server fills in after decoding: the schema's defaults and the kind's own.
pub(crate) fn complete(descriptor: &ResourceDescriptor, version: &ServedVersion, object: &mut Value) {
    default::apply_defaults(&version.schema, version.root, object);
    descriptor.strategy.default_object(&version.version, object);
}

/// YAML text of a tree.
pub(crate) fn to_yaml(value: &Value) -> Vec<u8> {
    apimachinery::yaml::to_string(value).into_bytes()
}

/// The protobuf envelope of a tree. Without a schema the kind must be one of `meta/v1` (Status, Table's kin); `None`
/// where there is no protobuf form.
pub(crate) fn to_protobuf(value: &Value, schema: Option<(&Schema, NodeId)>) -> Option<Vec<u8>> {
    let encode = |schema: &Schema, root: NodeId| {
        if !protobuf::has_message(schema, root) {
            return None;
        }
        protobuf::encode_object(schema, root, value)
            .inspect_err(|error| tracing::warn!(%error, "an answer has no protobuf form"))
            .ok()
    };
    if let Some((schema, root)) = schema {
        return encode(schema, root);
    }
    let kind = apimachinery::meta::str_at(value, &["kind"]);
    let catalog = apis::catalog();
    let definition = catalog.definition(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))?;
    encode(catalog.schema(), definition.node)
}

/// Discovery and other documents without a protobuf form.
pub(crate) fn discovery(value: &Value, media: &MediaType) -> Response {
    match media.format {
        Format::Yaml => respond::bytes(StatusCode::OK, Format::Yaml.media_type(), to_yaml(value)),
        _ => {
            respond::bytes(StatusCode::OK, Format::Json.media_type(), respond::json_text(value, media.pretty))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_text_begins_with_what_lists_leave_out() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "1", "a": "2"},
                            "metadata": {"name": "x"}, "immutable": true});
        let text = canonical(&object);
        let head = canonical_head(&GroupVersionKind::new("", "v1", "ConfigMap"));
        assert!(text.starts_with(head.as_bytes()));
        assert_eq!(
            String::from_utf8_lossy(&text),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"},"data":{"a":"2","b":"1"},"immutable":true}"#
        );
    }

    #[test]
    fn events_stored_as_protobuf_are_those_of_the_core_group() {
        let resources = Resources::new(apis::resources(&apis::ServedVersions::default()));
        let core = resources.resource("", "events").expect("events");
        let events = resources.resource("events.k8s.io", "events").expect("events");
        let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}, "message": "text",
            "involvedObject": {"kind": "Pod"}});
        let version = core.version("v1").expect("v1");
        let stored = protobuf::encode_object(&version.schema, version.root, &event).expect("encoded");
        for descriptor in [core, events] {
            let json = stored_to_json(descriptor, &stored).expect("decoded");
            let object: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
            assert_eq!(
                (&object["message"], &object["involvedObject"]["kind"]),
                (&json!("text"), &json!("Pod"))
            );
        }
    }

    #[test]
    fn deletions_are_seen() {
        assert!(is_being_deleted(br#"{"metadata":{"deletionTimestamp":"t"},"x":1}"#));
        assert!(!is_being_deleted(br#"{"metadata":{"name":"a"}}"#));
        assert!(!is_being_deleted(b"k8s\0..."));
    }
}
