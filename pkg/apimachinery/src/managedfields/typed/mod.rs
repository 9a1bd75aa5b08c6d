//! Objects together with their schema: which fields one has, how two differ, merging, removing.
//!
//! [`Typed`] answers what shape a type gives a value; each walker is a file of its own. A walker descends as deep as
//! the value does, and values come from parsers with a bounded depth.

mod compare;
mod created;
mod fields;
mod merge;
mod reconcile;
mod remove;
#[cfg(test)]
mod tests;
mod validate;

use std::sync::Arc;

pub(super) use compare::Diff;
pub(super) use created::{Unowned, Unusual};

use super::fieldpath::PathElement;
use crate::schema::{Fields, ListTopology, MapType, NodeId, NodeKind, Scalar, Schema};
use crate::{Map, Value};

/// Deepest path that has an owner of its own; what is below belongs with it. Managed fields nest as deep as the object
/// does, inside of it, and an object must be readable with them.
const MAX_OWNED_DEPTH: usize = 100;

/// A schema as the walkers read it.
#[derive(Clone, Copy)]
pub(super) struct Typed<'s> {
    schema: &'s Schema,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// A node of the schema.
    Node(NodeId),
    /// Free-form content of a custom resource: maps per key, lists and scalars as one.
    Deduced,
    /// Free-form content of a built-in kind: one field, whatever it is.
    Opaque,
}

/// What scalar a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Number,
    Text,
    Bool,
    Any,
}

/// How items of a list are told apart.
#[derive(Debug, Clone, Copy)]
enum Identity<'s> {
    /// They are not: the list is one field.
    Atomic,
    /// By value.
    Value,
    /// By these fields.
    Keys(&'s [Box<str>]),
}

/// The shape a type gives a value.
#[derive(Debug, Clone, Copy)]
enum Shape<'s> {
    Leaf(Leaf),
    List { item: Type, identity: Identity<'s> },
    Map(MapShape<'s>),
}

#[derive(Debug, Clone, Copy)]
struct MapShape<'s> {
    /// Declared fields.
    fields: Option<&'s Fields>,
    /// Type of all others; `None`: there must be none.
    rest: Option<Type>,
    /// The map is one field.
    atomic: bool,
}

impl MapShape<'_> {
    fn free(rest: Type) -> Self {
        Self { fields: None, rest: Some(rest), atomic: false }
    }

    fn declares(&self, key: &str) -> bool {
        self.fields.is_some_and(|fields| fields.contains_key(key))
    }

    /// Type of a field; undeclared ones of closed types are opaque to walkers that do not validate.
    fn child(&self, key: &str) -> Type {
        self.known(key).unwrap_or(Type::Opaque)
    }

    fn known(&self, key: &str) -> Option<Type> {
        match self.fields.and_then(|fields| fields.get(key)) {
            Some(field) => Some(Type::Node(field.node)),
            None => self.rest,
        }
    }
}

impl Shape<'_> {
    /// One field, not to be descended into.
    fn is_leaf(&self) -> bool {
        match self {
            Shape::Leaf(_) => true,
            Shape::List { identity, .. } => matches!(identity, Identity::Atomic),
            Shape::Map(map) => map.atomic,
        }
    }
}

/// Why an item of a list has no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what each is")]
enum NoIdentity {
    #[error("invalid indexing of non-associative list")]
    Atomic,
    #[error("associative list with keys may not have a null element")]
    NullItem,
    #[error("associative list with keys may not have non-map elements")]
    NotMap,
    #[error(
        "associative list with keys has an element that omits all key fields [{0}] (and doesn't have default values for any key fields)"
    )]
    NoKeys(String),
    #[error("associative list without keys has an element that's a map type")]
    MapInSet,
    #[error("not supported: associative list with lists as elements")]
    ListInSet,
    #[error("associative list without keys has an element that's an explicit null")]
    NullInSet,
}

impl<'s> Typed<'s> {
    pub(super) fn new(schema: &'s Schema) -> Self {
        Self { schema }
    }

