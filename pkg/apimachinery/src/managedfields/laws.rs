//! Laws of sets, merges and ownership, for any objects of the test schema.

use std::collections::BTreeSet;

use crate::json;
use proptest::prelude::*;

use super::fieldpath::{PathElement, Set};
use super::testing::{Server, deployment};
use super::typed::{Type, Typed};
use crate::schema::{ListTopology, NodeId, NodeKind, Scalar, Schema};
use crate::{Map, Value};

/// Any value of a type, small enough that values often meet.
fn value_of(schema: &Schema, node: NodeId) -> BoxedStrategy<Value> {
    let word = prop::sample::select(vec!["a", "b", "c"]);
    match &schema.node(node).kind {
        NodeKind::Scalar(Scalar::Int32) => (0..3i64).prop_map(Value::from).boxed(),
        NodeKind::Scalar(Scalar::Quantity) => {
            prop::sample::select(vec!["1", "500m"]).prop_map(Value::from).boxed()
        }
        NodeKind::Scalar(_) => word.prop_map(Value::from).boxed(),
        NodeKind::Raw => prop_oneof![
            Just(json!({"a": {"b": 1}})),
            Just(json!({"a": {"c": [1, 2]}, "d": {}})),
            Just(json!([1])),
            Just(json!("x")),
        ]
        .boxed(),
        NodeKind::Map { value, .. } => prop::collection::btree_map(word, value_of(schema, *value), 0..3)
            .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map>().into())
            .boxed(),
        NodeKind::List(list) => {
            let keys: Option<Vec<String>> = match &list.topology {
                ListTopology::Atomic => None,
                ListTopology::Set => Some(Vec::new()),
                ListTopology::Map(keys) => Some(keys.iter().map(ToString::to_string).collect()),
            };
            prop::collection::vec(value_of(schema, list.item), 0..4)
                .prop_map(move |items| match &keys {
                    None => Value::Array(items.into()),
                    Some(keys) => Value::Array(identified(items, keys).into()),
                })
                .boxed()
        }
        NodeKind::Object(object) => {
            let fields: Vec<(String, bool, BoxedStrategy<Value>)> = object
                .fields
                .iter()
                .filter(|(name, _)| {
                    !["apiVersion", "kind", "status", "uid", "generation", "managedFields"].contains(name)
                })
                .map(|(name, field)| (name.to_string(), false, value_of(schema, field.node)))
                .collect();
            fields
                .into_iter()
                .map(|(name, _, value)| prop::option::of(value).prop_map(move |value| (name.clone(), value)))
                .collect::<Vec<_>>()
                .prop_map(|fields| {
                    fields
                        .into_iter()
                        .filter_map(|(name, value)| Some((name, value?)))
                        .collect::<Map>()
                        .into()
                })
                .boxed()
        }
    }
}

/// The items that have an identity, the first of each.
fn identified(items: Vec<Value>, keys: &[String]) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    items
        .into_iter()
        .filter(|item| {
            let identity: Vec<String> = if keys.is_empty() {
                vec![item.to_string()]
            } else {
                keys.iter().map(|key| item.get(key).map(ToString::to_string).unwrap_or_default()).collect()
            };
            // an absent protocol means the default, which is not generated
            !identity[0].is_empty() && seen.insert(identity)
        })
        .collect()
}

fn spec() -> BoxedStrategy<Value> {
    let (schema, root) = deployment();
    let spec = schema.field(root, "spec").unwrap().node;
    value_of(&schema, spec)
}

fn object() -> BoxedStrategy<Value> {
    let (schema, root) = deployment();
    value_of(&schema, root)
        .prop_map(|mut object| {
            object["metadata"]["name"] = json!("d");
            object["metadata"]["namespace"] = json!("default");
            object
        })
        .boxed()
}

fn path() -> impl Strategy<Value = Vec<PathElement>> {
    let element = prop_oneof![
        3 => prop::sample::select(vec!["a", "b", "c"]).prop_map(PathElement::field),
        1 => (0..3i64).prop_map(|n| PathElement::key(vec![("k".into(), n.into())])),
        1 => (0..3i64).prop_map(|n| PathElement::Value(std::sync::Arc::new(n.into()))),
        1 => (-1..2i64).prop_map(PathElement::Index),
    ];
    prop::collection::vec(element, 1..4)
}

fn set() -> impl Strategy<Value = Set> {
    prop::collection::vec(path(), 0..8).prop_map(|paths| {
        let mut set = Set::new();
        for path in &paths {
            set.insert(path);
        }
        set
    })
}

fn members(set: &Set) -> BTreeSet<Vec<PathElement>> {
    let mut members = BTreeSet::new();
    set.for_each(&mut |path| {
        members.insert(path.to_vec());
    });
    members
}

