//! The bytes reads are served from: stored JSON as it is, other versions and metadata made once and kept.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::GroupVersionKind;
use apimachinery::protobuf;
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::Status;
use bytes::Bytes;
use watchcache::{RepresentationId, StoredObject};

use super::Target;
use crate::codec;
use crate::gzip::Pieces;

/// What is kept beside the stored JSON, within one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Json = 0,
    Message = 1,
    PartialMessage = 2,
    CompressedItems = 3,
    CompressedMessages = 4,
    TablePart = 5,
}

/// Numbers of representations below this are one version's.
const KINDS_PER_VERSION: u32 = 8;

/// A number for a version of a resource that two resources sharing a cache do not share.
pub(crate) fn version_number(target: &Target) -> u32 {
    // FNV-1a over group and version; a cache holds two or three of them
    let text = target.gvk().group_version().to_string();
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % (1 << 24)
}

fn undecodable(error: impl std::fmt::Display) -> Status {
    Status::internal(error)
}

/// Serves objects of one resource in one version.
pub(crate) struct Encoder<'a> {
    target: &'a Target,
    /// Stored objects are of this version.
    stored: bool,
    /// [`version_number`] of the target.
    version: u32,
    /// What the canonical text begins with and items of lists leave out.
    head: String,
}

impl<'a> Encoder<'a> {
    /// An encoder for a target.
    pub(crate) fn new(target: &'a Target) -> Self {
        let stored = target.served().conversion.is_none() && target.gvk() == target.descriptor.storage.gvk;
        let head = codec::canonical_head(&target.gvk());
        Self { target, stored, version: version_number(target), head }
    }

    fn id(&self, kept: Kept) -> RepresentationId {
        RepresentationId(self.version * KINDS_PER_VERSION + kept as u32)
    }
}

impl Encoder<'_> {
    /// Appends the object's JSON.
    pub(crate) fn write_json(&self, object: &StoredObject, out: &mut Vec<u8>) -> Result<(), Status> {
        if self.stored {
            object.write_json(out);
        } else {
            out.extend_from_slice(&self.converted(object)?);
        }
        Ok(())
    }

    /// Appends the object's JSON as an item of a list: without `kind` and `apiVersion`.
    pub(crate) fn write_item(&self, object: &StoredObject, out: &mut Vec<u8>) -> Result<(), Status> {
        if self.stored {
            object.write_json_after(self.head.as_bytes(), out);
            return Ok(());
        }
        let json = self.converted(object)?;
        match json.strip_prefix(self.head.as_bytes()) {
            Some(rest) => {
                out.push(b'{');
                out.extend_from_slice(rest);
            }
            None => out.extend_from_slice(&json),
        }
        Ok(())
    }

    fn converted(&self, object: &StoredObject) -> Result<Bytes, Status> {
        object.representation(self.id(Kept::Json), |object| {
            let value = self.value(object)?;
            Ok(Bytes::from(codec::canonical(&value)))
        })
    }

    /// The object as a tree in this version.
    pub(crate) fn value(&self, object: &StoredObject) -> Result<Value, Status> {
        super::values::tree(self.target, object).map(|value| self.stamped(value))
    }

    fn stamped(&self, mut value: Value) -> Value {
        if let Some(map) = value.as_object_mut() {
            let gvk = self.target.gvk();
            map.insert("apiVersion".into(), gvk.group_version().to_string().into());
            map.insert("kind".into(), gvk.kind.into());
        }
        value
    }

    /// Whether the kind has a protobuf form.
    pub(crate) fn has_message(&self) -> bool {
        let served = self.target.served();
        protobuf::has_message(&served.schema, served.root)
    }

    /// The object's protobuf message, without envelope.
    pub(crate) fn message(&self, object: &StoredObject) -> Result<Bytes, Status> {
        object.representation(self.id(Kept::Message), |object| self.make_message(object).map(Bytes::from))
    }

    fn make_message(&self, object: &StoredObject) -> Result<Vec<u8>, Status> {
        let served = self.target.served();
        let mut value = object.to_encode().map_err(undecodable)?;
        served.from_storage(&mut value);
        protobuf::encode(&served.schema, served.root, &self.stamped(value)).map_err(undecodable)
    }

    /// A run of objects as items of a list, compressed: messages with their prefixes, or JSON with a comma before each.
    pub(crate) fn compressed_items(
        &self,
        run: &[Arc<StoredObject>],
        as_messages: bool,
        pieces: &mut Pieces,
    ) -> Result<Bytes, Status> {
        if !as_messages {
            return self.compressed(run, Kept::CompressedItems, pieces, |object, out| {
                out.push(b',');
                self.write_item(object, out)
            });
        }
        self.compressed(run, Kept::CompressedMessages, pieces, |object, out| {
            let message = self.make_message(object)?;
            out.extend(protobuf::list_item_prefix(message.len()));
            out.extend_from_slice(&message);
            Ok(())
        })
    }

    /// A run of objects compressed, kept with the first of them as long as the others are what they are.
    fn compressed(
        &self,
        run: &[Arc<StoredObject>],
        kept: Kept,
        pieces: &mut Pieces,
        write: impl Fn(&StoredObject, &mut Vec<u8>) -> Result<(), Status>,
    ) -> Result<Bytes, Status> {
        let Some(first) = run.first() else { return Ok(Bytes::new()) };
        first.representation_of_run(run, self.id(kept), || {
            let mut text = Vec::with_capacity(run.iter().map(|object| object.json_len()).sum());
            run.iter().try_for_each(|object| write(object, &mut text))?;
            pieces.make(&text).map_err(undecodable)
        })
    }

    /// What the cells of a Table's row are made of, in the stored version.
    pub(crate) fn table_part(&self, object: &StoredObject) -> Result<Value, Status> {
        let part = self.target.descriptor.strategy.table_part();
        object.kept_part(self.id(Kept::TablePart), part).map_err(undecodable)
    }

    /// The message of the object's `PartialObjectMetadata`, which is the same in all its versions.
    pub(crate) fn partial_message(&self, object: &StoredObject) -> Result<Bytes, Status> {
        object.representation(self.id(Kept::PartialMessage), |object| {
            let mut json = Vec::new();
            write_partial(object, "v1", &mut json);
            let value: Value = serde_json::from_slice(&json).map_err(undecodable)?;
            let (schema, root) = meta_type("PartialObjectMetadata")?;
            protobuf::encode(schema, root, &value).map(Bytes::from).map_err(undecodable)
        })
    }
}

/// Appends the JSON of an object's `PartialObjectMetadata` in a version of `meta.k8s.io`.
pub(crate) fn write_partial(object: &StoredObject, version: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/"#);
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(br#"","metadata":"#);
    object.write_metadata(out);
    out.push(b'}');
}

/// A type of `meta/v1` that every group shares.
pub(crate) fn meta_type(name: &str) -> Result<(&'static Schema, NodeId), Status> {
    let catalog = apis::catalog();
    let definition = catalog.definition(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
    definition
        .map(|d| (&**catalog.schema(), d.node))
        .ok_or_else(|| Status::internal(format!("no schema of {name}")))
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial_of(object: &Value, version: &str) -> Value {
    let gvk = GroupVersionKind::new("meta.k8s.io", version, "PartialObjectMetadata");
    json!({
        "kind": gvk.kind, "apiVersion": gvk.group_version().to_string(),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}
