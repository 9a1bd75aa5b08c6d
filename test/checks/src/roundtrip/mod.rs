//! Objects with every field set, through every form the API has: JSON, YAML, protobuf, other versions, the store.

pub mod forms;
mod full;
pub mod stored;

pub use full::object;

use apimachinery::Value;

/// Where two trees differ first.
pub fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    differ("", ours, theirs)
}

fn differ(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&apimachinery::Key> =
                a.keys().chain(b.keys().filter(|key| !a.contains_key(key))).collect();
            keys.sort();
            keys.into_iter().find_map(|key| match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) => differ(&format!("{path}.{key}"), a, b),
                (Some(a), None) => Some(format!("{path}.{key} came as {a} and is gone")),
                (_, b) => Some(format!("{path}.{key} is new: {}", b.unwrap_or(&Value::Null))),
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| differ(&format!("{path}[{i}]"), a, b))
        }
        _ if a == b => None,
        _ => Some(format!("{path} came as {a} and is {b}")),
    }
}

/// Counts what passed and what did not, and keeps the lines about the latter.
#[derive(Debug, Default)]
pub struct Report {
    /// Checks that passed.
    pub passed: usize,
    /// A line each.
    pub failures: Vec<String>,
}

impl Report {
    /// Notes the outcome of a check.
    pub fn note(&mut self, what: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(why) => self.failures.push(format!("{what}: {why}")),
        }
    }
}

/// `Ok` when a tree came back as it went.
pub fn unchanged(before: &Value, after: &Value) -> Result<(), String> {
    difference(before, after).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn differences_are_found_where_they_are() {
        let before = json!({"a": [{"b": 1}], "c": null});
        for (after, expected) in [
            (json!({"a": [{"b": 1}], "c": null}), None),
            (json!({"a": [{"b": 2}], "c": null}), Some(".a[0].b came as 1 and is 2")),
            (json!({"a": [{}], "c": null}), Some(".a[0].b came as 1 and is gone")),
            (json!({"a": [], "c": null}), Some(".a came as [{\"b\":1}] and is []")),
            (json!({"a": [{"b": 1}], "c": null, "d": 0}), Some(".d is new: 0")),
        ] {
            assert_eq!(difference(&before, &after).as_deref(), expected);
        }
    }
}