proptest! {
    #[test]
    fn sets_are_sets(a in set(), b in set(), c in set()) {
        let (ma, mb) = (members(&a), members(&b));
        prop_assert_eq!(a.len(), ma.len());
        prop_assert_eq!(members(&a.clone().union(b.clone())), ma.union(&mb).cloned().collect());
        prop_assert_eq!(members(&a.intersection(&b)), ma.intersection(&mb).cloned().collect());
        prop_assert_eq!(members(&a.clone().difference(&b)), ma.difference(&mb).cloned().collect());
        let below: BTreeSet<_> =
            ma.iter().filter(|path| !(1..=path.len()).any(|n| mb.contains(&path[..n]))).cloned().collect();
        prop_assert_eq!(members(&a.clone().recursive_difference(&b)), below);
        prop_assert_eq!(a.is_subset(&b), ma.is_subset(&mb));
        prop_assert_eq!(a.clone().union(b.clone()), b.clone().union(a.clone()));
        prop_assert_eq!(a.clone().union(b.clone()).union(c.clone()), a.clone().union(b.union(c)));
        prop_assert_eq!(a.is_empty(), ma.is_empty());
    }

    #[test]
    fn sets_survive_their_json(a in set()) {
        prop_assert_eq!(&Set::from_fields_v1(&a.to_fields_v1()).unwrap(), &a);
        let text: Value = serde_json::from_str(&a.to_json()).unwrap();
        prop_assert_eq!(text, a.to_fields_v1());
    }

    #[test]
    fn comparing_is_antisymmetric(a in object(), b in object()) {
        let (schema, root) = deployment();
        let (typed, root) = (Typed::new(&schema), Type::Node(root));
        let (there, back) = (typed.compare(root, &a, &b), typed.compare(root, &b, &a));
        prop_assert_eq!(&there.added, &back.removed);
        prop_assert_eq!(&there.removed, &back.added);
        prop_assert_eq!(&there.modified, &back.modified);
        prop_assert!(there.added.intersection(&there.removed).is_empty());
        prop_assert!(there.added.intersection(&there.modified).is_empty());
        let none = typed.compare(root, &a, &a);
        prop_assert!(none.added.is_empty() && none.removed.is_empty() && none.modified.is_empty());
    }

    #[test]
    fn merging_is_idempotent(a in object(), b in object()) {
        let (schema, root) = deployment();
        let (typed, root) = (Typed::new(&schema), Type::Node(root));
        let merged = |a: &Value, b: &Value| {
            let mut merged = a.clone();
            typed.merge(root, &mut merged, b);
            merged
        };
        prop_assert_eq!(&merged(&a, &a), &a);
        let once = merged(&a, &b);
        prop_assert_eq!(&merged(&once, &b), &once);
        // everything the configuration says is so, everything else is as it was
        let diff = typed.compare(root, &b, &once);
        let said = typed.field_set(root, &b);
        prop_assert!(diff.modified.intersection(&said).is_empty());
        let changed = typed.compare(root, &a, &once);
        prop_assert!(changed.removed.is_subset(&typed.field_set(root, &a)));
        prop_assert!(changed.modified.is_subset(&typed.with_named_fields(root, said)));
    }

    #[test]
    fn applying_twice_is_applying_once(live in object(), mut config in object(), mut other in object()) {
        // an empty list is owned by nobody, as upstream has it: with nothing else applied the object stays unmanaged
        drop_empty(&mut config);
        drop_empty(&mut other);
        let mut server = Server::new();
        server.update("u", live);
        server.apply("o", other, true).unwrap();
        server.apply("x", config.clone(), true).unwrap();
        let once = server.object.clone();
        server.apply("x", config, false).unwrap();
        prop_assert_eq!(server.object, once);
    }

    #[test]
    fn appliers_of_different_fields_commute(mut x in object(), mut y in object()) {
        drop_empty(&mut x);
        drop_empty(&mut y);
        let (x, y) = (only(&x, &["replicas", "containers", "free"]), only(&y, &["selector", "tolerations", "strategy"]));
        let run = |first: (&str, &Value), second: (&str, &Value)| {
            let mut server = Server::new();
            server.apply(first.0, first.1.clone(), false).unwrap();
            server.apply(second.0, second.1.clone(), false).unwrap();
            let fields: BTreeSet<String> =
                server.owners().into_iter().map(|(id, set)| format!("{} {set}", id.split('@').next().unwrap())).collect();
            (server.at("/spec"), fields)
        };
        prop_assert_eq!(run(("x", &x), ("y", &y)), run(("y", &y), ("x", &x)));
    }

    #[test]
    fn what_is_applied_can_be_taken_back(spec in spec(), mut others in spec()) {
        drop_empty(&mut others);
        let mut server = Server::new();
        server.apply("o", config(others), false).unwrap();
        let before = (server.at("/spec"), server.at("/metadata/managedFields/0/fieldsV1"));
        // fields nobody has yet: labels below metadata are x's alone
        server.apply("x", json!({"metadata": {"name": "d", "namespace": "default", "labels": {"a": "1", "b": "2"}}}), false).unwrap();
        server.apply("x", json!({"metadata": {"name": "d", "namespace": "default"}}), false).unwrap();
        prop_assert_eq!((server.at("/spec"), server.at("/metadata/managedFields/0/fieldsV1")), before);
        prop_assert_eq!(server.at("/metadata/labels"), Value::Null);
        // and a forced take-over leaves every field with exactly one applier
        server.apply("x", config(spec), true).unwrap();
        server.apply("o", json!({"metadata": {"name": "d", "namespace": "default"}}), false).unwrap();
        let x = server.owners().into_iter().filter(|(id, _)| id.starts_with("o/")).count();
        prop_assert_eq!(x, 0);
    }

    #[test]
    fn any_sequence_of_writes_keeps_owners_sound(
        steps in prop::collection::vec((0..5u8, prop::sample::select(vec!["a", "b", "c"]), object()), 1..8)
    ) {
        let (schema, root) = deployment();
        let (typed, root) = (Typed::new(&schema), Type::Node(root));
        let mut server = Server::new();
        for (kind, manager, mut object) in steps {
            // owning what normalising drops is upstream's too, but hides what this looks for
            drop_empty(&mut object);
            match kind {
                0 | 1 => {
                    let _ = server.apply(manager, object, false);
                }
                2 => server.apply(manager, object, true).unwrap(),
                3 => server.update(manager, object),
                _ => server.update_of(manager, "status", object),
            }
            // every owned leaf of spec exists: nobody owns what is not there
            let Some(object) = &server.object else { continue };
            let there = typed.with_named_fields(root, typed.field_set(root, object));
            for (id, fields) in server.owners() {
                let owned = Set::from_fields_v1(&serde_json::from_str(&fields).unwrap()).unwrap();
                prop_assert!(!owned.is_empty());
                let mut unexpected = Vec::new();
                owned.difference(&there).for_each(&mut |path| unexpected.push(super::fieldpath::Path(path).to_string()));
                unexpected.retain(|path| !exists(object, path) && !CAN_BE_EMPTIED.iter().any(|end| path.ends_with(end)));
                prop_assert!(unexpected.is_empty(), "{id} owns {unexpected:?} of {object}");
            }
        }
    }
}

