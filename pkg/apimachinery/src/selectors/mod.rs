//! Selectors: labels, fields and nodes.

pub mod fields;
pub mod labels;
pub mod nodes;
mod parse;

use std::collections::{BTreeMap, HashMap};

use crate::{Map, Value};

pub use fields::FieldSelector;
pub use labels::{LabelSelector, Operator, Requirement};

/// Labels to match against.
pub trait LabelSet {
    /// The value of a label, `None` without the label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl LabelSet for Map {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// A JSON map of labels; anything else has none.
impl LabelSet for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSet for HashMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl LabelSet for [(Box<str>, Box<str>)] {
    /// The pairs are sorted by key.
    fn label(&self, key: &str) -> Option<&str> {
        self.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|i| &*self[i].1)
    }
}

impl<T: LabelSet + ?Sized> LabelSet for Option<&T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.and_then(|labels| labels.label(key))
    }
}
