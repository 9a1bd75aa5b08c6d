//! The tree beside `serde_json`'s, which it stands in for, and what it has beyond it.

use proptest::prelude::*;

use crate::{Key, Map, Value, json};

/// Any JSON of a few levels, as `serde_json` has it.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-4000..4000_i32).prop_map(|n| (f64::from(n) / 4.0).into()),
        "[a-c\"\\\\é]{0,4}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec(("[a-d]{0,2}", inner), 0..5)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

#[derive(Debug, Clone)]
enum Edit {
    Insert(String, serde_json::Value),
    Remove(String),
    Retain(String),
    Entry(String, serde_json::Value),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let key = "[a-d]{0,2}";
    prop_oneof![
        (key, any_json()).prop_map(|(k, v)| Edit::Insert(k, v)),
        key.prop_map(Edit::Remove),
        key.prop_map(Edit::Retain),
        (key, any_json()).prop_map(|(k, v)| Edit::Entry(k, v)),
    ]
}

proptest! {
    #[test]
    fn values_are_read_written_and_converted_as_serde_json_does(theirs in any_json(), other in any_json()) {
        let ours = Value::from(theirs.clone());
        prop_assert_eq!(ours.to_string(), theirs.to_string());
        prop_assert_eq!(format!("{ours:#}"), format!("{theirs:#}"));
        prop_assert_eq!(serde_json::from_str::<Value>(&theirs.to_string()).unwrap(), ours.clone());
        prop_assert_eq!(serde_json::Value::from(ours.clone()), theirs.clone());
        prop_assert_eq!(ours == Value::from(other.clone()), theirs == other);
    }

    #[test]
    fn maps_are_edited_as_serde_jsons_and_copies_stay(edits in prop::collection::vec(any_edit(), 0..20)) {
        let (mut ours, mut theirs) = (Map::new(), serde_json::Map::new());
        for edit in edits {
            let (copy, before) = (ours.clone(), Value::Object(ours.clone()).to_string());
            match edit.clone() {
                Edit::Insert(key, value) => {
                    let was = ours.insert(key.as_str().into(), value.clone().into());
                    prop_assert_eq!(was, theirs.insert(key, value).map(Value::from));
                }
                Edit::Remove(key) => {
                    prop_assert_eq!(ours.remove(&key), theirs.remove(&key).map(Value::from));
                }
                Edit::Retain(key) => {
                    ours.retain(|k, _| k.as_str() <= key.as_str());
                    theirs.retain(|k, _| *k <= key);
                }
                Edit::Entry(key, value) => {
                    ours.entry(key.as_str()).or_insert_with(|| value.clone().into());
                    theirs.entry(key).or_insert(value);
                }
            }
            let text = serde_json::Value::Object(theirs.clone()).to_string();
            prop_assert_eq!(Value::Object(ours.clone()).to_string(), text);
            prop_assert_eq!(Value::Object(copy).to_string(), before, "a copy has changed with {:?}", edit);
        }
    }

    #[test]
    fn members_in_any_order_make_the_same_map(members in prop::collection::vec(("[a-d]{0,1}", any::<i64>()), 0..8)) {
        let theirs: serde_json::Map<String, serde_json::Value> =
            members.iter().map(|(k, v)| (k.clone(), (*v).into())).collect();
        let (ours, repeated) =
            Map::from_members(members.iter().map(|(k, v)| (Key::from(k), Value::from(*v))).collect());
        prop_assert_eq!(repeated, theirs.len() < members.len());
        prop_assert_eq!(Value::Object(ours), Value::from(serde_json::Value::Object(theirs)));
    }
}

#[test]
fn copies_share_what_neither_has_changed() {
    let old = json!({"metadata": {"name": "a"}, "spec": {"list": [{"a": 1}]}});
    let mut new = old.clone();
    assert!(new.shares(&old));
    new["metadata"]["name"] = "b".into();
    assert!(!new.shares(&old) && !new["metadata"].shares(&old["metadata"]));
    assert!(new["spec"].shares(&old["spec"]));
    new["spec"]["list"][0]["a"] = 2.into();
    assert_eq!(old, json!({"metadata": {"name": "a"}, "spec": {"list": [{"a": 1}]}}));
    assert_eq!(new, json!({"metadata": {"name": "b"}, "spec": {"list": [{"a": 2}]}}));
    // looking for what is not there changes nothing
    let mut copy = old.clone();
    assert_eq!(copy.get_mut("status"), None);
    copy.as_object_mut().expect("a map").remove("status");
    assert!(copy.shares(&old));
}

#[test]
fn keys_of_one_text_share_it() {
    let (a, b) = (Key::from("name"), Key::from("name".to_owned()));
    assert!(std::ptr::eq(a.as_str(), b.as_str()));
    let long = "x".repeat(1000);
    assert_eq!(Key::from(long.as_str()), Key::from(&long));
}

#[test]
fn indices_and_pointers() {
    let mut value = json!({"a": [1, {"b/c": true}]});
    assert_eq!(value["a"][1]["b/c"], true);
    assert_eq!(value["x"]["y"], Value::Null);
    assert_eq!(value.pointer("/a/1/b~1c"), Some(&json!(true)));
    for none in ["a", "/a/01", "/a/+1", "/a/2", "/a/0/x"] {
        assert_eq!(value.pointer(none), None, "{none}");
    }
    *value.pointer_mut("/a/0").expect("an item") = "one".into();
    value["new"]["deep"] = 1.5.into();
    assert_eq!(value, json!({"a": ["one", {"b/c": true}], "new": {"deep": 1.5}}));
}

#[test]
fn text_is_read_when_somebody_asks_and_written_until_somebody_changes_it() {
    fn read(text: &bytes::Bytes, levels: u8) -> Map {
        let all: serde_json::Value = serde_json::from_slice(text).expect("JSON");
        let Value::Object(mut map) = Value::from(all) else { panic!("an object") };
        map.insert("levels".into(), levels.into());
        map
    }
    let unread = || Map::unread(bytes::Bytes::from_static(br#"{"b":1,"a":{}}"#), 3, read);
    let written = |map: &Map| {
        let mut out = String::new();
        crate::text::value(&Value::Object(map.clone()), &mut out);
        out
    };
    let map = unread();
    assert_eq!((map.len(), map.get("levels")), (3, Some(&json!(3))));
    assert_eq!(written(&map), r#"{"b":1,"a":{}}"#);
    // copies share the text and what was read of it
    let (copy, mut changed) = (map.clone(), map.clone());
    assert!(copy.shares(&map));
    assert_eq!(changed.remove("b"), Some(json!(1)));
    assert_eq!(written(&changed), r#"{"a":{},"levels":3}"#);
    assert_eq!((map.get("b"), copy.text().is_some()), (Some(&json!(1)), true));
    assert_eq!(unread(), unread());
    assert_eq!(unread().into_iter().count(), 3);
    // looking for what is not there changes nothing
    let mut same = unread();
    assert!(same.get_mut("x").is_none() && same.remove("x").is_none() && same.text().is_some());
}
