//! Laws of patches, and that no patch, however odd, is more than refused.

use crate::json;
use proptest::prelude::*;

use super::tests::schema;
use super::*;

/// JSON made of the words patches and the test schema know.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(json!("replace")),
        Just(json!("delete")),
        Just(json!("merge")),
        (0..3i64).prop_map(Value::from),
        prop::sample::select(vec!["a", "b", "name"]).prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "name",
        "image",
        "containers",
        "finalizers",
        "volumes",
        "strategy",
        "labels",
        "raw",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$deleteFromPrimitiveList/finalizers",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4).prop_map(|map| map
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Map>()
                .into()),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    anything().prop_filter_map("an object", |value| value.is_object().then_some(value))
}

/// A well-formed object: containers with distinct names, a set of finalizers, labels.
fn thing() -> impl Strategy<Value = Value> {
    let names = prop::sample::subsequence(vec!["a", "b", "c", "d"], 0..4).prop_shuffle();
    let words = prop::sample::subsequence(vec!["x", "y", "z"], 0..3).prop_shuffle();
    (names, words, prop::option::of(0..3i64), 0..3i64).prop_map(|(names, words, label, image)| {
        let containers: Vec<Value> =
            names.iter().map(|name| json!({"name": name, "image": image.to_string()})).collect();
        let mut thing = json!({"containers": containers, "finalizers": words, "labels": {}});
        if let Some(label) = label {
            thing["labels"]["a"] = json!(label.to_string());
        }
        thing
    })
}

fn operations() -> impl Strategy<Value = Vec<Value>> {
    let op = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "odd"]);
    let path = prop::sample::select(vec![
        "",
        "/",
        "/containers",
        "/containers/-",
        "/containers/0",
        "/containers/-1",
        "/containers/9",
        "/containers/0/name",
        "/labels/a~1b",
        "/labels/a",
        "labels",
        "/labels/a/b",
    ]);
    let operation = (op, path.clone(), path, anything())
        .prop_map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}));
    prop::collection::vec(operation, 0..6)
}

proptest! {
    #[test]
    fn odd_patches_are_refused_at_worst(current in object(), patch in object(), operations in operations()) {
        let (schema, root) = schema();
        for (kind, body) in [
            (PatchType::StrategicMerge, patch.clone()),
            (PatchType::Merge, patch),
            (PatchType::Json, Value::Array(operations.into())),
        ] {
            let result = Patch::from_value(kind, body).and_then(|patch| patch.apply(&current, &schema, root));
            if let Err(status) = result {
                prop_assert!([400, 422, 500].contains(&status.code));
                prop_assert!(!status.message.is_empty());
            }
        }
    }

    #[test]
    fn merge_patches_are_idempotent(current in object(), patch in object()) {
        // from the second time on: an array that replaces an object keeps nulls that one in place of an array loses
        let (schema, root) = schema();
        let patch = Patch::from_value(PatchType::Merge, patch).unwrap();
        let apply = |object: &Value| patch.apply(object, &schema, root).unwrap();
        let twice = apply(&apply(&current));
        prop_assert_eq!(apply(&twice), twice);
    }

    #[test]
    fn patches_of_different_fields_commute(current in thing(), a in thing(), b in thing()) {
        let (schema, root) = schema();
        let (a, b) = (json!({"labels": a["labels"]}), json!({"containers": b["containers"], "finalizers": b["finalizers"]}));
        for kind in [PatchType::Merge, PatchType::StrategicMerge] {
            let apply = |object: &Value, patch: &Value| {
                Patch::from_value(kind, patch.clone()).unwrap().apply(object, &schema, root).unwrap()
            };
            prop_assert_eq!(apply(&apply(&current, &a), &b), apply(&apply(&current, &b), &a));
            // and together they are one patch of both
            let mut both = a.clone();
            both["containers"] = b["containers"].clone();
            both["finalizers"] = b["finalizers"].clone();
            prop_assert_eq!(apply(&apply(&current, &a), &b), apply(&current, &both));
        }
    }

    #[test]
    fn a_json_patch_and_its_reverse_leave_nothing(current in thing(), value in thing()) {
        let (schema, root) = schema();
        let apply = |object: &Value, operations: Value| {
            Patch::from_value(PatchType::Json, operations).unwrap().apply(object, &schema, root).unwrap()
        };
        let there = apply(&current, json!([{"op": "replace", "path": "/containers", "value": value["containers"]}]));
        prop_assert_eq!(&there["containers"], &value["containers"]);
        let back = apply(&there, json!([
            {"op": "test", "path": "/containers", "value": value["containers"]},
            {"op": "replace", "path": "/containers", "value": current["containers"]},
        ]));
        prop_assert_eq!(back, current);
    }

    #[test]
    fn strategic_patches_are_idempotent(current in thing(), patch in thing()) {
        let (schema, root) = schema();
        let empty = Patch::from_value(PatchType::StrategicMerge, json!({})).unwrap();
        prop_assert_eq!(&empty.apply(&current, &schema, root).unwrap(), &current);
        let patch = Patch::from_value(PatchType::StrategicMerge, patch).unwrap();
        let once = patch.apply(&current, &schema, root).unwrap();
        prop_assert_eq!(patch.apply(&once, &schema, root).unwrap(), once);
    }

    #[test]
    fn setting_the_order_sets_it(current in thing(), wanted in thing()) {
        // the patch that kubectl makes to turn one list into another
        let (schema, root) = schema();
        let (old, new) = (&current["containers"], &wanted["containers"]);
        if new.as_array().unwrap().is_empty() {
            return Ok(());
        }
        let has = |list: &Value, item: &Value| list.as_array().unwrap().iter().any(|i| i["name"] == item["name"]);
        let mut items = new.as_array().unwrap().clone();
        for gone in old.as_array().unwrap().iter().filter(|item| !has(new, item)) {
            items.push(json!({"name": gone["name"], "$patch": "delete"}));
        }
        let order: Vec<Value> = new.as_array().unwrap().iter().map(|item| json!({"name": item["name"]})).collect();
        let patch = json!({"containers": items, "$setElementOrder/containers": order});
        let patched = Patch::from_value(PatchType::StrategicMerge, patch).unwrap().apply(&current, &schema, root).unwrap();
        prop_assert_eq!(&patched["containers"], new);
    }
}
