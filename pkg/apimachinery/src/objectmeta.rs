//! Rules of `metadata`, the same for every kind.
//!
//! Source: `k8s.io/apimachinery/pkg/api/validation` and `pkg/apis/meta/v1/validation`. Paths start at `path`, which is
//! `metadata` for objects and longer for templates.

use std::collections::HashSet;

use crate::meta::{GroupVersion, str_at};
use crate::status::FieldError;
use crate::{Map, Value, validation};

/// Most bytes of all annotations of an object, keys and values.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 << 10;
/// Longest name of a field manager.
pub const FIELD_MANAGER_MAX_BYTES: usize = 128;
/// Longest name of a subresource in managed fields.
pub const SUBRESOURCE_MAX_BYTES: usize = 256;
/// Message for a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// Finalizer of a delete that orphans dependents.
pub const ORPHAN_FINALIZER: &str = "orphan";
/// Finalizer of a delete that waits for dependents.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

fn map_of<'a>(object: &'a Value, key: &str) -> Option<&'a Map> {
    object.get(key).and_then(Value::as_object)
}

fn list_of<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn each(problems: Vec<String>, path: &str, value: &str) -> impl Iterator<Item = FieldError> {
    problems.into_iter().map(move |p| FieldError::invalid(path, value, p))
}

/// Problems of the metadata of a new object. `metadata` is its value (not the object), `check_name` the kind's rule for
/// names, told whether the name is a `generateName`.
pub fn validate_create(
    metadata: &Value,
    namespaced: bool,
    check_name: impl Fn(&str, bool) -> Vec<String>,
    path: &str,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let generate_name = str_at(metadata, &["generateName"]);
    if !generate_name.is_empty() {
        errors.extend(each(check_name(generate_name, true), &format!("{path}.generateName"), generate_name));
    }
    let name = str_at(metadata, &["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), "name or generateName is required"));
    } else {
        errors.extend(each(check_name(name, false), &format!("{path}.name"), name));
    }
    let namespace = str_at(metadata, &["namespace"]);
    let namespace_path = format!("{path}.namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(namespace_path, "")),
        (true, false) => {
            errors.extend(each(validation::dns1123_label(namespace, false), &namespace_path, namespace));
        }
        (false, false) => errors.push(FieldError::forbidden(namespace_path, "not allowed on this type")),
        (false, true) => {}
    }
    generation(metadata, path, &mut errors);
    labels(map_of(metadata, "labels"), &format!("{path}.labels"), &mut errors);
    annotations(map_of(metadata, "annotations"), &format!("{path}.annotations"), &mut errors);
    owner_references(list_of(metadata, "ownerReferences"), &format!("{path}.ownerReferences"), &mut errors);
    finalizers(list_of(metadata, "finalizers"), &format!("{path}.finalizers"), &mut errors);
    managed_fields(list_of(metadata, "managedFields"), &format!("{path}.managedFields"), &mut errors);
    errors
}

/// Problems of changed metadata. Both are metadata values; the server has already put the resourceVersion of the stored
/// object where the client left it out and that is allowed.
pub fn validate_update(new: &Value, old: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        let before: HashSet<&Value> = list_of(old, "finalizers").iter().collect();
        let mut added: Vec<&str> = list_of(new, "finalizers")
            .iter()
            .filter(|f| !before.contains(*f))
            .filter_map(Value::as_str)
            .collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let listed: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.push(FieldError::forbidden(
                format!("{path}.finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers \
                     []string{{{}}}",
                    listed.join(", ")
                ),
            ));
        }
    }
    if str_at(new, &["resourceVersion"]).is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.resourceVersion"),
            "",
            "must be specified for an update",
        ));
    }
    generation(new, path, &mut errors);
    let number = |metadata: &Value| metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if number(new) < number(old) {
        errors.push(FieldError::invalid(
            format!("{path}.generation"),
            number(new),
            "must not be decremented",
        ));
    }
    for (field, unset) in [
        ("name", Value::from("")),
        ("namespace", Value::from("")),
        ("uid", Value::from("")),
        ("creationTimestamp", Value::Null),
        ("deletionTimestamp", Value::Null),
        ("deletionGracePeriodSeconds", Value::Null),
    ] {
        let value = |metadata: &Value| match metadata.get(field) {
            None | Some(Value::Null) => unset.clone(),
            Some(value) => value.clone(),
        };
        errors.extend(immutable(&value(new), &value(old), &format!("{path}.{field}")));
    }
    labels(map_of(new, "labels"), &format!("{path}.labels"), &mut errors);
    annotations(map_of(new, "annotations"), &format!("{path}.annotations"), &mut errors);
    owner_references(list_of(new, "ownerReferences"), &format!("{path}.ownerReferences"), &mut errors);
    managed_fields(list_of(new, "managedFields"), &format!("{path}.managedFields"), &mut errors);
    errors
}

