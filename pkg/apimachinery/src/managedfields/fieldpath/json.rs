//! FieldsV1: the JSON form of a set.
//!
//! Every element is a key (`f:NAME`, `k:{...}`, `v:VALUE`, `i:N`) over the object of what is below it; `.` says that the
//! element itself is a member too, an empty object that it alone is.

use std::fmt::Write;
use std::sync::Arc;

use crate::Number;

use super::{PathElement, Set};
use crate::{Map, Value, text};

/// Why a FieldsV1 document is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// A key without type and colon.
    #[error("parsing key as path element: missing colon: {0}")]
    NoColon(String),
    /// A key whose rest does not parse.
    #[error("parsing key as path element: {key}: {reason}")]
    Element {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Something other than an object.
    #[error("expected object, got {0}")]
    NotObject(&'static str),
}

impl Set {
    /// Reads FieldsV1. Elements of unknown type are dropped, as a later version may know them.
    ///
    /// # Errors
    /// [`FieldsError`].
    pub fn from_fields_v1(fields: &Value) -> Result<Self, FieldsError> {
        Ok(read(fields)?.0)
    }

    /// FieldsV1 as a tree.
    pub fn to_fields_v1(&self) -> Value {
        Value::Object(self.to_map(false))
    }

    /// FieldsV1 as text, in upstream's order: `.`, then the elements in theirs (numbers by worth, unlike a tree, which
    /// sorts its keys as text).
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write(false, &mut out);
        out
    }

    fn to_map(&self, member: bool) -> Map {
        let mut map = Map::new();
        if member && !self.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for entry in self.entries() {
            let mut key = String::new();
            entry.element.write_key(&mut key);
            map.insert(key.into(), Value::Object(entry.children.to_map(entry.member)));
        }
        map
    }

    fn write(&self, member: bool, out: &mut String) {
        out.push('{');
        let mut first = true;
        if member && !self.is_empty() {
            out.push_str(r#"".":{}"#);
            first = false;
        }
        for entry in self.entries() {
            if !first {
                out.push(',');
            }
            first = false;
            let mut key = String::new();
            entry.element.write_key(&mut key);
            text::string(&key, out);
            out.push(':');
            entry.children.write(entry.member, out);
        }
        out.push('}');
    }
}

/// The set below a node and whether the node itself is a member.
fn read(fields: &Value) -> Result<(Set, bool), FieldsError> {
    let map = match fields {
        Value::Object(map) => map,
        Value::Null => return Ok((Set::new(), true)),
        Value::Bool(_) => return Err(FieldsError::NotObject("bool")),
        Value::Number(_) => return Err(FieldsError::NotObject("number")),
        Value::String(_) => return Err(FieldsError::NotObject("string")),
        Value::Array(_) => return Err(FieldsError::NotObject("array")),
    };
    let mut set = Set::new();
    let mut member = false;
    for (key, below) in map {
        if key == "." {
            member = true;
            continue;
        }
        let Some(element) = PathElement::from_key(key)? else { continue };
        let (children, child_member) = read(below)?;
        set.push(element, child_member, children);
    }
    member |= set.is_empty();
    Ok((set, member))
}

impl PathElement {
    /// Reads the key form; `None` for a type nobody knows.
    ///
    /// # Errors
    /// [`FieldsError`].
    pub fn from_key(key: &str) -> Result<Option<Self>, FieldsError> {
        let bad = |reason: String| FieldsError::Element { key: key.to_owned(), reason };
        let (kind, rest) = match key.split_once(':') {
            Some((kind, rest)) if kind.len() == 1 => (kind, rest),
            _ => return Err(FieldsError::NoColon(key.to_owned())),
        };
        Ok(Some(match kind {
            "f" => Self::field(rest),
            "v" => {
                let value: Value = serde_json::from_str(rest).map_err(|e| bad(e.to_string()))?;
                Self::Value(Arc::new(plain(value)))
            }
            "k" => {
                let fields: Map = serde_json::from_str(rest).map_err(|e| bad(e.to_string()))?;
                Self::Key(fields.into_iter().map(|(name, value)| (name.into(), plain(value))).collect())
            }
            "i" => Self::Index(rest.parse().map_err(|e: std::num::ParseIntError| bad(e.to_string()))?),
            _ => return Ok(None),
        }))
    }

    /// Writes the key form.
    pub(super) fn write_key(&self, out: &mut String) {
        match self {
            Self::Field(name) => {
                out.push_str("f:");
                out.push_str(name);
            }
            Self::Key(fields) => {
                out.push_str("k:{");
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    text::string(name, out);
                    out.push(':');
                    push_go_json(value, out);
                }
                out.push('}');
            }
            Self::Value(value) => {
                out.push_str("v:");
                push_go_json(value, out);
            }
            Self::Index(index) => {
                // writing to a String cannot fail
                let _ = write!(out, "i:{index}");
            }
        }
    }
}

/// Numbers as Go reads and prints them: whole ones without a fraction.
fn plain(value: Value) -> Value {
    /// Below this every whole float is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        Some(float) if value.as_i64().is_none() && float.fract() == 0.0 && float.abs() < EXACT => {
            Value::Number(Number::from(float as i64))
        }
        _ => value,
    }
}

/// JSON with what Go escapes for HTML's sake.
fn push_go_json(value: &Value, out: &mut String) {
    let start = out.len();
    text::value(value, out);
    if out[start..].contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        let escaped = json_escape(&out[start..]);
        out.truncate(start);
        out.push_str(&escaped);
    }
}

/// JSON text as Go's encoder escapes it by default.
pub(in crate::managedfields) fn json_escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}
