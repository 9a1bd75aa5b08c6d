//! Managed fields as clients and webhooks send them, and writes that change nothing but times.

use super::entries;
use super::manager::{is_printable, managed_fields, set_managed_fields, take_managed_fields};
use crate::patch::equal;
use crate::status::{FieldError, FieldErrorKind};
use crate::{Map, Value};

/// Longest name of a manager, in bytes.
const MAX_MANAGER: usize = 128;
/// Longest name of a subresource, in bytes.
const MAX_SUBRESOURCE: usize = 256;

/// Gives `new` the managed fields of `old` when the two differ in nothing but the times of managed fields entries, so
/// that the write is recognised as one that changes nothing. Called after admission, before the store is written.
pub fn ignore_timestamps(old: &Value, new: &mut Value) {
    if differs_in_times_only(old, new) {
        take_managed_fields(new);
        set_managed_fields(new, managed_fields(old).cloned());
    }
}

fn differs_in_times_only(old: &Value, new: &Value) -> bool {
    let (Some(Value::Array(was)), Some(Value::Array(is))) = (managed_fields(old), managed_fields(new)) else {
        return false;
    };
    was.len() == is.len()
        && was != is
        && was.iter().zip(is).all(|(a, b)| same_but(a, b, "time", |_, _| true))
        && same_but_managed_fields(old, new)
}

/// Whether two objects are the same but for their managed fields.
pub(super) fn same_but_managed_fields(a: &Value, b: &Value) -> bool {
    same_but(a, b, "metadata", |a, b| same_but(a, b, "managedFields", |_, _| true))
}

/// Whether two objects are the same but for one key, whose values `compare` judges.
fn same_but(a: &Value, b: &Value, key: &str, compare: impl Fn(&Value, &Value) -> bool) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return equal(a, b) };
    let rest = |map: &'_ Map| map.len() - usize::from(map.contains_key(key));
    rest(a) == rest(b)
        && a.iter().all(|(k, value)| k == key || b.get(k).is_some_and(|other| equal(value, other)))
        && match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => compare(a, b),
            (a, b) => compare(a.unwrap_or(&Value::Null), b.unwrap_or(&Value::Null)),
        }
}

/// Puts back the managed fields from before mutating admission when a webhook left ones that cannot be read. Answers the
/// text of the warning to send then.
pub fn restore_if_invalid(before: Option<&Value>, object: &mut Value) -> Option<String> {
    let error = entries::decode(managed_fields(object)).err()?;
    take_managed_fields(object);
    set_managed_fields(object, before.cloned());
    Some(format!(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating \
         admission controller; please fix your requests: {error}"
    ))
}

/// Problems of `metadata.managedFields` as a client may send them (`ValidateManagedFields`); `path` is theirs.
pub fn validate(managed_fields: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, entry) in managed_fields.as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}[{index}]");
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("operation") {
            "" => errors.push(FieldError::required(format!("{path}.operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => {
                errors.push(FieldError::not_supported(
                    format!("{path}.operation"),
                    other,
                    &["Apply", "Update"],
                ));
            }
        }
        let fields_type = text("fieldsType");
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            let field = format!("{path}.fieldsType");
            errors.push(FieldError::invalid(field, fields_type, "must be `FieldsV1`"));
        }
        errors.extend(validate_manager(text("manager"), &format!("{path}.manager")));
        if text("subresource").len() > MAX_SUBRESOURCE {
            errors.push(FieldError::too_long(format!("{path}.subresource"), MAX_SUBRESOURCE));
        }
    }
    errors
}

/// Problems of a manager's name (`ValidateFieldManager`), also of the `fieldManager` parameter.
pub fn validate_manager(manager: &str, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > MAX_MANAGER {
        errors.push(FieldError::too_long(path, MAX_MANAGER));
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| !is_printable(*c)) {
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            path,
            Value::from(manager),
            format!("invalid character {} (at position {at})", code_point(c)),
        ));
    }
    errors
}

/// Go's `%#U`: `U+000A`, with the character when it prints.
fn code_point(c: char) -> String {
    if is_printable(c) { format!("U+{:04X} '{c}'", u32::from(c)) } else { format!("U+{:04X}", u32::from(c)) }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn times_alone_are_no_change() {
        let object = |time: &str, fields: Value, replicas: i64| {
            json!({"metadata": {"name": "a", "managedFields": [{"manager": "m", "time": time, "fieldsV1": fields}]},
                   "spec": {"replicas": replicas}})
        };
        let old = object("1", json!({"f:a": {}}), 1);
        let cases = [
            (object("2", json!({"f:a": {}}), 1), true),
            (object("2", json!({"f:b": {}}), 1), false),
            (object("2", json!({"f:a": {}}), 2), false),
            (json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}), false),
        ];
        for (mut new, same) in cases {
            ignore_timestamps(&old, &mut new);
            assert_eq!(new == old, same, "{new}");
        }
    }

    #[test]
    fn what_admission_broke_is_restored() {
        let good = json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}}}]);
        let mut object = json!({"metadata": {"managedFields": [{"manager": "m", "operation": "Fix"}]}});
        let warning = restore_if_invalid(Some(&good), &mut object).unwrap();
        assert!(
            warning.ends_with("please fix your requests: operation must be `Apply` or `Update`"),
            "{warning}"
        );
        assert_eq!(object["metadata"]["managedFields"], good);
        assert_eq!(restore_if_invalid(None, &mut object), None);
        assert_eq!(object["metadata"]["managedFields"], good);
    }

    #[test]
    fn validates_entries() {
        let errors = validate(
            &json!([{"operation": "Apply", "manager": "a\n"}, {"operation": "X", "fieldsType": "V2", "subresource": "s".repeat(257)}, {}]),
            "metadata.managedFields",
        );
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                r#"metadata.managedFields[0].manager: Invalid value: "a\n": invalid character U+000A (at position 1)"#,
                r#"metadata.managedFields[1].operation: Unsupported value: "X": supported values: "Apply", "Update""#,
                r#"metadata.managedFields[1].fieldsType: Invalid value: "V2": must be `FieldsV1`"#,
                "metadata.managedFields[1].subresource: Too long: may not be more than 256 bytes",
                "metadata.managedFields[2].operation: Required value: must not be empty",
            ]
        );
    }
}
