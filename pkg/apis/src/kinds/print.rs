//! What rows of several kinds have in common. Source: `pkg/printers/internalversion`.

use apimachinery::selectors::LabelSelector;
use apimachinery::{Map, Value};

use apimachinery::meta::at;
pub(crate) use apimachinery::meta::{name, str_at};
pub(crate) use apimachinery::table::{age, human_duration, since};

/// A list at a path, empty if there is none.
pub(crate) fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A map at a path.
pub(crate) fn map<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Map> {
    at(object, path).and_then(Value::as_object)
}

/// A number at a path, 0 if there is none.
pub(crate) fn number(object: &Value, path: &[&str]) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

/// A number or a percentage at a path, as text.
pub(crate) fn int_or_string(object: &Value, path: &[&str], none: &str) -> String {
    match at(object, path) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        _ => none.to_owned(),
    }
}

/// The text, or what stands for none.
pub(crate) fn or(text: &str, none: &str) -> Value {
    if text.is_empty() { none.into() } else { text.into() }
}

/// A value of some type as a cell.
pub(crate) fn texts(values: &[Value]) -> impl Iterator<Item = &str> {
    values.iter().filter_map(Value::as_str)
}

/// Names and images of the containers of a pod spec, comma-separated.
pub(crate) fn containers(pod_spec: &Value) -> [Value; 2] {
    let join = |field: &str| {
        list(pod_spec, &["containers"])
            .iter()
            .map(|c| str_at(c, &[field]))
            .collect::<Vec<_>>()
            .join(",")
            .into()
    };
    [join("name"), join("image")]
}

/// `a=b,c=d`, `<none>` for no labels.
pub(crate) fn labels(labels: Option<&Map>) -> Value {
    let parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or(&parts.join(","), "<none>")
}

/// A `metav1.LabelSelector` as `kubectl` prints it, `<none>` for one that selects everything or nothing.
pub(crate) fn selector(selector: Option<&Value>) -> Value {
    match LabelSelector::from_value(selector) {
        Ok(selector) => or(&selector.to_string(), "<none>"),
        Err(_) => "<error>".into(),
    }
}

/// The first condition of a type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"]).iter().find(|c| c["type"] == kind)
}
