//! Paths to fields, and sets of paths.
//!
//! A path is a list of [`PathElement`]s; a [`Set`] is a trie of them in which each node says whether the path to it is
//! a member. Both are immutable where it matters and cheap to clone: names and keys are shared.

mod json;
mod recorded;
mod set;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

pub use json::FieldsError;
pub(super) use json::json_escape;
pub use recorded::Recorded;
pub(super) use recorded::has_elements;
pub use set::{Entry, Set};

use crate::json::go_quote;
use crate::patch::compare;
use crate::{Key, Value};

/// One step of a path.
#[derive(Debug, Clone)]
pub enum PathElement {
    /// A field of an object or an entry of a map: `f:NAME`.
    Field(Key),
    /// The item of a list that has these values in its key fields, sorted by name: `k:{...}`.
    Key(Arc<[(Arc<str>, Value)]>),
    /// The item of a set: `v:VALUE`.
    Value(Arc<Value>),
    /// The item at an index: `i:N`.
    Index(i64),
}

impl PathElement {
    /// A field's element.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// The element of a list item with these keys, given in any order.
    pub fn key(mut fields: Vec<(Arc<str>, Value)>) -> Self {
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self::Key(fields.into())
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

impl Ord for PathElement {
    /// Fields, keys, values, indices; each among themselves by name, key fields, value, number.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b.iter()) {
                    let order = a_name.cmp(b_name).then_with(|| compare(a_value, b_value));
                    if order.is_ne() {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

impl fmt::Display for PathElement {
    /// As upstream's messages print it: `.name`, `[name="a"]`, `[="x"]`, `[3]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={}", Shown(value))?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={}]", Shown(value)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path as messages print it: `.spec.containers[name="a"].image`.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a>(pub &'a [PathElement]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| write!(f, "{element}"))
    }
}

struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => f.write_str(&go_quote(text)),
            Value::Array(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{}", Shown(item))?;
                }
                f.write_str("]")
            }
            Value::Object(map) => map.iter().try_for_each(|(key, value)| write!(f, "{key}={}", Shown(value))),
            other => write!(f, "{other}"),
        }
    }
}

#[cfg(test)]
mod tests;