/// The problem of a field that changed and may not.
pub fn immutable(new: &Value, old: &Value, path: &str) -> Option<FieldError> {
    (new != old).then(|| FieldError::invalid(path, new.clone(), IMMUTABLE))
}

fn generation(metadata: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let value = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if value < 0 {
        errors.push(FieldError::invalid(
            format!("{path}.generation"),
            value,
            "must be greater than or equal to 0",
        ));
    }
}

/// Problems of labels.
pub fn labels(labels: Option<&Map>, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.into_iter().flatten() {
        errors.extend(each(validation::label_key(key), path, key));
        let value = value.as_str().unwrap_or_default();
        errors.extend(each(validation::label_value(value), path, value));
    }
}

/// Problems of annotations: keys like those of labels in any case, and a limit for all of them together.
pub fn annotations(annotations: Option<&Map>, path: &str, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        errors.extend(each(validation::label_key(&key.to_lowercase()), path, key));
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX_BYTES));
    }
}

fn owner_references(references: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for (i, reference) in references.iter().enumerate() {
        let path_i = format!("{path}[{i}]");
        let text = |key| str_at(reference, &[key]);
        let group_version = GroupVersion::parse(text("apiVersion")).filter(|gv| !gv.version.is_empty());
        if text("apiVersion").is_empty() {
            errors.push(FieldError::required(format!("{path_i}.apiVersion"), "must not be empty"));
        } else if group_version.is_none() {
            errors.push(FieldError::invalid(
                format!("{path_i}.apiVersion"),
                text("apiVersion"),
                "must be <group>/<version> or <version>",
            ));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errors.push(FieldError::required(format!("{path_i}.{key}"), "must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.push(FieldError::invalid(
                path_i,
                reference.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if reference.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => errors.push(FieldError::invalid(
                    path,
                    Value::from(references.to_vec()),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    ),
                )),
            }
        }
    }
}

fn finalizers(finalizers: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        errors.extend(each(validation::label_key(finalizer), path, finalizer));
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has(ORPHAN_FINALIZER) && has(FOREGROUND_FINALIZER) {
        errors.push(FieldError::invalid(
            path,
            Value::from(finalizers.to_vec()),
            format!("finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set"),
        ));
    }
}

