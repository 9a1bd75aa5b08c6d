//! Objects compared.

use anyhow::bail;
use serde_json::Value;

/// Whether all that is in `wanted` is in `found` as well. Null stands for what is not there.
pub(crate) fn contains(found: &Value, wanted: &Value) -> anyhow::Result<()> {
    at("", found, wanted)
}

fn at(path: &str, found: &Value, wanted: &Value) -> anyhow::Result<()> {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            for (key, value) in wanted {
                at(&format!("{path}.{key}"), found.get(key).unwrap_or(&Value::Null), value)?;
            }
        }
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => {
            for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                at(&format!("{path}[{index}]"), found, wanted)?;
            }
        }
        // What is empty need not be printed.
        (Value::Null, Value::Object(wanted)) if wanted.values().all(Value::is_null) => {}
        _ if found == wanted => {}
        _ => bail!("{path} is {found} instead of {wanted}"),
    }
    Ok(())
}

/// The top level without what the server keeps by itself.
pub(crate) fn content(object: &Value) -> Value {
    let mut content = object.clone();
    if let Some(fields) = content.as_object_mut() {
        fields.remove("metadata");
        fields.remove("status");
    }
    content
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_is_contained() {
        let whole = json!({"a": {"b": [1, {"c": 2, "d": 3}]}, "e": "f"});
        for (wanted, said) in [
            (json!({"a": {"b": [1, {"c": 2}]}}), ""),
            (json!({"x": null}), ""),
            (json!({"x": {"y": null}}), ""),
            (json!({"a": {"b": [1]}}), ".a.b is "),
            (json!({"a": {"b": [1, {"c": 4}]}}), ".a.b[1].c is 2 instead of 4"),
            (json!({"e": null}), ".e is "),
        ] {
            let found = contains(&whole, &wanted).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(found.starts_with(said) && found.is_empty() == said.is_empty(), "{wanted}: {found}");
        }
    }
}
