//! Schema defaults, and the form an object has after a round trip through Go's types.
//!
//! Upstream's stored and served JSON is what Go's encoder prints: empty optional fields are gone, fields without
//! `omitempty` and non-pointer structs are always there. [`normalise`] makes a tree so; both passes walk a tree once
//! and allocate only for what they add.

use crate::coerce;
use crate::schema::{Field, NodeId, NodeKind, ObjectType, ProtoForm, Scalar, Schema};
use crate::{Key, Map, Value};

/// Deepest nesting of structs that are printed although nobody set them. Go's types cannot nest in themselves without
/// a pointer, so only a wrong schema reaches it.
const MAX_STRUCT_DEPTH: usize = 16;

/// Per object type, what the walkers add or look for; made once per arena.
#[derive(Debug, Default)]
pub(crate) struct Additions {
    types: Vec<TypeAdditions>,
}

#[derive(Debug, Default)]
struct TypeAdditions {
    /// Fields that are always printed, with what is printed when nobody set them.
    always: Vec<(Key, Value)>,
    /// Fields with a default.
    defaults: Vec<Key>,
    /// A type below (or this one) has defaults.
    reaches_defaults: bool,
}

impl Additions {
    pub(crate) fn new(schema: &Schema) -> Self {
        let mut types: Vec<TypeAdditions> = (0..schema.len()).map(|_| TypeAdditions::default()).collect();
        for (id, node) in schema.iter() {
            let NodeKind::Object(object) = &node.kind else {
                continue;
            };
            let own = &mut types[id.0 as usize];
            for (name, field) in object.fields.iter() {
                if field.always {
                    own.always.push((name.into(), printed_zero(schema, field, 0)));
                }
                if field.default.is_some() {
                    own.defaults.push(name.into());
                    own.reaches_defaults = true;
                }
            }
        }
        // types refer to each other in cycles, so the flag is spread until nothing changes
        loop {
            let mut changed = false;
            for (id, node) in schema.iter() {
                let index = id.0 as usize;
                let reaches =
                    |child: NodeId, types: &[TypeAdditions]| types[child.0 as usize].reaches_defaults;
                let found = match &node.kind {
                    NodeKind::Object(object) => object.fields.values().any(|f| reaches(f.node, &types)),
                    NodeKind::Map { value, .. } => reaches(*value, &types),
                    NodeKind::List(list) => reaches(list.item, &types),
                    NodeKind::Scalar(_) | NodeKind::Raw => false,
                };
                if found && !types[index].reaches_defaults {
                    types[index].reaches_defaults = true;
                    changed = true;
                }
            }
            if !changed {
                return Self { types };
            }
        }
    }

    fn of(&self, id: NodeId) -> &TypeAdditions {
        &self.types[id.0 as usize]
    }
}

/// What Go prints for a field that is always printed and was not set.
fn printed_zero(schema: &Schema, field: &Field, depth: usize) -> Value {
    let kind = &schema.node(field.node).kind;
    if field.pointer {
        return Value::Null;
    }
    let NodeKind::Object(object) = kind else {
        return coerce::zero(kind);
    };
    if depth >= MAX_STRUCT_DEPTH {
        return Value::Object(Map::new());
    }
    let fields = object.fields.iter().filter(|(_, f)| f.always);
    Value::Object(fields.map(|(n, f)| (n.to_string(), printed_zero(schema, f, depth + 1))).collect())
}

