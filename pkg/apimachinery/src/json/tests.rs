//! What is read, what is refused and in which words, and what is left unread.

use crate::json;
use proptest::prelude::*;

use super::*;

#[test]
fn owned_fields_are_read_as_text_and_nothing_else_is() {
    let object = json!({
        "data": {"metadata": {"managedFields": [{"fieldsV1": {"f:a": {}}}]}},
        "metadata": {"managedFields": [{"fieldsV1": {"f:a": {}}, "manager": "m"}, {"fieldsV1": null}, 1], "name": "n"},
    });
    let mut expected = object.clone();
    expected["metadata"]["managedFields"][0]["fieldsV1"] = json!(r#"{"f:a":{}}"#);
    assert_eq!(parse_with_owners_as_text(object.to_string().as_bytes()).unwrap(), expected);
    for other in ["[1]", "null", r#"{"metadata":{"managedFields":{"fieldsV1":{}}}}"#, r#"{"metadata":[]}"#] {
        assert_eq!(parse_with_owners_as_text(other.as_bytes()).unwrap(), parse_str(other).unwrap().value);
    }
    for broken in [r#"{"metadata":{"managedFields":[{"fieldsV1":{"a"}}]}}"#, "{}x", "", "{"] {
        assert_eq!(
            parse_with_owners_as_text(broken.as_bytes()).unwrap_err(),
            parse_str(broken).unwrap_err(),
            "{broken}"
        );
    }
}

#[test]
fn reads_what_serde_json_reads() {
    let text = r#" {"a":[1,-2,3.5,1e3,true,false,null,"x\n\u00e9\ud83d\ude00\/"],"b":{},"c":[],"é":"ü"} "#;
    assert_eq!(parse_str(text).unwrap().value, serde_json::from_str::<Value>(text).unwrap());
}

#[test]
fn numbers_stay_integers_when_they_fit() {
    for (text, value) in [
        ("9223372036854775807", json!(i64::MAX)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("9223372036854775808", json!(9_223_372_036_854_775_808_f64)),
        ("1.0", json!(1.0)),
        ("-0", json!(0)),
    ] {
        assert_eq!(parse_str(text).unwrap().value, value, "{text}");
    }
}

#[test]
fn errors_are_gos() {
    for (text, message) in [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("{\"a\"", "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
        ("{\"a\" 1}", "invalid character '1' after object key"),
        ("{\"a\":1 \"b\":2}", "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("{} x", "invalid character 'x' after top-level value"),
        ("01", "invalid character '1' after top-level value"),
        ("tru3", "invalid character '3' in literal true (expecting 'e')"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1ex", "invalid character 'x' in exponent of numeric literal"),
        ("\"\n\"", "invalid character '\\n' in string literal"),
        ("\"\\x\"", "invalid character 'x' in string escape code"),
        ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
        ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
    ] {
        assert_eq!(parse_str(text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(parse_str(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(parse_str(&nested(MAX_DEPTH + 1)).unwrap_err(), SyntaxError::TooDeep);
    assert_eq!(parse_str(&"{\"a\":".repeat(1_000_000)).unwrap_err(), SyntaxError::TooDeep);
}

#[test]
fn repeated_keys_are_seen() {
    assert!(parse_str(r#"{"a":1,"a":2}"#).unwrap().has_duplicates);
    assert!(parse_str(r#"[{"b":{"a":1,"\u0061":2}}]"#).unwrap().has_duplicates);
    assert!(!parse_str(r#"{"a":{"a":1},"b":{"a":1}}"#).unwrap().has_duplicates);
}

#[test]
fn invalid_utf8_and_lone_surrogates_are_replaced() {
    assert_eq!(parse(b"\"a\xffb\"").unwrap().value, json!("a\u{fffd}b"));
    assert_eq!(parse(br#""\ud800x""#).unwrap().value, json!("\u{fffd}x"));
    assert_eq!(parse(br#""\ud800\u0041""#).unwrap().value, json!("\u{fffd}A"));
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite() && f.fract() != 0.0).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Pointers to all objects.
fn maps(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                maps(member, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
            found.push(path);
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| maps(item, format!("{path}/{i}"), found));
        }
        _ => {}
    }
}

#[test]
fn only_what_is_asked_for_is_read() {
    let text =
        Bytes::from_static(br#"{"kind":"A","spec":{"a":{"b":"longer than a part"},"c":1},"small":{}}"#);
    let mut value = parse_in_parts(&text).unwrap();
    let spec = value["spec"].as_object().unwrap().text().expect("it is unread");
    assert!(text.as_ptr_range().contains(&spec.as_ptr()), "it is a copy");
    assert!(value["small"].as_object().unwrap().text().is_none());
    assert_eq!(value["spec"]["c"], 1);
    assert!(value["spec"].as_object().unwrap().text().is_some(), "it is as it was");
    value["spec"]["c"] = 2.into();
    assert!(value["spec"].as_object().unwrap().text().is_none());
    assert!(value["spec"]["a"].as_object().unwrap().text().is_some(), "it was not asked for");
    let mut out = Vec::new();
    text::value(&value, &mut out);
    let expected = r#"{"kind":"A","small":{},"spec":{"a":{"b":"longer than a part"},"c":2}}"#;
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn parts_of_parts_are_left_unread_to_a_bounded_depth() {
    let deep = "{\"longer than a part\":".repeat(MAX_DEPTH) + "1" + &"}".repeat(MAX_DEPTH);
    let value = parse_in_parts(&Bytes::from(deep)).unwrap();
    let (mut unread, mut inner) = (0, &value);
    while let Some(next) = inner.get("longer than a part") {
        unread += u8::from(next.as_object().is_some_and(|map| map.text().is_some()));
        inner = next;
    }
    assert_eq!((unread, inner), (LEVELS, &json!(1)));
}

proptest! {
    #[test]
    fn any_tree_survives(value in tree()) {
        let text = serde_json::to_string(&value).unwrap();
        prop_assert_eq!(parse_str(&text).unwrap(), Parsed { value, has_duplicates: false });
    }

    #[test]
    fn what_is_read_in_parts_is_what_is_read_at_once(value in tree()) {
        let text = Bytes::from(value.to_string());
        let parts = parse_in_parts(&text).unwrap();
        let read = parts.to_string();
        prop_assert_eq!(read.as_bytes(), &text[..]);
        prop_assert_eq!(&parts, &value);
        // written as it came, though it has been read
        let mut written = Vec::new();
        text::value(&parts, &mut written);
        prop_assert_eq!(written, &text[..]);
    }

    #[test]
    fn changes_of_parts_stay_with_the_copy(value in tree(), at in any::<prop::sample::Index>()) {
        let mut paths = Vec::new();
        maps(&value, String::new(), &mut paths);
        if paths.is_empty() {
            return Ok(());
        }
        let path = at.get(&paths);
        let before = parse_in_parts(&Bytes::from(value.to_string())).unwrap();
        let (mut expected, mut changed) = (value.clone(), before.clone());
        for tree in [&mut expected, &mut changed] {
            tree.pointer_mut(path).and_then(Value::as_object_mut).unwrap().insert("new".into(), true.into());
        }
        prop_assert_eq!(changed.to_string(), expected.to_string());
        prop_assert_eq!(&changed, &expected);
        prop_assert_eq!(before, value);
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let whole = parse(&bytes).map(|parsed| parsed.value);
        prop_assert_eq!(parse_in_parts(&Bytes::from(bytes)), whole);
    }

    #[test]
    fn agrees_with_serde_json_on_what_is_json(text in r#"[\[\]{}:,"a0-9. e\\-]{0,24}"#) {
        let ours = parse_str(&text).is_ok();
        let theirs = serde_json::from_str::<Value>(&text).is_ok();
        prop_assert_eq!(ours, theirs);
        prop_assert_eq!(parse_in_parts(&Bytes::from(text)).is_ok(), theirs);
    }
}