    fn shape(self, ty: Type, value: &Value) -> Shape<'s> {
        let node = match ty {
            Type::Deduced => return free_form(value, Type::Deduced, false),
            Type::Opaque => return free_form(value, Type::Opaque, true),
            Type::Node(id) => self.schema.node(id),
        };
        match &node.kind {
            NodeKind::Object(object) => Shape::Map(MapShape {
                fields: Some(&object.fields),
                rest: object.preserve_unknown.then_some(Type::Deduced),
                atomic: object.map_type == MapType::Atomic,
            }),
            NodeKind::Map { value, map_type } => Shape::Map(MapShape {
                fields: None,
                rest: Some(Type::Node(*value)),
                atomic: *map_type == MapType::Atomic,
            }),
            NodeKind::List(list) => Shape::List {
                item: Type::Node(list.item),
                identity: match &list.topology {
                    ListTopology::Atomic => Identity::Atomic,
                    ListTopology::Set => Identity::Value,
                    ListTopology::Map(keys) => Identity::Keys(keys),
                },
            },
            NodeKind::Scalar(scalar) => Shape::Leaf(match scalar {
                Scalar::Bool => Leaf::Bool,
                Scalar::Int32 | Scalar::Int64 | Scalar::Float => Leaf::Number,
                Scalar::String | Scalar::Bytes | Scalar::Duration => Leaf::Text,
                Scalar::Quantity | Scalar::IntOrString | Scalar::Time | Scalar::MicroTime => Leaf::Any,
            }),
            // of the built-in free-form types, objects (RawExtension, FieldsV1) have an owner per key of the first
            // level, any JSON has one owner
            NodeKind::Raw if node.name.is_empty() => free_form(value, Type::Deduced, false),
            NodeKind::Raw if node.name.contains(".RawExtension") || node.name.contains(".FieldsV1") => {
                free_form(value, Type::Opaque, false)
            }
            NodeKind::Raw => free_form(value, Type::Opaque, true),
        }
    }

    /// The path element of a list item.
    fn element(self, item: Type, identity: Identity<'_>, value: &Value) -> Result<PathElement, NoIdentity> {
        match (identity, value) {
            (Identity::Atomic, _) => Err(NoIdentity::Atomic),
            (Identity::Keys(_), Value::Null) => Err(NoIdentity::NullItem),
            (Identity::Keys(keys), Value::Object(map)) => {
                let fields: Vec<(Arc<str>, Value)> = keys
                    .iter()
                    .filter_map(|key| {
                        let value = map.get(key).or_else(|| self.default_of(item, key))?;
                        Some(((&**key).into(), value.clone()))
                    })
                    .collect();
                if fields.is_empty() {
                    let names: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                    return Err(NoIdentity::NoKeys(names.join(" ")));
                }
                Ok(PathElement::key(fields))
            }
            (Identity::Keys(_), _) => Err(NoIdentity::NotMap),
            (Identity::Value, Value::Object(_)) => Err(NoIdentity::MapInSet),
            (Identity::Value, Value::Array(_)) => Err(NoIdentity::ListInSet),
            (Identity::Value, Value::Null) => Err(NoIdentity::NullInSet),
            (Identity::Value, scalar) => Ok(PathElement::Value(Arc::new(scalar.clone()))),
        }
    }

    fn default_of(self, item: Type, key: &str) -> Option<&'s Value> {
        let Type::Node(node) = item else { return None };
        self.schema.field(node, key)?.default.as_deref()
    }
}

/// The shape of a value without schema: told by the value. `null` counts as a map, as upstream's does.
fn free_form(value: &Value, below: Type, atomic: bool) -> Shape<'static> {
    match value {
        Value::Object(_) | Value::Null => Shape::Map(MapShape { atomic, ..MapShape::free(below) }),
        Value::Array(_) => Shape::List { item: Type::Opaque, identity: Identity::Atomic },
        _ => Shape::Leaf(Leaf::Any),
    }
}

/// The entries of a value that should be a map; none for null and everything else.
fn entries(value: &Value) -> Option<&Map> {
    value.as_object().filter(|map| !map.is_empty())
}

/// The items of a value that should be a list; none for null and everything else.
fn items(value: &Value) -> Option<&[Value]> {
    value.as_array().filter(|list| !list.is_empty()).map(Vec::as_slice)
}
