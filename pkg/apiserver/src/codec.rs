//! Between trees and bytes: what is stored, what clients send, and the encodings of answers that are not plain JSON.
//!
//! Stored values are canonical JSON: `kind`, `apiVersion` and `metadata` first (so that a list can leave the first two
//! out of its items, as upstream's do), then the other fields sorted; without resourceVersion, which is the revision.

use std::cell::RefCell;

use apimachinery::coerce::FieldValidation;
use apimachinery::decode::{self, Expected};
use apimachinery::descriptor::{ResourceDescriptor, Resources, ServedVersion};
use apimachinery::meta::{GroupVersion, GroupVersionKind, at, metadata_mut, str_at};
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::Status;
use apimachinery::{Map, Value};
use apimachinery::{default, managedfields, protobuf, text};
use bytes::Bytes;
use component::http::Response;
use http::StatusCode;
use serde_json::value::RawValue;
use watchcache::StoredText;

use crate::core::Target;
use crate::negotiate::{Format, MediaType};
use crate::respond;

/// First bytes of upstream's protobuf envelope.
const PROTOBUF_MAGIC: &[u8] = b"k8s\0";

/// Whether stored bytes are upstream's protobuf.
pub(crate) fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(PROTOBUF_MAGIC)
}

/// The form in which objects are stored (`--storage-media-type`). Values of either form are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StorageMediaType {
    /// `application/json`, which is served as it is stored.
    #[default]
    Json,
    /// `application/vnd.kubernetes.protobuf`, for those whose other servers expect it. Kinds without a protobuf form are
    /// stored as JSON.
    Protobuf,
}

impl StorageMediaType {
    /// The media type of a name, `None` where it is not supported.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "application/json" => Some(Self::Json),
            protobuf::MEDIA_TYPE => Some(Self::Protobuf),
            _ => None,
        }
    }

    /// What makes the stored form of canonical JSON, `None` where that is the form.
    pub(crate) fn encode(self) -> Option<storage::objects::Encode> {
        match self {
            Self::Json => None,
            Self::Protobuf => Some(json_to_protobuf),
        }
    }
}

/// The protobuf form of an object's JSON, the JSON where there is none.
fn json_to_protobuf(json: &Bytes) -> Bytes {
    let encode = || {
        let object = apimachinery::json::parse(json).ok()?.value;
        let catalog = apis::catalog();
        let node = catalog.kind(&kind_of(&object)?)?.node;
        if !protobuf::has_message(catalog.schema(), node) {
            return None;
        }
        protobuf::encode_object(catalog.schema(), node, &object).ok()
    };
    encode().map_or_else(|| json.clone(), Bytes::from)
}

fn kind_of(object: &Value) -> Option<GroupVersionKind> {
    let version = GroupVersion::parse(str_at(object, &["apiVersion"]))?;
    Some(GroupVersionKind::new(version.group, version.version, str_at(object, &["kind"])))
}

/// JSON of a value that is stored as protobuf. It may be of any version, also one that is not served.
pub(crate) fn stored_to_json(descriptor: &ResourceDescriptor, bytes: &[u8]) -> Result<Bytes, Status> {
    let broken =
        |why: String| Status::internal(format!("unable to decode a stored {}: {why}", descriptor.kind));
    let envelope = protobuf::unwrap(bytes).map_err(|e| broken(e.to_string()))?;
    let version = GroupVersion::parse(&envelope.api_version)
        .ok_or_else(|| broken(format!("unexpected GroupVersion string: {}", envelope.api_version)))?;
    let gvk = GroupVersionKind::new(version.group, version.version, &envelope.kind);
    let catalog = apis::catalog();
    let node = catalog.kind(&gvk).map(|definition| definition.node).ok_or_else(|| {
        broken(format!("no kind {:?} is registered for version {:?}", envelope.kind, envelope.api_version))
    })?;
    let mut object =
        protobuf::decode_object(catalog.schema(), node, bytes).map_err(|e| broken(e.to_string()))?;
    upgrade(descriptor, &gvk, &mut object);
    // protobuf leaves out what some fields say by default
    if let Some(version) = own_stored_version(descriptor) {
        complete(descriptor, version, &mut object, None);
    }
    Ok(canonical(&object).into())
}

/// The version that is stored, unless it is another group's.
fn own_stored_version(descriptor: &ResourceDescriptor) -> Option<&ServedVersion> {
    let stored = &descriptor.storage.gvk;
    descriptor.version(&stored.version).filter(|_| stored.group == descriptor.group)
}

/// Makes an object that was stored in another version one of the version that is stored now.
fn upgrade(descriptor: &ResourceDescriptor, from: &GroupVersionKind, object: &mut Value) {
    if *from == descriptor.storage.gvk {
        return;
    }
    if let Some(upgrade) = apis::upgrade(from) {
        upgrade(object);
    } else if from.group == descriptor.group
        && let Some(version) = descriptor.version(&from.version)
    {
        version.to_storage(object);
    }
    if let Some(version) = own_stored_version(descriptor) {
        default::apply_defaults(&version.schema, version.root, object);
        default::normalise(&version.schema, version.root, object);
    }
}

