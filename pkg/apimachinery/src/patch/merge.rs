//! JSON merge patch (RFC 7396) as evanphx/json-patch v4 reads it.
//!
//! It departs from the RFC in one thing: `null` inside objects is also dropped within arrays that are new or replace
//! something other than an object. The `json-patch` crate follows the RFC to the letter and is therefore not used.

use crate::{Map, Value};

/// Merges `patch` into `current`.
pub(super) fn merge(current: &mut Map, patch: &Map) {
    for (key, value) in patch {
        if value.is_null() {
            current.remove(key);
            continue;
        }
        match (current.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (Some(old @ Value::Object(_)), other) => *old = other.clone(),
            (Some(old), other) => *old = without_nulls(other),
            (None, other) => {
                current.insert(key.clone(), without_nulls(other));
            }
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect::<Map>()
            .into(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn merges() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b"}), json!({"b": null}), json!({"a": "b"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": {"b": 1}}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"a": 1, "e": null})),
            (json!({}), json!({"a": {"bb": {"c": null}}}), json!({"a": {"bb": {}}})),
            // nulls in objects of new arrays are dropped, null items stay
            (json!({}), json!({"a": [{"b": null}, null]}), json!({"a": [{}, null]})),
            (json!({"a": [1]}), json!({"a": [{"b": null}]}), json!({"a": [{}]})),
            // but not when the array replaces an object
            (json!({"a": {"x": 1}}), json!({"a": [{"b": null}]}), json!({"a": [{"b": null}]})),
        ];
        for (mut current, patch, wanted) in cases {
            let text = format!("{current} + {patch}");
            merge(current.as_object_mut().unwrap(), patch.as_object().unwrap());
            assert_eq!(current, wanted, "{text}");
        }
    }
}
