//! Small edits of objects, for defaulting and strategies. Whatever has the wrong type is left alone: decoding has
//! refused it already, or validation will.

use apimachinery::{Map, Value};

/// The map at a field, if it is one.
pub(crate) fn map_at<'a>(map: &'a mut Map, name: &str) -> Option<&'a mut Map> {
    map.get_mut(name)?.as_object_mut()
}

/// The map at a field, made if absent.
pub(crate) fn map_or_new<'a>(map: &'a mut Map, name: &str) -> Option<&'a mut Map> {
    let value = map.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}

/// The maps in the list at a field.
pub(crate) fn maps_in<'a>(map: &'a mut Map, name: &str) -> impl Iterator<Item = &'a mut Map> {
    map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The object's spec, made if absent.
pub(crate) fn spec(object: &mut Value) -> Option<&mut Map> {
    map_or_new(object.as_object_mut()?, "spec")
}

/// The object's status, made if absent.
pub(crate) fn status(object: &mut Value) -> Option<&mut Map> {
    map_or_new(object.as_object_mut()?, "status")
}

/// Absent or null: an unset pointer.
pub(crate) fn unset(map: &Map, name: &str) -> bool {
    map.get(name).is_none_or(Value::is_null)
}

/// Sets a pointer field that is unset.
pub(crate) fn default_to(map: &mut Map, name: &str, value: impl Into<Value>) {
    if unset(map, name) {
        map.insert(name.into(), value.into());
    }
}

/// Sets a text field that is absent or empty.
pub(crate) fn default_text(map: &mut Map, name: &str, value: &str) {
    if text(map, name).is_empty() && map.get(name).is_none_or(|v| v.is_null() || v.is_string()) {
        map.insert(name.into(), value.into());
    }
}

/// Sets a number field that is absent or 0.
pub(crate) fn default_number(map: &mut Map, name: &str, value: i64) {
    if map.get(name).is_none_or(|v| v.is_null() || v.as_i64() == Some(0)) {
        map.insert(name.into(), value.into());
    }
}

/// The text at a field, `""` if there is none.
pub(crate) fn text<'a>(map: &'a Map, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or("")
}

/// The field is true.
pub(crate) fn flag(map: &Map, name: &str) -> bool {
    map.get(name) == Some(&Value::Bool(true))
}

/// Takes a field over from another object: its value there, or its absence.
pub(crate) fn keep(new: &mut Value, old: &Value, name: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(name) {
        Some(value) => map.insert(name.into(), value.clone()),
        None => map.remove(name),
    };
}

/// Like [`keep`] inside a map field of both.
pub(crate) fn keep_in(new: &mut Value, old: &Value, parent: &str, name: &str) {
    let value = old.get(parent).and_then(|p| p.get(name)).cloned();
    let Some(map) = new.as_object_mut().and_then(|m| map_or_new(m, parent)) else { return };
    match value {
        Some(value) => map.insert(name.into(), value),
        None => map.remove(name),
    };
}