fn managed_fields(entries: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for (i, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let operation = str_at(entry, &["operation"]);
        match operation {
            "" => errors.push(FieldError::required(format!("{path}.operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => errors.push(FieldError::not_supported(
                format!("{path}.operation"),
                other,
                &["Apply", "Update"],
            )),
        }
        let fields_type = str_at(entry, &["fieldsType"]);
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.push(FieldError::invalid(format!("{path}.fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        errors.extend(field_manager(str_at(entry, &["manager"]), &format!("{path}.manager")));
        if str_at(entry, &["subresource"]).len() > SUBRESOURCE_MAX_BYTES {
            errors.push(FieldError::too_long(format!("{path}.subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
}

/// Problems of the name of a field manager (the `fieldManager` parameter).
pub fn field_manager(name: &str, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > FIELD_MANAGER_MAX_BYTES {
        errors.push(FieldError::too_long(path, FIELD_MANAGER_MAX_BYTES));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        errors.push(FieldError::invalid(
            path,
            name,
            format!("invalid character U+{:04X} (at position {at})", u32::from(c)),
        ));
    }
    errors
}

/// Problems of a `metav1.LabelSelector` as a value, absent or null being none.
pub fn label_selector(selector: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(selector) = selector else {
        return errors;
    };
    labels(map_of(selector, "matchLabels"), &format!("{path}.matchLabels"), &mut errors);
    for (i, expression) in list_of(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = list_of(expression, "values");
        match str_at(expression, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(
                format!("{path}.operator"),
                other,
                "not a valid selector operator",
            )),
        }
        let key = str_at(expression, &["key"]);
        errors.extend(each(validation::label_key(key), &format!("{path}.key"), key));
        for (j, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.extend(each(validation::label_value(value), &format!("{path}.values[{j}]"), value));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn create(metadata: Value, namespaced: bool) -> Vec<String> {
        texts(validate_create(&metadata, namespaced, validation::dns1123_subdomain, "metadata"))
    }

    #[test]
    fn new_objects() {
        assert_eq!(create(json!({"name": "a", "namespace": "b"}), true), [""; 0]);
        assert_eq!(
            create(json!({"namespace": "b", "generation": -1}), false),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Forbidden: not allowed on this type",
                "metadata.generation: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
        assert_eq!(
            create(
                json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"], "annotations": {"A/b": ""},
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "controller": true},
                        {"apiVersion": "a/b/c", "kind": "B", "name": "b", "controller": true}],
                    "managedFields": [{"operation": "Patch", "fieldsType": "x", "manager": "a\u{7}"}]}),
                false
            ),
            [
                "metadata.ownerReferences[1].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>",
                "metadata.ownerReferences[1].uid: Required value: must not be empty",
                "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"controller\":true,\"kind\":\"A\",\
                 \"name\":\"a\",\"uid\":\"1\"},{\"apiVersion\":\"a/b/c\",\"controller\":true,\"kind\":\"B\",\
                 \"name\":\"b\"}]: Only one reference can have Controller set to true. Found \"true\" in references for \
                 A/a and B/b",
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
                 foregroundDeletion cannot be both set",
                "metadata.managedFields[0].operation: Unsupported value: \"Patch\": supported values: \"Apply\", \
                 \"Update\"",
                "metadata.managedFields[0].fieldsType: Invalid value: \"x\": must be `FieldsV1`",
                "metadata.managedFields[0].manager: Invalid value: \"a\\a\": invalid character U+0007 (at position 1)",
            ]
        );
        let big = json!({"name": "a", "annotations": {"a": "x".repeat(ANNOTATIONS_MAX_BYTES)}});
        assert_eq!(create(big, false), ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
    }

    #[test]
    fn changed_objects() {
        let old = json!({"name": "a", "uid": "1", "generation": 2, "resourceVersion": "5", "finalizers": ["a"],
            "deletionTimestamp": "2026-01-02T03:04:05Z", "creationTimestamp": "2026-01-01T03:04:05Z"});
        assert_eq!(texts(validate_update(&old, &old, "metadata")), [""; 0]);
        let new = json!({"name": "b", "uid": "1", "generation": 1, "finalizers": ["b", "a"],
            "creationTimestamp": "2026-01-01T03:04:05Z"});
        assert_eq!(
            texts(validate_update(&new, &old, "metadata")),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"b\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }

    #[test]
    fn label_selectors() {
        let selector = json!({"matchLabels": {"a": "b c"}, "matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "a", "operator": "Gt", "values": ["1"]}]});
        let errors = texts(label_selector(Some(&selector), "spec.selector"));
        assert!(
            errors[0].starts_with("spec.selector.matchLabels: Invalid value: \"b c\": a valid label must be")
        );
        assert_eq!(
            errors[1..],
            [
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or \
                 'NotIn'",
                "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' \
                 or 'DoesNotExist'",
                "spec.selector.matchExpressions[2].operator: Invalid value: \"Gt\": not a valid selector operator",
            ]
        );
    }
}
