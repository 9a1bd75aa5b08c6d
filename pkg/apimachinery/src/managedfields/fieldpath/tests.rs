//! Sets, their algebra and their JSON form.

use crate::json;

use super::*;

fn set(fields: &Value) -> Set {
    Set::from_fields_v1(fields).unwrap()
}

#[test]
fn json_form_is_canonical() {
    let cases = [
        "{}",
        r#"{"f:a":{}}"#,
        r#"{"f:a":{".":{},"f:b":{}}}"#,
        r#"{"f:a":{"f:b":{}},"f:spec":{"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}},"k:{\"port\":443,\"protocol\":\"TCP\"}":{}}}}"#,
        r#"{"f:finalizers":{".":{},"v:\"a/b\"":{},"v:\"c\"":{}}}"#,
        r#"{"f:l":{"i:2":{},"i:10":{}}}"#,
        r#"{"f:a":{},"k:{\"x\":1}":{},"v:true":{},"i:-1":{}}"#,
        r#"{"v:\"\\u003c\\u0026\"":{}}"#,
    ];
    for text in cases {
        let value: Value = serde_json::from_str(text).unwrap();
        let read = set(&value);
        assert_eq!(read.to_json(), text);
        assert_eq!(read.to_fields_v1(), value);
    }
}

#[test]
fn json_form_is_read_leniently_where_upstream_does() {
    let cases = [
        (json!({"f:a": {"x:y": {}}}), r#"{"f:a":{}}"#),
        (json!({"f:a": {".": {}}}), r#"{"f:a":{}}"#),
        (json!({"f:a": null}), r#"{"f:a":{}}"#),
        (json!({"k:{\"b\":1,\"a\":2.0}": {}}), r#"{"k:{\"a\":2,\"b\":1}":{}}"#),
        (json!({"f:a:b": {}}), r#"{"f:a:b":{}}"#),
        (json!(null), "{}"),
    ];
    for (fields, text) in cases {
        assert_eq!(set(&fields).to_json(), text);
    }
    for bad in [
        json!({"a": {}}),
        json!({"": {}}),
        json!({"fa:b": {}}),
        json!({"i:x": {}}),
        json!({"v:": {}}),
        json!({"k:[]": {}}),
        json!({"v:1 2": {}}),
        json!([]),
        json!({"f:a": 1}),
    ] {
        assert!(Set::from_fields_v1(&bad).is_err(), "{bad}");
    }
}

#[test]
fn algebra() {
    // a, b, union, intersection, difference, recursive difference
    let cases = [
        (
            json!({"f:a": {}}),
            json!({"f:b": {}}),
            json!({"f:a": {}, "f:b": {}}),
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {}}),
        ),
        (
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({"f:a": {}}),
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({"f:a": {}}),
            json!({"f:a": {"f:b": {}}}),
            json!({}),
        ),
        (
            json!({"f:a": {}}),
            json!({"f:a": {"f:b": {}}}),
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {}}),
        ),
        (
            json!({"f:a": {"f:b": {"f:c": {}}, "f:d": {}}}),
            json!({"f:a": {"f:b": {}}}),
            json!({"f:a": {"f:b": {".": {}, "f:c": {}}, "f:d": {}}}),
            json!({}),
            json!({"f:a": {"f:b": {"f:c": {}}, "f:d": {}}}),
            json!({"f:a": {"f:d": {}}}),
        ),
    ];
    for (a, b, union, intersection, difference, recursive) in cases {
        let (a, b) = (set(&a), set(&b));
        assert_eq!(a.clone().union(b.clone()).to_fields_v1(), union);
        assert_eq!(a.intersection(&b).to_fields_v1(), intersection);
        assert_eq!(a.clone().difference(&b).to_fields_v1(), difference);
        assert_eq!(a.clone().recursive_difference(&b).to_fields_v1(), recursive);
    }
}

#[test]
fn paths() {
    let fields = set(
        &json!({"f:spec": {".": {}, "f:c": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}, "f:z": {}}, "f:x": {"v:1": {}, "i:3": {}}}),
    );
    let mut shown = Vec::new();
    fields.for_each(&mut |path| shown.push(Path(path).to_string()));
    assert_eq!(
        shown,
        [".spec", ".spec.z", ".spec.c[name=\"a\"]", ".spec.c[name=\"a\"].image", ".x[=1]", ".x[3]"]
    );
    assert_eq!(fields.len(), 6);
    let key = PathElement::key(vec![("name".into(), json!("a"))]);
    assert!(fields.has(&[PathElement::field("spec"), PathElement::field("c"), key.clone()]));
    assert!(!fields.has(&[PathElement::field("spec"), PathElement::field("c")]));
    assert!(!fields.has(&[]));
    let mut other = Set::new();
    other.insert(&[PathElement::field("spec"), PathElement::field("c"), key]);
    assert!(other.is_subset(&fields));
    assert!(!fields.is_subset(&other));
}