/// The JSON of a stored value in the version that is stored now; shares the bytes that are that already.
pub(crate) fn stored_json(descriptor: &ResourceDescriptor, bytes: &Bytes) -> Result<Bytes, Status> {
    if is_protobuf(bytes) {
        return stored_to_json(descriptor, bytes);
    }
    if bytes.starts_with(canonical_head(&descriptor.storage.gvk).as_bytes()) {
        return Ok(bytes.clone());
    }
    let mut object = parse_stored(descriptor, bytes)?;
    match kind_of(&object).filter(|gvk| *gvk != descriptor.storage.gvk) {
        Some(gvk) => {
            upgrade(descriptor, &gvk, &mut object);
            Ok(canonical(&object).into())
        }
        None => Ok(bytes.clone()),
    }
}

fn parse_stored(descriptor: &ResourceDescriptor, json: &Bytes) -> Result<Value, Status> {
    // as deep as bodies may be: serde_json stops at 128 levels
    apimachinery::json::parse_in_parts(json)
        .map_err(|e| Status::internal(format!("unable to decode a stored {}: {e}", descriptor.kind)))
}

/// The tree of a stored value, which is read where it is looked at.
pub(crate) fn from_stored(descriptor: &ResourceDescriptor, bytes: &Bytes) -> Result<Value, Status> {
    parse_stored(descriptor, &stored_json(descriptor, bytes)?)
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
    if is_protobuf(bytes) {
        let json = protobuf_metadata(bytes).unwrap_or_default();
        return at(&json, &["metadata", "deletionTimestamp"]).is_some();
    }
    serde_json::from_slice::<Head>(bytes).is_ok_and(|h| h.metadata.deletion_timestamp.is_some())
}

/// The metadata of an object stored as protobuf: field 1 of every kind.
fn protobuf_metadata(bytes: &[u8]) -> Option<Value> {
    let catalog = apis::catalog();
    let partial = catalog.definition("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata")?;
    protobuf::decode_object(catalog.schema(), partial.node, bytes).ok()
}

/// What every write stores: the object (in its stored version) normalised, as bytes. What it shares with one that is
/// normal already need not be looked at.
pub(crate) fn to_stored(
    target: &Target,
    object: &mut Value,
    normal: Option<&Value>,
) -> Result<StoredText, Status> {
    normalise(target, object, normal);
    stored_text(object)
}

fn normalise(target: &Target, object: &mut Value, old: Option<&Value>) {
    let version = target.stored_version();
    stamp(object, &target.descriptor.storage.gvk);
    // events.k8s.io keeps its objects as a kind of another group, in the form its conversion makes
    if target.descriptor.storage.gvk.group == target.descriptor.group {
        default::normalise_changed(&version.schema, version.root, object, old);
    }
}

/// The canonical text without resourceVersion, which the store gives.
fn stored_text(object: &mut Value) -> Result<StoredText, Status> {
    /// Texts are written where others were before, and copied into memory of their size; what was needed for larger ones
    /// than this is not kept.
    const KEPT: usize = 1 << 18;
    thread_local! {
        static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    if let Some(metadata) = metadata_mut(object) {
        metadata.remove("resourceVersion");
    }
    TEXT.with_borrow_mut(|out| {
        out.clear();
        let place = write_canonical(object, out);
        let text = Bytes::copy_from_slice(out);
        if out.capacity() > KEPT {
            *out = Vec::new();
        }
        match place {
            Some(Metadata { span, follower }) => Ok(StoredText::written(text, span, follower)),
            None => StoredText::new(text).map_err(|e| Status::internal(e.to_string())),
        }
    })
}

/// [`to_stored`], with the old times of managed fields where nothing else has changed, so that a write that changes
/// nothing stores the same bytes.
pub(crate) fn to_stored_keeping_times(
    target: &Target,
    object: &mut Value,
    old: &Value,
) -> Result<StoredText, Status> {
    normalise(target, object, Some(old));
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
    let mut out = Vec::with_capacity(1024);
    write_canonical(object, &mut out);
    out
}

/// Where an object's metadata is in its text, if it has members.
struct Metadata {
    /// From brace to brace.
    span: (usize, usize),
    /// Where the first member begins that comes after a resourceVersion.
    follower: Option<usize>,
}

fn write_canonical(object: &Value, out: &mut Vec<u8>) -> Option<Metadata> {
    const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
    let Some(map) = object.as_object() else {
        text::value(object, out);
        return None;
    };
    let start = out.len();
    out.push(b'{');
    let begin = |key: &str, out: &mut Vec<u8>| {
        if out.len() > start + 1 {
            out.push(b',');
        }
        text::string(key, out);
        out.push(b':');
    };
    let mut place = None;
    for key in FIRST {
        match map.get(key) {
            None => {}
            Some(Value::Object(metadata)) if key == "metadata" => {
                begin(key, out);
                place = write_metadata(metadata, out);
            }
            Some(value) => {
                begin(key, out);
                text::value(value, out);
            }
        }
    }
    for (key, value) in map.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())) {
        begin(key, out);
        text::value(value, out);
    }
    out.push(b'}');
    place
}

