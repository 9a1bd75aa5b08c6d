//! Protobuf to tree.

use crate::Number;
use base64::Engine;

use super::tables::{Message, Target};
use super::wire::{BYTES, Reader, Tag, VARINT};
use super::{MAGIC, MAX_DEPTH, ProtoError};
use crate::coerce::{self, BASE64};
use crate::default::is_zero;
use crate::schema::{NodeId, NodeKind, ProtoForm, Scalar, Schema};
use crate::{Map, Value, gotime, json};

/// Decodes the message of a type, without envelope. Unknown fields are dropped, zeros that Go writes for fields nobody
/// set too; what is always printed and absent is for [`crate::default::normalise`] to add.
pub fn decode(schema: &Schema, root: NodeId, raw: &[u8]) -> Result<Value, ProtoError> {
    let mut map = Map::new();
    Decoder { schema, depth: 0 }.message(schema.message(root), raw, &mut map)?;
    Ok(Value::Object(map))
}

struct Decoder<'s> {
    schema: &'s Schema,
    depth: usize,
}

impl Decoder<'_> {
    fn message(&mut self, message: Message<'_>, raw: &[u8], map: &mut Map) -> Result<(), ProtoError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ProtoError::TooDeep);
        }
        let mut reader = Reader::new(raw);
        while let Some(tag) = reader.tag()? {
            match message.field(tag.number) {
                None => reader.skip(tag)?,
                Some(Target::Inline(inner)) => {
                    let raw = reader.bytes(tag, "embedded message")?;
                    self.message(inner, raw, map)?;
                }
                Some(Target::Field(name, field)) => {
                    // what is neither a pointer nor always printed
                    let drops_zero = !field.pointer && !field.always;
                    self.field(&mut reader, tag, name, field.node, drops_zero, map)?;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// One occurrence of a field: sets it, or adds an item or entry.
    fn field(
        &mut self,
        reader: &mut Reader<'_>,
        tag: Tag,
        name: &str,
        id: NodeId,
        drops_zero: bool,
        map: &mut Map,
    ) -> Result<(), ProtoError> {
        let node = self.schema.node(id);
        match (&node.kind, node.proto) {
            (NodeKind::List(list), ProtoForm::Plain) => {
                if !matches!(map.get(name), Some(Value::Array(_))) {
                    map.insert(name.into(), Value::Array(Vec::new().into()));
                }
                if let Some(Value::Array(items)) = map.get_mut(name) {
                    self.item(reader, tag, name, list.item, items)?;
                }
            }
            (NodeKind::Map { value, .. }, _) => {
                let entry = reader.bytes(tag, name)?;
                if !matches!(map.get(name), Some(Value::Object(_))) {
                    map.insert(name.into(), Value::Object(Map::new()));
                }
                if let Some(Value::Object(entries)) = map.get_mut(name) {
                    self.entry(entry, name, *value, entries)?;
                }
            }
            (NodeKind::Object(_), _) => {
                // a message that occurs twice is merged, as the wire format demands
                let raw = reader.bytes(tag, name)?;
                if !matches!(map.get(name), Some(Value::Object(_))) {
                    map.insert(name.into(), Value::Object(Map::new()));
                }
                if let Some(Value::Object(inner)) = map.get_mut(name) {
                    self.message(self.schema.message(id), raw, inner)?;
                }
            }
            _ => {
                let value = self.single(reader, tag, name, id)?;
                if drops_zero && is_zero(&node.kind, &value) {
                    map.remove(name);
                } else {
                    map.insert(name.into(), value);
                }
            }
        }
        Ok(())
    }

    /// One item of a list, or several that are packed.
    fn item(
        &mut self,
        reader: &mut Reader<'_>,
        tag: Tag,
        name: &str,
        id: NodeId,
        items: &mut Vec<Value>,
    ) -> Result<(), ProtoError> {
        let kind = &self.schema.node(id).kind;
        let packable = matches!(kind, NodeKind::Scalar(Scalar::Bool | Scalar::Int32 | Scalar::Int64));
        if packable && tag.wire == BYTES {
            let mut packed = Reader::new(reader.bytes(tag, name)?);
            while !packed.is_empty() {
                items.push(self.single(&mut packed, Tag { number: tag.number, wire: VARINT }, name, id)?);
            }
            return Ok(());
        }
        items.push(self.single(reader, tag, name, id)?);
        Ok(())
    }

    /// One entry of a map; an absent value is the zero of its type.
    fn entry(&mut self, raw: &[u8], name: &str, id: NodeId, entries: &mut Map) -> Result<(), ProtoError> {
        let mut reader = Reader::new(raw);
        let mut key = String::new();
        let mut value = None;
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => key = reader.text(tag, name)?,
                2 => value = Some(self.single(&mut reader, tag, name, id)?),
                _ => reader.skip(tag)?,
            }
        }
        let value = value.unwrap_or_else(|| match &self.schema.node(id).kind {
            NodeKind::Scalar(Scalar::Bytes) => Value::from(""),
            // what an empty message says
            NodeKind::List(_) => Value::Array(Vec::new().into()),
            NodeKind::Map { .. } => Value::Object(Map::new()),
            kind => coerce::zero(kind),
        });
        entries.insert(key.into(), value);
        Ok(())
    }

    /// One value of a type that is no repeated field.
    fn single(
        &mut self,
        reader: &mut Reader<'_>,
        tag: Tag,
        name: &str,
        id: NodeId,
    ) -> Result<Value, ProtoError> {
        let node = self.schema.node(id);
        match (&node.kind, node.proto) {
            (NodeKind::Scalar(kind), _) => scalar(reader, tag, name, *kind),
            (NodeKind::Object(_), _) => {
                let raw = reader.bytes(tag, name)?;
                let mut map = Map::new();
                self.message(self.schema.message(id), raw, &mut map)?;
                Ok(Value::Object(map))
            }
            (NodeKind::List(list), _) => {
                // a list within a list or map, or a list with a message of its own: items are in field 1
                let item = list.item;
                let mut inner = Reader::new(reader.bytes(tag, name)?);
                let mut items = Vec::new();
                while let Some(tag) = inner.tag()? {
                    if tag.number == 1 {
                        self.item(&mut inner, tag, name, item, &mut items)?;
                    } else {
                        inner.skip(tag)?;
                    }
                }
                Ok(Value::Array(items.into()))
            }
            (NodeKind::Map { value, .. }, _) => {
                let mut entries = Map::new();
                self.entry(reader.bytes(tag, name)?, name, *value, &mut entries)?;
                Ok(Value::Object(entries))
            }
            (NodeKind::Raw, ProtoForm::Union { object, other }) => {
                self.union(reader.bytes(tag, name)?, name, object, other)
            }
            (NodeKind::Raw, _) => raw_json(reader.bytes(tag, name)?, name),
        }
    }

    fn union(
        &mut self,
        raw: &[u8],
        name: &str,
        object: (u32, NodeId),
        other: (u32, NodeId),
    ) -> Result<Value, ProtoError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ProtoError::TooDeep);
        }
        let mut reader = Reader::new(raw);
        let mut found = Map::new();
        while let Some(tag) = reader.tag()? {
            // Go prefers the object where both are there
            if tag.number == object.0 {
                self.field(&mut reader, tag, "object", object.1, false, &mut found)?;
            } else if tag.number == other.0 {
                self.field(&mut reader, tag, name, other.1, false, &mut found)?;
            } else {
                reader.skip(tag)?;
            }
        }
        self.depth -= 1;
        Ok(found.remove("object").or_else(|| found.remove(name)).unwrap_or(Value::Null))
    }
}

