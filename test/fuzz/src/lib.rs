//! Everything a client can send, one function an input: bodies, patches, selectors, field sets, continue tokens, URLs, whole
//! requests; and what a store may hold that no server of ours wrote.
//!
//! Each takes any bytes and must end, without a panic, in memory in proportion to the input; where what was read can be
//! written again, it must read the same. `tests/smoke.rs` runs them on random and on mutated inputs in every test run;
//! `make fuzz` runs them under libFuzzer (`fuzz/`, targets are named as functions here), beginning with what [`seeds`]
//! makes.

mod patches;
pub mod seeds;
mod server;

use apimachinery::Value;
use apimachinery::coerce::FieldValidation;
use apimachinery::decode::{self, Expected, Format};
use apimachinery::managedfields::fieldpath::Set;
use apimachinery::meta::GroupVersionKind;
use apimachinery::schema::{NodeId, Schema};
use apimachinery::selectors::{FieldSelector, LabelSelector};
use apimachinery::{gotime, jsonpath, managedfields, protobuf, quantity, yaml};
use apiserver::query::Query;
use apiserver::requestinfo::RequestInfo;
use watchcache::Continue;

pub use patches::{apply, patch};
pub use server::{answer, request, stored};

/// An entry point: its name and what it does with an input.
pub type Entry = (&'static str, fn(&[u8]));

/// Every entry point.
pub const ENTRIES: [Entry; 13] = [
    ("json_body", json_body),
    ("yaml_body", yaml_body),
    ("protobuf_body", protobuf_body),
    ("patch", patch),
    ("apply", apply),
    ("label_selector", label_selector),
    ("field_selector", field_selector),
    ("field_set", field_set),
    ("continue_token", continue_token),
    ("url", url),
    ("scalars", scalars),
    ("request", request),
    ("stored", stored),
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
        // terms are in the order of their texts, which `==` and `=` make two of
        let terms = |selector: &FieldSelector| {
            let mut terms: Vec<String> = selector.terms.iter().map(|term| format!("{term:?}")).collect();
            terms.sort();
            terms
        };
        assert_eq!(terms(&again), terms(&selector), "{printed}");
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

/// Texts with a grammar of their own inside objects: quantities, times, durations, paths of printer columns.
pub fn scalars(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(canonical) = quantity::canonicalize(&text) {
        let again = quantity::canonicalize(&canonical).expect("what was printed can be parsed");
        assert_eq!(again, canonical, "{text:?}");
        let amount: quantity::Quantity = canonical.parse().expect("what was printed can be parsed");
        let _ = (amount.value(), amount.milli_value(), amount.to_f64(), amount.scaled_value(-9));
        let _ = (amount.checked_add(amount), amount.checked_sub(amount), amount.checked_mul(i64::MAX));
    }
    let _ = (gotime::parse_time(&text), gotime::parse_micro_time(&text));
    if let Ok(nanos) = gotime::parse_duration(&text) {
        assert_eq!(gotime::parse_duration(&gotime::format_duration(nanos)), Ok(nanos), "{text:?}");
    }
    if let Ok(path) = jsonpath::JsonPath::parse(&text) {
        let object = apimachinery::json!({"a": [{"b": 1, "c": ["x", null]}, 2.5], "d": {"e": "f", "g": {}}});
        let _ = (path.find(&object), path.first(&object), path.is_simple(), path.names());
    }
}
