//! Kubernetes' protobuf form, transcoded from and to the tree by the numbers in the [`Schema`].
//!
//! There are no generated types: one writer and one reader walk the schema. Source:
//! `k8s.io/apimachinery/pkg/runtime/serializer/protobuf` for the envelope and the framing of watches, the
//! `generated.proto` files of 1.36 for numbers and for the types whose two forms differ (see
//! [`crate::schema::ProtoForm`]).
//!
//! Fields that are unset are left out; Go's encoder writes zeros for some of them, and its decoder does not care.

mod read;
mod tables;
mod wire;
mod write;

pub use read::decode;
pub(crate) use tables::{Message, WireTables};
pub use write::encode;

use crate::meta::str_at;
use crate::schema::{NodeId, NodeKind, Schema};
use crate::{Value, default, json};

use wire::{BackWriter, Reader};

/// Media type of the form.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// First bytes of every enveloped object, in storage and in bodies.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// Deepest nesting of messages.
pub const MAX_DEPTH: usize = json::MAX_DEPTH;

/// Why bytes are not the protobuf form of a type, or a tree has none. Texts are Go's where Go has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// No bytes.
    #[error("empty data")]
    Empty,
    /// The magic bytes and nothing after.
    #[error("empty body")]
    EmptyBody,
    /// The body does not start with the four magic bytes.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NotEnveloped,
    /// The bytes end inside a field.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// A number of more than ten bytes.
    #[error("proto: integer overflow")]
    Overflow,
    /// Field number 0, or a group's end.
    #[error("proto: illegal tag {0}")]
    IllegalTag(u64),
    /// The wire type does not fit the field.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WrongWireType {
        /// Wire type found.
        wire: u8,
        /// Name of the field.
        field: String,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("exceeded max depth")]
    TooDeep,
    /// A quantity, time or embedded JSON that does not read.
    #[error("{0}")]
    Text(String),
    /// The tree does not fit the type.
    #[error("a value of type {found} cannot be written as {wanted}")]
    Mismatch {
        /// What the tree holds.
        found: &'static str,
        /// What the schema wants.
        wanted: &'static str,
    },
}

/// The `runtime.Unknown` around every object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// `kind` of the object.
    pub kind: String,
    /// The message of the object.
    pub raw: &'a [u8],
    /// Media type of `raw` where it is not protobuf.
    pub content_type: String,
}

/// Opens the envelope of a body or stored value.
pub fn unwrap(body: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    if body.is_empty() {
        return Err(ProtoError::Empty);
    }
    let data = body.strip_prefix(MAGIC).ok_or(ProtoError::NotEnveloped)?;
    if data.is_empty() {
        return Err(ProtoError::EmptyBody);
    }
    let mut envelope =
        Envelope { api_version: String::new(), kind: String::new(), raw: &[], content_type: String::new() };
    let mut reader = Reader::new(data);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => {
                let mut meta = Reader::new(reader.bytes(tag, "typeMeta")?);
                while let Some(tag) = meta.tag()? {
                    match tag.number {
                        1 => envelope.api_version = meta.text(tag, "apiVersion")?,
                        2 => envelope.kind = meta.text(tag, "kind")?,
                        _ => meta.skip(tag)?,
                    }
                }
            }
            2 => envelope.raw = reader.bytes(tag, "raw")?,
            4 => envelope.content_type = reader.text(tag, "contentType")?,
            _ => reader.skip(tag)?,
        }
    }
    Ok(envelope)
}

/// Puts a message into its envelope.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope_prefix(api_version, kind, raw.len());
    out.extend_from_slice(raw);
    out
}

/// Everything of an envelope before a message of `raw_len` bytes; nothing comes after it.
pub fn envelope_prefix(api_version: &str, kind: &str, raw_len: usize) -> Vec<u8> {
    let mut writer = BackWriter::new();
    // the message itself is not written here, only announced
    writer.varint(raw_len as u64);
    writer.tag(2, wire::BYTES);
    let end = writer.len();
    writer.text(2, kind);
    writer.text(1, api_version);
    writer.close(1, end);
    writer.raw(MAGIC);
    writer.finish()
}

/// Encodes an object with its envelope; `apiVersion` and `kind` are its own.
pub fn encode_object(schema: &Schema, root: NodeId, value: &Value) -> Result<Vec<u8>, ProtoError> {
    let raw = encode(schema, root, value)?;
    Ok(wrap(str_at(value, &["apiVersion"]), str_at(value, &["kind"]), &raw))
}

/// Decodes an enveloped object into the form it has as JSON: normalised, with `apiVersion` and `kind`. This is how a
/// value that upstream stored is read.
pub fn decode_object(schema: &Schema, root: NodeId, body: &[u8]) -> Result<Value, ProtoError> {
    let envelope = unwrap(body)?;
    let mut value = if envelope.content_type == "application/json" {
        json::parse(envelope.raw).map_err(|e| ProtoError::Text(e.to_string()))?.value
    } else {
        decode(schema, root, envelope.raw)?
    };
    default::normalise(schema, root, &mut value);
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), envelope.api_version.into());
        map.insert("kind".into(), envelope.kind.into());
    }
    Ok(value)
}

/// Whether a type has a protobuf form at all; custom resources have none.
pub fn has_message(schema: &Schema, root: NodeId) -> bool {
    match &schema.node(root).kind {
        NodeKind::Object(object) => object.fields.values().any(|f| f.proto != 0),
        _ => false,
    }
}

/// Bytes before an item of `message_len` bytes in a list message (every list has its items in field 2).
pub fn list_item_prefix(message_len: usize) -> Vec<u8> {
    let mut writer = BackWriter::new();
    writer.varint(message_len as u64);
    writer.tag(2, wire::BYTES);
    writer.finish()
}

/// Bytes before the items of a list whose items take `items_len` bytes, their prefixes included: the envelope and the
/// list's metadata, which is what `schema` says of `metadata` in `root`, the list type.
pub fn list_prefix(
    schema: &Schema,
    root: NodeId,
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items_len: usize,
) -> Result<Vec<u8>, ProtoError> {
    let mut writer = BackWriter::new();
    if let Some(field) = schema.field(root, "metadata") {
        let message = encode(schema, field.node, metadata)?;
        writer.bytes(field.proto, &message);
    }
    let head = writer.finish();
    let mut out = envelope_prefix(api_version, kind, head.len() + items_len);
    out.extend_from_slice(&head);
    Ok(out)
}

/// One event of a watch with its frame (four bytes of length, most significant first). `object` is enveloped.
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut writer = BackWriter::new();
    let end = writer.len();
    writer.bytes(1, object);
    writer.close(2, end);
    writer.text(1, kind);
    let length = u32::try_from(writer.len()).unwrap_or(u32::MAX);
    writer.raw(&length.to_be_bytes());
    writer.finish()
}

#[cfg(test)]
mod tests;