/// The JSON text in field 1.
fn raw_json(raw: &[u8], name: &str) -> Result<Value, ProtoError> {
    let mut reader = Reader::new(raw);
    let mut text: &[u8] = &[];
    while let Some(tag) = reader.tag()? {
        if tag.number == 1 {
            text = reader.bytes(tag, name)?;
        } else {
            reader.skip(tag)?;
        }
    }
    if text.is_empty() {
        return Ok(Value::Null);
    }
    if text.starts_with(MAGIC) {
        return Err(ProtoError::Text(format!("{name}: an embedded object must be JSON here")));
    }
    json::parse(text).map(|p| p.value).map_err(|e| ProtoError::Text(e.to_string()))
}

/// Integers of a small message by number, and its strings.
fn small_message(raw: &[u8], name: &str) -> Result<([i64; 3], String), ProtoError> {
    let mut integers = [0; 3];
    let mut text = String::new();
    let mut reader = Reader::new(raw);
    while let Some(tag) = reader.tag()? {
        match (tag.number, tag.wire) {
            (1 | 3, BYTES) => text = reader.text(tag, name)?,
            (1 | 2, VARINT) => integers[tag.number as usize] = reader.integer(tag, name)?,
            _ => reader.skip(tag)?,
        }
    }
    Ok((integers, text))
}

fn scalar(reader: &mut Reader<'_>, tag: Tag, name: &str, kind: Scalar) -> Result<Value, ProtoError> {
    Ok(match kind {
        Scalar::Bool => Value::Bool(reader.integer(tag, name)? != 0),
        Scalar::Int32 => Value::from(reader.integer(tag, name)? as i32),
        Scalar::Int64 => Value::from(reader.integer(tag, name)?),
        Scalar::Float => {
            let float = reader.double(tag, name)?;
            Number::from_f64(float)
                .map(Value::Number)
                .ok_or_else(|| ProtoError::Text(format!("json: unsupported value: {float}")))?
        }
        Scalar::String => Value::String(reader.text(tag, name)?),
        Scalar::Bytes => Value::String(BASE64.encode(reader.bytes(tag, name)?)),
        Scalar::Quantity => {
            let (_, text) = small_message(reader.bytes(tag, name)?, name)?;
            let mut value = Value::from(if text.is_empty() { "0".into() } else { text });
            coerce::scalar(kind, &mut value).map_err(|e| ProtoError::Text(e.to_string()))?;
            value
        }
        Scalar::IntOrString => {
            let ([_, string, number], text) = small_message(reader.bytes(tag, name)?, name)?;
            if string == 0 { Value::from(number as i32) } else { Value::from(text) }
        }
        Scalar::Time | Scalar::MicroTime => {
            let raw = reader.bytes(tag, name)?;
            if raw.is_empty() {
                return Ok(Value::Null);
            }
            let ([_, seconds, nanos], _) = small_message(raw, name)?;
            let time = gotime::Instant { seconds, nanos: (nanos as i32).clamp(0, 999_999_999) };
            let text = if kind == Scalar::Time { time.to_time() } else { time.to_micro_time() };
            text.map_or(Value::Null, Value::String)
        }
        Scalar::Duration => {
            let ([_, nanos, _], _) = small_message(reader.bytes(tag, name)?, name)?;
            Value::String(gotime::format_duration(nanos))
        }
    })
}
