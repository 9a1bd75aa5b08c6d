//! Whether an applied configuration fits its schema.

use std::collections::BTreeSet;
use std::fmt;

use super::{Identity, Leaf, Shape, Type, Typed};
use crate::Value;
use crate::managedfields::fieldpath::{Path, PathElement};
use crate::patch::{Plain, Syntax, type_name};

/// Most problems reported of one configuration.
const MAX_PROBLEMS: usize = 100;

/// What does not fit, one text a problem, as upstream words them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::managedfields) struct Invalid(Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            many => {
                f.write_str("errors:")?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Invalid {}

struct Walk {
    path: Vec<PathElement>,
    problems: Vec<String>,
}

impl Walk {
    fn problem(&mut self, text: impl fmt::Display) {
        if self.problems.len() < MAX_PROBLEMS {
            let path = Path(&self.path).to_string();
            self.problems.push(if path.is_empty() { text.to_string() } else { format!("{path}: {text}") });
        }
    }
}

impl Typed<'_> {
    /// Checks that a value has the shape of its type: no unknown fields, no duplicate items, no wrong types.
    pub(in crate::managedfields) fn validate(self, ty: Type, value: &Value) -> Result<(), Invalid> {
        let mut walk = Walk { path: Vec::new(), problems: Vec::new() };
        self.check(ty, value, &mut walk);
        if walk.problems.is_empty() { Ok(()) } else { Err(Invalid(walk.problems)) }
    }

    fn check(self, ty: Type, value: &Value, walk: &mut Walk) {
        if value.is_null() {
            return;
        }
        match self.shape(ty, value) {
            Shape::Leaf(leaf) => check_leaf(leaf, value, walk),
            Shape::Map(map) => {
                let Value::Object(members) = value else {
                    return walk.problem(format_args!("expected map, got &{{{}}}", Plain(value)));
                };
                for (key, child) in members {
                    walk.path.push(PathElement::field(key));
                    match map.known(key) {
                        Some(ty) => self.check(ty, child, walk),
                        None => walk.problem("field not declared in schema"),
                    }
                    walk.path.pop();
                }
            }
            Shape::List { item, identity } => {
                let Value::Array(list) = value else {
                    return walk.problem(format_args!("expected list, got &{{{}}}", Plain(value)));
                };
                self.check_items(item, identity, list, walk);
            }
        }
    }

    fn check_items(self, item: Type, identity: Identity<'_>, list: &[Value], walk: &mut Walk) {
        let mut seen = BTreeSet::new();
        for (index, child) in list.iter().enumerate() {
            let element = if matches!(identity, Identity::Atomic) {
                PathElement::Index(index as i64)
            } else {
                match self.element(item, identity, child) {
                    Ok(element) => {
                        if !seen.insert(element.clone()) {
                            walk.problem(format_args!("duplicate entries for key {element}"));
                        }
                        element
                    }
                    Err(reason) => return walk.problem(format_args!("element {index}: {reason}")),
                }
            };
            walk.path.push(element);
            self.check(item, child, walk);
            walk.path.pop();
        }
    }
}

fn check_leaf(leaf: Leaf, value: &Value, walk: &mut Walk) {
    match (leaf, value) {
        (Leaf::Number | Leaf::Any, Value::Number(_))
        | (Leaf::Text | Leaf::Any, Value::String(_))
        | (Leaf::Bool | Leaf::Any, Value::Bool(_)) => {}
        (Leaf::Number, other) => {
            walk.problem(format_args!("expected numeric (int or float), got {}", type_name(other)));
        }
        (Leaf::Text, other) => {
            walk.problem(format_args!(
                "expected string, got &value.valueUnstructured{{Value:{}}}",
                Syntax(other)
            ));
        }
        (Leaf::Bool, other) => walk.problem(format_args!("expected boolean, got &{{{}}}", Plain(other))),
        (Leaf::Any, other) => walk.problem(format_args!("expected any scalar, got &{{{}}}", Plain(other))),
    }
}