/// Whether a value is what Go's `omitempty` leaves out; of structs that is nothing but their absence.
pub(crate) fn is_zero(kind: &NodeKind, value: &Value) -> bool {
    if is_struct(kind) {
        return value.is_null();
    }
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// `omitempty` has no effect on structs; these scalars are structs in Go.
fn is_struct(kind: &NodeKind) -> bool {
    matches!(
        kind,
        NodeKind::Object(_)
            | NodeKind::Raw
            | NodeKind::Scalar(
                Scalar::Quantity | Scalar::IntOrString | Scalar::Time | Scalar::MicroTime | Scalar::Duration
            )
    )
}

/// Sets schema defaults where a field is absent (or, for fields that are no pointers, holds its zero value), in objects
/// that exist. A default that is an object gets its own defaults too.
pub fn apply_defaults(schema: &Schema, root: NodeId, value: &mut Value) {
    default_changed(schema, root, value, None);
}

/// [`apply_defaults`] to what has become of a value that has its defaults: what the two share is passed by.
pub fn default_changed(schema: &Schema, root: NodeId, value: &mut Value, settled: Option<&Value>) {
    default_value(schema, schema.additions(), root, value, settled);
}

fn default_value(
    schema: &Schema,
    additions: &Additions,
    id: NodeId,
    value: &mut Value,
    settled: Option<&Value>,
) {
    let own = additions.of(id);
    if !own.reaches_defaults || settled.is_some_and(|settled| settled.shares(value)) {
        return;
    }
    match (&schema.node(id).kind, value) {
        (NodeKind::Object(object), Value::Object(map)) => {
            for name in &own.defaults {
                set_default(schema, object, name, map);
            }
            for (name, child) in map.iter_mut() {
                if let Some(field) = object.fields.get(name.as_str()) {
                    let settled = settled.and_then(|s| s.get(name));
                    default_value(schema, additions, field.node, child, settled);
                }
            }
        }
        (NodeKind::Map { value: item, .. }, Value::Object(map)) => {
            for (name, child) in map {
                default_value(schema, additions, *item, child, settled.and_then(|s| s.get(name)));
            }
        }
        (NodeKind::List(list), Value::Array(items)) => {
            for (index, child) in items.iter_mut().enumerate() {
                default_value(schema, additions, list.item, child, settled.and_then(|s| s.get(index)));
            }
        }
        _ => {}
    }
}

fn set_default(schema: &Schema, object: &ObjectType, name: &Key, map: &mut Map) {
    let Some((field, default)) =
        object.fields.get(name.as_str()).and_then(|f| Some((f, f.default.as_ref()?)))
    else {
        return;
    };
    let kind = &schema.node(field.node).kind;
    match map.get_mut(name) {
        None => {
            map.insert(name.clone(), Value::clone(default));
        }
        Some(value) => {
            let unset = if field.pointer { value.is_null() && !field.nullable } else { is_zero(kind, value) };
            if unset {
                *value = Value::clone(default);
            }
        }
    }
}

/// Makes an object what Go's encoder prints of it: zero values of optional fields dropped, fields that are always
/// printed added, quantities, times and durations canonical. Idempotent; unknown fields are left alone.
pub fn normalise(schema: &Schema, root: NodeId, value: &mut Value) {
    normalise_changed(schema, root, value, None);
}

/// [`normalise`] of what has become of a value that is normal already: what the two share is passed by.
pub fn normalise_changed(schema: &Schema, root: NodeId, value: &mut Value, settled: Option<&Value>) {
    normalise_value(schema, schema.additions(), root, value, settled);
}

fn normalise_value(
    schema: &Schema,
    additions: &Additions,
    id: NodeId,
    value: &mut Value,
    settled: Option<&Value>,
) {
    if settled.is_some_and(|settled| settled.shares(value)) {
        return;
    }
    let node = schema.node(id);
    match (&node.kind, value) {
        (NodeKind::Raw, value) => {
            if let ProtoForm::Union { object, other } = node.proto {
                let id = if value.is_object() { object.1 } else { other.1 };
                normalise_value(schema, additions, id, value, None);
            }
        }
        (NodeKind::Object(object), Value::Object(map)) => {
            map.retain(|name, child| {
                let Some(field) = object.fields.get(name.as_str()) else {
                    return true;
                };
                normalise_value(schema, additions, field.node, child, settled.and_then(|s| s.get(name)));
                keeps(schema, field, child)
            });
            for (name, zero) in &additions.of(id).always {
                if !map.contains_key(name) {
                    map.insert(name.clone(), zero.clone());
                }
            }
        }
        (NodeKind::Map { value: item, .. }, Value::Object(map)) => {
            for (name, child) in map {
                normalise_value(schema, additions, *item, child, settled.and_then(|s| s.get(name)));
            }
        }
        (NodeKind::List(list), Value::Array(items)) => {
            for (index, child) in items.iter_mut().enumerate() {
                normalise_value(schema, additions, list.item, child, settled.and_then(|s| s.get(index)));
            }
        }
        (NodeKind::Scalar(kind), value) => normalise_scalar(*kind, value),
        _ => {}
    }
}

/// Whether a field, its value normalised, is printed.
fn keeps(schema: &Schema, field: &Field, value: &mut Value) -> bool {
    let kind = &schema.node(field.node).kind;
    if value.is_null() {
        if field.always && !field.pointer {
            *value = printed_zero(schema, field, 0);
        }
        return field.always || field.nullable;
    }
    field.always || field.pointer || !is_zero(kind, value)
}

fn normalise_scalar(kind: Scalar, value: &mut Value) {
    match (kind, &mut *value) {
        (Scalar::Quantity | Scalar::Time | Scalar::MicroTime | Scalar::Duration, Value::String(_)) => {
            // what does not parse is not for this pass to judge: validation sees it as it is
            let _ = coerce::scalar(kind, value);
        }
        (Scalar::Float, Value::Number(number)) => {
            let whole = number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0 && f.abs() < 1e15);
            if let Some(whole) = whole {
                *value = Value::from(whole as i64);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;
    use crate::testing::pod_schema;

    #[test]
    fn optional_zeros_go_and_fixed_fields_come() {
        let (schema, root) = pod_schema();
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "generation": 0, "labels": {}, "finalizers": [], "creationTimestamp": null,
                "deletionGracePeriodSeconds": 0},
            "spec": {
                "nodeName": "", "hostNetwork": false, "terminationGracePeriodSeconds": 0, "weight": 2.0,
                "timeout": "60s", "blobs": {"a": ""}, "unknown": {},
                "containers": [
                    {"stdin": false, "ports": [], "livenessProbe": {}, "resources": {"limits": {"cpu": "1000m"}}},
                    {"ports": [{}], "resources": {}},
                ],
            },
        });
        normalise(&schema, root, &mut value);
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "deletionGracePeriodSeconds": 0},
            "spec": {
                "terminationGracePeriodSeconds": 0, "weight": 2, "timeout": "1m0s", "blobs": {"a": ""}, "unknown": {},
                "containers": [
                    {"name": "", "livenessProbe": {}, "resources": {"limits": {"cpu": "1"}}},
                    {"name": "", "ports": [{"containerPort": 0}], "resources": {}},
                ],
            },
        });
        assert_eq!(value, expected);
        normalise(&schema, root, &mut value);
        assert_eq!(value, expected);
        let mut empty = json!({});
        normalise(&schema, root, &mut empty);
        assert_eq!(empty, json!({"metadata": {}, "spec": {"containers": null}}));
    }

    #[test]
    fn defaults_fill_what_is_absent_or_zero() {
        let (schema, root) = pod_schema();
        let mut value = json!({"spec": {"containers": [
            {"ports": [{"containerPort": 1}, {"protocol": ""}, {"protocol": null}, {"protocol": "UDP"}]},
        ]}});
        apply_defaults(&schema, root, &mut value);
        let protocols: Vec<&str> = value["spec"]["containers"][0]["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["protocol"].as_str().unwrap())
            .collect();
        assert_eq!(protocols, ["TCP", "TCP", "TCP", "UDP"]);
        assert!(value.get("metadata").is_none());
    }
}
