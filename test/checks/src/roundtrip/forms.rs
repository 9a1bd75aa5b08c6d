//! Forms and versions: pure functions on trees.

use apimachinery::descriptor::ResourceDescriptor;
use apimachinery::json;
use apimachinery::meta::GroupVersionKind;
use apimachinery::schema::{NodeId, NodeKind, Schema};
use apimachinery::{Value, coerce, default, json as text, protobuf, yaml};

use super::{Report, object, unchanged};

/// Checks a kind in every form.
pub fn check_kind(schema: &Schema, root: NodeId, gvk: &GroupVersionKind, report: &mut Report) {
    let version = gvk.group_version().to_string();
    let full = object(schema, root, &version, &gvk.kind);
    let name = format!("{version} {}", gvk.kind);
    let mut normal = full.clone();
    let unknown = coerce::fit(schema, root, &mut normal, true).map_err(|e| e.to_string());
    report.note(
        &format!("{name}: decoding"),
        unknown.and_then(
            |unknown| if unknown.is_empty() { Ok(()) } else { Err(format!("unknown {unknown:?}")) },
        ),
    );
    default::normalise(schema, root, &mut normal);
    report.note(&format!("{name}: normal form"), unchanged(&full, &normal));
    let printed = full.to_string();
    let read = text::parse_str(&printed).map_err(|e| e.to_string());
    report.note(&format!("{name}: JSON"), read.and_then(|read| unchanged(&full, &read.value)));
    let read = yaml::parse(yaml::to_string(&full).as_bytes()).map_err(|e| e.to_string());
    report.note(&format!("{name}: YAML"), read.and_then(|read| unchanged(&full, &read)));
    if protobuf::has_message(schema, root) {
        let read = protobuf::encode_object(schema, root, &full)
            .and_then(|bytes| protobuf::decode_object(schema, root, &bytes))
            .map_err(|e| e.to_string());
        let expected = numbered(schema, root, &full);
        report.note(&format!("{name}: protobuf"), read.and_then(|read| unchanged(&expected, &read)));
    }
}

/// What protobuf can say of an object: `apiVersion` and `kind` are the envelope's, and objects within have none.
pub fn numbered(schema: &Schema, root: NodeId, object: &Value) -> Value {
    fn strip(schema: &Schema, id: NodeId, value: &mut Value) {
        match (&schema.node(id).kind, value) {
            (NodeKind::Object(object), Value::Object(map)) => {
                let unnumbered = |name: &str| object.fields.get(name).is_some_and(|f| f.proto == 0);
                map.retain(|name, _| !(matches!(name.as_str(), "apiVersion" | "kind") && unnumbered(name)));
                for (name, value) in map {
                    if let Some(field) = object.fields.get(name.as_str()) {
                        strip(schema, field.node, value);
                    }
                }
            }
            (NodeKind::List(list), Value::Array(items)) => {
                for item in items {
                    strip(schema, list.item, item);
                }
            }
            (NodeKind::Map { value: of, .. }, Value::Object(map)) => {
                for value in map.values_mut() {
                    strip(schema, *of, value);
                }
            }
            _ => {}
        }
    }
    let mut out = object.clone();
    strip(schema, root, &mut out);
    for field in ["apiVersion", "kind"] {
        if let Some(value) = object.get(field) {
            out[field] = value.clone();
        }
    }
    out
}

/// A metric aims at one thing; which, autoscaling/v1 tells from the field that is set.
fn with_one_target(scaler: &mut Value) {
    for metric in scaler["spec"]["metrics"].as_array_mut().into_iter().flatten() {
        for (source, kind, field, value) in [
            ("object", "Value", "value", json!("3")),
            ("external", "Value", "value", json!("3")),
            ("pods", "AverageValue", "averageValue", json!("250m")),
            ("resource", "Utilization", "averageUtilization", json!(7)),
            ("containerResource", "Utilization", "averageUtilization", json!(8)),
        ] {
            metric[source]["target"] = json!({"type": kind, field: value});
        }
    }
}

/// Checks that each version of a resource survives being stored, and what is stored being served in each version.
pub fn check_versions(descriptor: &ResourceDescriptor, report: &mut Report) {
    let stored = &descriptor.storage.gvk;
    for served in descriptor.versions.iter().filter(|version| version.conversion.is_some()) {
        let gvk = descriptor.gvk(&served.version);
        let version = gvk.group_version().to_string();
        let mut full = object(&served.schema, served.root, &version, &gvk.kind);
        if version == "autoscaling/v1" {
            // its current CPU use is printed once more among the current metrics, in an annotation, from then on
            served.to_storage(&mut full);
            served.from_storage(&mut full);
        }
        let mut there = full.clone();
        served.to_storage(&mut there);
        let kept = there.clone();
        let mut back = there;
        served.from_storage(&mut back);
        let name = format!("{version} {}", gvk.kind);
        report.note(&format!("{name}: stored as {}", stored.group_version()), unchanged(&full, &back));
        let catalog = apis::catalog();
        let Some(definition) = catalog.kind(stored) else { continue };
        let mut normal = kept.clone();
        default::normalise(catalog.schema(), definition.node, &mut normal);
        report.note(&format!("{name}: normal form as {}", stored.group_version()), unchanged(&kept, &normal));
        let mut full =
            object(catalog.schema(), definition.node, &stored.group_version().to_string(), &stored.kind);
        if version == "autoscaling/v1" {
            with_one_target(&mut full);
        }
        let mut there = full.clone();
        served.from_storage(&mut there);
        served.to_storage(&mut there);
        report.note(
            &format!("{} {}: served as {version}", stored.group_version(), stored.kind),
            unchanged(&full, &there),
        );
    }
}
