//! Tree to protobuf.

use base64::Engine;

use super::tables::{Message, Target};
use super::wire::BackWriter;
use super::{MAX_DEPTH, ProtoError};
use crate::coerce::BASE64;
use crate::schema::{NodeId, NodeKind, ProtoForm, Scalar, Schema};
use crate::{Map, Value, gotime, text};

/// The type of what a manager owns, which may come as its JSON text too.
const FIELDS_V1: &str = ".FieldsV1";

/// Bytes set aside at first; the buffer doubles from there.
const FIRST_BUFFER: usize = 4096;

/// Encodes the message of a type, without envelope.
pub fn encode(schema: &Schema, root: NodeId, value: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut writer = Writer { schema, out: BackWriter::with_capacity(FIRST_BUFFER), depth: 0 };
    match value {
        Value::Object(map) => writer.message(schema.message(root), map)?,
        Value::Null => {}
        other => return Err(mismatch(other, "a message")),
    }
    Ok(writer.out.finish())
}

fn mismatch(value: &Value, wanted: &'static str) -> ProtoError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    ProtoError::Mismatch { found, wanted }
}

struct Writer<'s> {
    schema: &'s Schema,
    out: BackWriter,
    depth: usize,
}

impl Writer<'_> {
    /// Fields are written last to first, see [`BackWriter`].
    fn message(&mut self, message: Message<'_>, map: &Map) -> Result<(), ProtoError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ProtoError::TooDeep);
        }
        for (number, target) in message.fields().rev() {
            match target {
                Target::Field(name, field) => match map.get(name) {
                    None | Some(Value::Null) => {}
                    Some(value) => self.field(number, field.node, value)?,
                },
                Target::Inline(inner) => {
                    let end = self.out.len();
                    self.message(inner, map)?;
                    if self.out.len() > end {
                        self.out.close(number, end);
                    }
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// One field with all its values. Null elements of lists and maps are empty messages.
    fn field(&mut self, number: u32, id: NodeId, value: &Value) -> Result<(), ProtoError> {
        let node = self.schema.node(id);
        match (&node.kind, node.proto) {
            (NodeKind::List(list), ProtoForm::Wrapped) => {
                let end = self.out.len();
                self.items(1, list.item, value)?;
                self.out.close(number, end);
                Ok(())
            }
            (NodeKind::List(list), _) => self.items(number, list.item, value),
            (NodeKind::Map { value: item, .. }, _) => match value {
                Value::Object(map) => {
                    for (key, value) in map.iter().rev() {
                        let end = self.out.len();
                        if value.is_null() {
                            // an unset time: Go writes the value of an entry even when it is empty
                            self.out.bytes(2, &[]);
                        } else {
                            self.field(2, *item, value)?;
                        }
                        self.out.text(1, key);
                        self.out.close(number, end);
                    }
                    Ok(())
                }
                other => Err(mismatch(other, "a map")),
            },
            (NodeKind::Object(_), _) => match value {
                Value::Object(map) => {
                    let end = self.out.len();
                    self.message(self.schema.message(id), map)?;
                    self.out.close(number, end);
                    Ok(())
                }
                other => Err(mismatch(other, "a message")),
            },
            (NodeKind::Raw, ProtoForm::Union { object, other }) => {
                let end = self.out.len();
                let (inner, kind) = if value.is_object() { object } else { other };
                self.field(inner, kind, value)?;
                self.out.close(number, end);
                Ok(())
            }
            (NodeKind::Raw, _) => {
                let end = self.out.len();
                match value {
                    // see json::parse_with_owners_as_text
                    Value::String(text) if node.name.ends_with(FIELDS_V1) => self.out.text(1, text),
                    value => {
                        let mut json = String::new();
                        text::value(value, &mut json);
                        self.out.text(1, &json);
                    }
                }
                self.out.close(number, end);
                Ok(())
            }
            (NodeKind::Scalar(kind), _) => self.scalar(number, *kind, value),
        }
    }

    fn items(&mut self, number: u32, item: NodeId, value: &Value) -> Result<(), ProtoError> {
        let Value::Array(items) = value else {
            return Err(mismatch(value, "a list"));
        };
        for value in items.iter().rev() {
            if value.is_null() {
                self.out.bytes(number, &[]);
            } else {
                self.field(number, item, value)?;
            }
        }
        Ok(())
    }

    fn scalar(&mut self, number: u32, kind: Scalar, value: &Value) -> Result<(), ProtoError> {
        match (kind, value) {
            (Scalar::Bool, Value::Bool(set)) => self.out.integer(number, i64::from(*set)),
            (Scalar::Int32 | Scalar::Int64, Value::Number(n)) => {
                self.out.integer(number, n.as_i64().ok_or_else(|| mismatch(value, "an integer"))?);
            }
            (Scalar::Float, Value::Number(n)) => {
                self.out.double(number, n.as_f64().ok_or_else(|| mismatch(value, "a float"))?);
            }
            (Scalar::String, Value::String(text)) => self.out.text(number, text),
            (Scalar::Bytes, Value::String(text)) => {
                let bytes = BASE64.decode(text).map_err(|e| ProtoError::Text(e.to_string()))?;
                self.out.bytes(number, &bytes);
            }
            (Scalar::Quantity, Value::String(text)) => {
                let end = self.out.len();
                self.out.text(1, text);
                self.out.close(number, end);
            }
            (Scalar::IntOrString, value) => {
                let end = self.out.len();
                let (is_text, whole, text) = match value {
                    Value::String(text) => (1, 0, text.as_str()),
                    Value::Number(n) => (0, n.as_i64().ok_or_else(|| mismatch(value, "an integer"))?, ""),
                    other => return Err(mismatch(other, "an integer or string")),
                };
                // Go writes all three, and so do we: the bytes of a complete object are then the same
                self.out.text(3, text);
                self.out.integer(2, whole);
                self.out.integer(1, is_text);
                self.out.close(number, end);
            }
            (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
                let parsed = if kind == Scalar::Time {
                    gotime::parse_time(text).map(|t| gotime::Instant { nanos: 0, ..t })
                } else {
                    gotime::parse_micro_time(text)
                };
                let time = parsed.map_err(|e| ProtoError::Text(e.to_string()))?;
                let end = self.out.len();
                self.out.integer(2, time.nanos.into());
                self.out.integer(1, time.seconds);
                self.out.close(number, end);
            }
            (Scalar::Duration, Value::String(text)) => {
                let nanos = gotime::parse_duration(text).map_err(|e| ProtoError::Text(e.to_string()))?;
                let end = self.out.len();
                self.out.integer(1, nanos);
                self.out.close(number, end);
            }
            (_, other) => return Err(mismatch(other, "a scalar")),
        }
        Ok(())
    }
}