fn config(spec: Value) -> Value {
    json!({"metadata": {"name": "d", "namespace": "default"}, "spec": spec})
}

/// A configuration of some fields of an object's spec.
fn only(object: &Value, fields: &[&str]) -> Value {
    let spec = object.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    config(spec.into_iter().filter(|(name, _)| fields.contains(&name.as_str())).collect::<Map>().into())
}

/// Maps and lists that lose their last item to another manager and are then no longer printed; who owned the whole keeps
/// it.
const CAN_BE_EMPTIED: [&str; 11] = [
    ".annotations",
    ".labels",
    ".finalizers",
    ".ownerReferences",
    ".containers",
    ".env",
    ".ports",
    ".limits",
    ".free",
    ".extension",
    ".rollingUpdate",
];

/// Drops empty objects and lists, which normalising would drop.
fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(drop_empty);
            map.retain(|_, value| *value != json!({}) && *value != json!([]));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

/// Whether a path of plain fields leads to something: lists, and maps that are empty, are owned but no members of a
/// field set.
fn exists(object: &Value, path: &str) -> bool {
    let mut value = object;
    for part in path.split('.').skip(1) {
        let (name, item) = part.split_once('[').map_or((part, None), |(name, item)| (name, Some(item)));
        match value.get(name) {
            Some(next) => value = next,
            None => return false,
        }
        if let Some(item) = item {
            let wanted: Vec<&str> = item.trim_end_matches(']').split(',').collect();
            let found = value.as_array().into_iter().flatten().find(|candidate| {
                wanted.iter().all(|pair| {
                    let (key, text) = pair.split_once('=').unwrap();
                    let value = if key.is_empty() { Some(*candidate) } else { candidate.get(key) };
                    value == Some(&serde_json::from_str(text).unwrap())
                })
            });
            match found {
                Some(next) => value = next,
                None => return false,
            }
        }
    }
    true
}