fn write_metadata(metadata: &Map, out: &mut Vec<u8>) -> Option<Metadata> {
    let start = out.len();
    let mut follower = None;
    out.push(b'{');
    for (key, value) in metadata {
        if out.len() > start + 1 {
            out.push(b',');
        }
        if follower.is_none() && key.as_str() > "resourceVersion" {
            follower = Some(out.len());
        }
        text::string(key, out);
        out.push(b':');
        text::value(value, out);
    }
    out.push(b'}');
    (!metadata.is_empty()).then_some(Metadata { span: (start, out.len()), follower })
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

/// Fills in what the server fills in after decoding: the schema's defaults and the kind's own. What the object shares with
/// one that is complete (`settled`) is passed by.
pub(crate) fn complete(
    descriptor: &ResourceDescriptor,
    version: &ServedVersion,
    object: &mut Value,
    settled: Option<&Value>,
) {
    default::default_changed(&version.schema, version.root, object, settled);
    let shares = |name: &&str| match (object.get(*name), settled.and_then(|s| s.get(*name))) {
        (Some(now), Some(before)) => now.shares(before),
        _ => false,
    };
    if !descriptor.strategy.defaults_depend_on().is_some_and(|names| names.iter().all(shares)) {
        descriptor.strategy.default_object(&version.version, object);
    }
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
    use apimachinery::json;

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
            let object: apimachinery::Value = serde_json::from_slice(&json).expect("JSON");
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

    fn descriptor(group: &str, plural: &str) -> std::sync::Arc<ResourceDescriptor> {
        let all = apis::resources(&apis::ServedVersions::default());
        all.into_iter().find(|d| d.group == group && d.plural == plural).expect("a resource of the release")
    }

    #[test]
    fn either_form_is_read_and_deletions_are_seen_in_both() {
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "b"},
                         "metadata": {"name": "a", "deletionTimestamp": "2026-01-02T03:04:05Z"}});
        let json: Bytes = canonical(&map).into();
        let encoded = json_to_protobuf(&json);
        assert!(is_protobuf(&encoded) && is_being_deleted(&encoded));
        let maps = descriptor("", "configmaps");
        assert_eq!(stored_json(&maps, &encoded).expect("a map"), json);
        assert_eq!(stored_json(&maps, &json).expect("a map").as_ptr(), json.as_ptr());
        // what was stored before a default existed has it when it is read
        let old = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"},
                         "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}});
        let read =
            stored_json(&descriptor("", "pods"), &json_to_protobuf(&canonical(&old).into())).expect("a pod");
        assert!(String::from_utf8_lossy(&read).contains(r#""restartPolicy":"Always""#));
        // what has no protobuf form is left as it is
        let custom: Bytes = r#"{"kind":"Cactus","apiVersion":"example.com/v1"}"#.into();
        assert_eq!(json_to_protobuf(&custom), custom);
    }

    #[test]
    fn values_of_other_versions_become_the_one_stored_now() {
        // an autoscaler as servers before autoscaling/v2 stored it
        let scalers = descriptor("autoscaling", "horizontalpodautoscalers");
        let old = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "a"},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3,
                     "targetCPUUtilizationPercentage": 50}, "status": {"currentReplicas": 0, "desiredReplicas": 0}});
        for stored in [canonical(&old).into(), json_to_protobuf(&canonical(&old).into())] {
            let object = from_stored(&scalers, &stored).expect("an autoscaler");
            assert_eq!(object["apiVersion"], "autoscaling/v2");
            assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        }
        // a definition as upstream stores it to this day
        let definitions = descriptor("apiextensions.k8s.io", "customresourcedefinitions");
        let old: Bytes = r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{"name":"c"},"spec":{"group":"g","version":"v1","validation":{"openAPIV3Schema":{"type":"object"}}}}"#.into();
        let object = from_stored(&definitions, &old).expect("a definition");
        assert_eq!(object["apiVersion"], "apiextensions.k8s.io/v1");
        assert_eq!(object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["type"], "object");
        // both resources of events read what either wrote
        let event: Bytes = canonical(&json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod"}, "message": "m", "source": {"component": "c"}}))
        .into();
        for group in ["", "events.k8s.io"] {
            let read =
                from_stored(&descriptor(group, "events"), &json_to_protobuf(&event)).expect("an event");
            assert_eq!(
                (&read["message"], &read["source"]["component"]),
                (&json!("m"), &json!("c")),
                "{group}"
            );
        }
    }
}
