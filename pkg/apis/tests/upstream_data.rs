//! Every kind against upstream's own round-trip data: objects with every field set, as JSON and as protobuf.
//!
//! The data is folder `testdata/HEAD` of k8s.io/api at this release, named by `KUBERNETES_API_TESTDATA`:
//!
//! ```text
//! KUBERNETES_API_TESTDATA=.../api/testdata/HEAD cargo test -p apis --test upstream_data -- --ignored
//! ```

use std::path::PathBuf;

use apimachinery::Value;
use apimachinery::meta::GroupVersionKind;
use apimachinery::{default, protobuf, strict};

/// `GROUP.VERSION.KIND`, the core group being `core`.
fn kind_of(name: &str) -> Option<GroupVersionKind> {
    let (rest, kind) = name.rsplit_once('.')?;
    let (group, version) = rest.rsplit_once('.')?;
    Some(GroupVersionKind::new(if group == "core" { "" } else { group }, version, kind))
}

/// Where two trees differ first.
fn difference(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&apimachinery::Key> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.into_iter().find_map(|key| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => difference(&format!("{path}.{key}"), a, b),
                (a, b) => Some(format!("{path}.{key}: {a:?} and {b:?}")),
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&format!("{path}[{i}]"), a, b))
        }
        _ if a == b => None,
        _ => Some(format!("{path}: {a} and {b}")),
    }
}

#[test]
#[ignore = "needs the folder that KUBERNETES_API_TESTDATA names"]
fn every_kind_survives_every_form() {
    let folder = PathBuf::from(std::env::var_os("KUBERNETES_API_TESTDATA").expect("a folder is named"));
    let schema = apis::schema();
    let (mut checked, mut failures) = (0, Vec::new());
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let name = file.file_stem().and_then(|n| n.to_str()).expect("a name");
        // an event of a watch carries an object and is none
        if name.ends_with(".WatchEvent") {
            continue;
        }
        let Some(definition) = kind_of(name).and_then(|gvk| apis::catalog().kind(&gvk)) else { continue };
        let mut fail = |what: &str, why: String| failures.push(format!("{name}: {what}: {why}"));
        let text = std::fs::read_to_string(file).expect("a JSON file");
        let object: Value = serde_json::from_str(&text).expect("JSON");
        checked += 1;
        for error in strict::strict_errors(&text, Some((&schema, definition.node))) {
            fail("unknown", error);
        }
        let mut normal = object.clone();
        default::normalise(&schema, definition.node, &mut normal);
        if let Some(why) = difference("", &object, &normal) {
            fail("normalised", why);
        }
        let Ok(bytes) = std::fs::read(file.with_extension("pb")) else { continue };
        match protobuf::decode_object(&schema, definition.node, &bytes) {
            Ok(decoded) => {
                if let Some(why) = difference("", &object, &decoded) {
                    fail("from protobuf", why);
                }
            }
            Err(error) => fail("from protobuf", error.to_string()),
        }
        match protobuf::encode_object(&schema, definition.node, &object) {
            // upstream writes the envelope's empty content type and encoding as well, which say nothing
            Ok(encoded) if Some(&encoded[..]) == bytes.strip_suffix(&[0x1a, 0, 0x22, 0]) => {}
            Ok(encoded) => {
                let at = encoded
                    .iter()
                    .zip(&bytes)
                    .position(|(a, b)| a != b)
                    .unwrap_or(encoded.len().min(bytes.len()));
                fail("to protobuf", format!("differs at byte {at} of {}", bytes.len()));
            }
            Err(error) => fail("to protobuf", error.to_string()),
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {checked} kinds' checks failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(checked > 90, "only {checked} kinds were found");
}
