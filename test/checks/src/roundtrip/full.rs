//! An object of any type with every field set: the same one every time, made from the schema alone.

use std::collections::HashMap;

use apimachinery::Value;
use apimachinery::schema::{ListTopology, NodeId, NodeKind, ProtoForm, Scalar, Schema};
use apimachinery::{Map, json};

/// How often a type may be within itself: once, so that recursion is seen and ends.
const MAX_WITHIN: u32 = 2;

/// Texts that some format could take for something else.
const ODD: [&str; 12] = [
    "yes",
    "0644",
    "null",
    "~",
    "1e3",
    "a: b",
    " lead and trail ",
    "two\nlines\n",
    "'\"\\",
    "# none",
    "é✓",
    "- x",
];

/// An object of a kind with every field set.
pub fn object(schema: &Schema, root: NodeId, api_version: &str, kind: &str) -> Value {
    let mut maker = Maker { schema, within: HashMap::new(), made: 0 };
    let mut object = maker.value(root, "").unwrap_or_default();
    for (field, value) in [("apiVersion", api_version), ("kind", kind)] {
        if object[field].is_string() {
            object[field] = value.into();
        }
    }
    for (field, value) in [("name", "full"), ("namespace", "default")] {
        if object["metadata"][field].is_string() {
            object["metadata"][field] = value.into();
        }
    }
    object
}

struct Maker<'a> {
    schema: &'a Schema,
    within: HashMap<NodeId, u32>,
    /// Values made so far, which makes each one different.
    made: u32,
}

impl Maker<'_> {
    /// A value of a type; `None` where the type is within itself often enough.
    fn value(&mut self, id: NodeId, name: &str) -> Option<Value> {
        let node = self.schema.node(id);
        if !node.name.is_empty() {
            let within = self.within.entry(id).or_default();
            if *within == MAX_WITHIN {
                return None;
            }
            *within += 1;
        }
        self.made += 1;
        let value = match &node.kind {
            NodeKind::Object(object) => {
                let mut map = Map::new();
                for (name, field) in object.fields.iter() {
                    if let Some(value) = self.value(field.node, name) {
                        map.insert(name.to_string().into(), value);
                    }
                }
                Some(Value::Object(map))
            }
            NodeKind::Map { value, .. } => {
                let entries = (1..=2).filter_map(|n| Some((format!("key-{n}"), self.value(*value, name)?)));
                Some(Value::Object(entries.collect())).filter(|map| *map != json!({}))
            }
            NodeKind::List(list) => {
                // one of each, where items are told apart by what they are
                let items: Vec<Value> = (0..2).filter_map(|_| self.value(list.item, name)).collect();
                let bools = matches!(self.schema.node(list.item).kind, NodeKind::Scalar(Scalar::Bool));
                let one = bools && list.topology == ListTopology::Set;
                Some(items.into_iter().take(if one { 1 } else { 2 }).collect())
                    .filter(|list: &Value| *list != json!([]))
            }
            NodeKind::Scalar(scalar) => Some(self.scalar(*scalar, name)),
            NodeKind::Raw => self.raw(node.proto, &node.name, name),
        };
        if !node.name.is_empty()
            && let Some(within) = self.within.get_mut(&id)
        {
            *within -= 1;
        }
        value
    }

    fn raw(&mut self, form: ProtoForm, definition: &str, name: &str) -> Option<Value> {
        match form {
            ProtoForm::Union { object, other } => {
                // either form in turn, the other one where types would be within themselves too often
                let (first, second) =
                    if self.made.is_multiple_of(2) { (object.1, other.1) } else { (other.1, object.1) };
                self.value(first, name).or_else(|| self.value(second, name))
            }
            _ if definition.ends_with("FieldsV1") => {
                Some(json!({"f:spec": {"f:a": {}, "k:{\"name\":\"x\"}": {".": {}}}}))
            }
            _ if definition.ends_with("RawExtension") => {
                Some(json!({"apiVersion": "example.com/v1", "kind": "Any", "list": [1, 2.5, null, "x", {}]}))
            }
            _ => Some(json!({"any": [self.made, "two", null, true, {"deep": [[]]}]})),
        }
    }

    fn scalar(&self, scalar: Scalar, name: &str) -> Value {
        let n = self.made;
        let pick = |of: [&str; 4]| of[n as usize % 4].into();
        match scalar {
            Scalar::Bool => true.into(),
            Scalar::Int32 if n.is_multiple_of(7) => i32::MIN.into(),
            Scalar::Int32 => n.into(),
            Scalar::Int64 => (9_007_199_254_740_993_i64 + i64::from(n)).into(),
            Scalar::Float => (f64::from(n) + 0.25).into(),
            Scalar::String if n.is_multiple_of(5) => format!("{}{n}", ODD[n as usize / 5 % ODD.len()]).into(),
            Scalar::String => format!("{name}-{n}").into(),
            Scalar::Bytes => pick(["AA==", "AQID", "//79/A==", "a3ViZQ=="]),
            Scalar::Quantity => pick(["3", "250m", "2Gi", "1500m"]),
            Scalar::IntOrString if n.is_multiple_of(2) => n.into(),
            Scalar::IntOrString => format!("{n}%").into(),
            Scalar::Time => format!("2026-01-02T03:04:{:02}Z", n % 60).into(),
            Scalar::MicroTime => format!("2026-01-02T03:04:05.{:06}Z", 1 + n).into(),
            Scalar::Duration => format!("1h{}m0.5s", 1 + n % 59).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of a type that a value of it lacks, the type's recursion aside.
    fn unset(schema: &Schema, id: NodeId, value: &Value, seen: &mut Vec<NodeId>, missing: &mut Vec<String>) {
        if seen.contains(&id) {
            return;
        }
        seen.push(id);
        match (&schema.node(id).kind, value) {
            (NodeKind::Object(object), Value::Object(map)) => {
                for (name, field) in object.fields.iter() {
                    match map.get(name) {
                        Some(value) => unset(schema, field.node, value, seen, missing),
                        None => missing.push(format!("{}.{name}", schema.node(id).name)),
                    }
                }
            }
            (NodeKind::List(list), Value::Array(items)) if !items.is_empty() => {
                unset(schema, list.item, &items[0], seen, missing);
            }
            (NodeKind::Map { value: of, .. }, Value::Object(map)) if !map.is_empty() => {
                unset(schema, *of, &map["key-1"], seen, missing);
            }
            (NodeKind::Scalar(_) | NodeKind::Raw, value) if !value.is_null() => {}
            _ => missing.push(format!("{:?} is {value}", schema.node(id).kind)),
        }
        seen.pop();
    }

    #[test]
    fn every_field_of_every_kind_is_set_and_the_same_again() {
        let catalog = apis::catalog();
        let schema = catalog.schema();
        let mut kinds = 0;
        for definition in catalog.definitions().iter().filter(|d| d.kinds.len() == 1) {
            let gvk = &definition.kinds[0];
            let version = gvk.group_version().to_string();
            let made = object(schema, definition.node, &version, &gvk.kind);
            assert_eq!(made, object(schema, definition.node, &version, &gvk.kind));
            let mut missing = Vec::new();
            unset(schema, definition.node, &made, &mut Vec::new(), &mut missing);
            assert!(missing.is_empty(), "{}: {missing:?}", definition.name);
            kinds += 1;
        }
        assert!(kinds > 150, "{kinds}");
    }
}
