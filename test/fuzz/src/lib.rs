//! Everything a client can send, one function an input: bodies, patches, selectors, field sets, continue tokens, URLs.
//!
//! Each takes any bytes and must end, without a panic, in memory in proportion to the input; where what was read can be
//! written again, it must read the same. `tests/smoke.rs` runs them on random and on mutated inputs in every test run;
//! `fuzz/` runs them under libFuzzer (`cargo +nightly fuzz run TARGET` in this folder, targets are named as functions here).

use std::sync::OnceLock;

use apimachinery::Value;
use apimachinery::coerce::FieldValidation;
use apimachinery::decode::{self, Expected, Format};
use apimachinery::managedfields::fieldpath::Set;
use apimachinery::meta::GroupVersionKind;
use apimachinery::patch::{PatchType, apply_patch};
use apimachinery::schema::{NodeId, Schema};
use apimachinery::selectors::{FieldSelector, LabelSelector};
use apimachinery::{managedfields, protobuf, yaml};
use apiserver::query::Query;
use apiserver::requestinfo::RequestInfo;
use watchcache::Continue;

/// An entry point: its name and what it does with an input.
pub type Entry = (&'static str, fn(&[u8]));

/// Every entry point.
pub const ENTRIES: [Entry; 9] = [
    ("json_body", json_body),
    ("yaml_body", yaml_body),
    ("protobuf_body", protobuf_body),
    ("patch", patch),
    ("label_selector", label_selector),
    ("field_selector", field_selector),
    ("field_set", field_set),
    ("continue_token", continue_token),
    ("url", url),
];

/// Longest input looked at: as long as bodies may be.
const MAX_BYTES: usize = 3 << 20;

fn pod() -> (&'static Schema, NodeId, GroupVersionKind) {
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let catalog = apis::catalog();
    let node = catalog.kind(&gvk).expect("the catalog has every kind of the release").node;
    (catalog.schema(), node, gvk)
}

fn decoded(data: &[u8], format: Format) -> Option<Value> {
    let (schema, root, gvk) = pod();
    let expected = Expected { gvk: &gvk, schema, root, is_registered: &|_| false };
    let body = &data[..data.len().min(MAX_BYTES)];
    // what strict decoding takes, lax decoding takes without a word
    if let Ok(strict) = decode::object(body, format, &expected, FieldValidation::Strict) {
        let lax =
            decode::object(body, format, &expected, FieldValidation::Warn).expect("strictly decoded before");
        assert_eq!((&strict.value, lax.warnings.len()), (&lax.value, 0));
    }
    decode::object(body, format, &expected, FieldValidation::Ignore).ok().map(|decoded| decoded.value)
}

/// Defaults and encodes an object that was decoded.
fn process(mut object: Value) {
    let (schema, root, _) = pod();
    apimachinery::default::apply_defaults(schema, root, &mut object);
    apimachinery::default::normalise(schema, root, &mut object);
    if let Ok(bytes) = protobuf::encode_object(schema, root, &object) {
        protobuf::decode_object(schema, root, &bytes).expect("what was encoded here can be decoded");
    }
    let text = yaml::to_string(&object);
    assert_eq!(yaml::parse(text.as_bytes()).ok().as_ref(), Some(&object), "{text}");
}

/// A body in JSON.
pub fn json_body(data: &[u8]) {
    if let Some(object) = decoded(data, Format::Json) {
        process(object);
    }
}

/// A body in YAML, aliases and several documents included.
pub fn yaml_body(data: &[u8]) {
    if let Some(object) = decoded(data, Format::Yaml) {
        process(object);
    }
    let _ = yaml::parse_all(data);
}

/// A body in protobuf, with its envelope or without.
pub fn protobuf_body(data: &[u8]) {
    let (schema, root, _) = pod();
    if let Some(object) = decoded(data, Format::Protobuf) {
        process(object);
    }
    let _ = protobuf::decode(schema, root, data);
}

/// A patch; the first byte chooses its kind.
pub fn patch(data: &[u8]) {
    static CURRENT: OnceLock<Value> = OnceLock::new();
    let current = CURRENT.get_or_init(|| {
        apimachinery::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}, {"name": "d"}],
                     "tolerations": [{"key": "k"}]}})
    });
    let Some((kind, body)) = data.split_first() else { return };
    let kind = match kind % 3 {
        0 => PatchType::Json,
        1 => PatchType::Merge,
        _ => PatchType::StrategicMerge,
    };
    let (schema, root, _) = pod();
    let _ = apply_patch(kind, body, current, schema, root);
}

/// A label selector.
pub fn label_selector(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(selector) = text.parse::<LabelSelector>() {
        let printed = selector.to_string();
        let again = printed.parse::<LabelSelector>().expect("what was printed can be parsed");
        assert_eq!(again.to_string(), printed);
    }
}

/// A field selector.
pub fn field_selector(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(selector) = text.parse::<FieldSelector>() {
        let printed = selector.to_string();
        let again = printed.parse::<FieldSelector>().expect("what was printed can be parsed");
        assert_eq!(again.to_string(), printed);
    }
}

/// `fieldsV1` of a managed fields entry.
pub fn field_set(data: &[u8]) {
    let Ok(parsed) = apimachinery::json::parse(data) else { return };
    let _ = managedfields::validate(&parsed.value, "metadata.managedFields");
    if let Ok(set) = Set::from_fields_v1(&parsed.value) {
        let again = Set::from_fields_v1(&set.to_fields_v1()).expect("what was printed can be read");
        assert_eq!(again, set);
    }
}

/// A `continue` token.
pub fn continue_token(data: &[u8]) {
    if let Ok(token) = Continue::decode(&String::from_utf8_lossy(data)) {
        assert!(!token.start.split('/').any(|part| part == ".."));
        assert_eq!(Continue::decode(&token.encode()).ok(), Some(token));
    }
}

/// A request's target: path and query.
pub fn url(data: &[u8]) {
    let Ok(uri) = String::from_utf8_lossy(data).parse::<http::Uri>() else { return };
    let query = Query::parse(uri.query().unwrap_or(""));
    for method in [http::Method::GET, http::Method::POST, http::Method::DELETE] {
        let info = RequestInfo::of(&method, &uri, &query);
        assert!(info.is_resource || info.resource.is_empty());
    }
}
