//! JSON Patch (RFC 6902) as evanphx/json-patch v4 reads it.
//!
//! The `json-patch` crate is stricter and is therefore not used: upstream takes negative indices (from the end),
//! replaces keys that do not exist, ignores what stands before a path's first slash, and refuses a malformed
//! operation only when its turn comes.

use std::cell::Cell;

use crate::json::MAX_DEPTH;
use crate::{Map, Value};

/// Most bytes `copy` operations of one patch may add (upstream's `JSONPatchMaxCopyBytes`).
const MAX_COPY_BYTES: usize = 3 * 1024 * 1024;

/// How many items the operations of one patch may push along or pull up in arrays. Ten thousand operations at the front of
/// an array as long as a body can hold would take minutes.
const MAX_SHIFTED_ITEMS: usize = 100_000_000;

/// How often one patch may come so deep that the document has to be measured again.
const MAX_MEASUREMENTS: usize = 64;

/// Why a patch does not apply. Upstream answers all of them with the same 422; the texts are for logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// `op` is missing, no string or unknown.
    #[error("Unexpected kind: {0}")]
    Kind(String),
    /// `path` or `from` is missing or no string.
    #[error("{op} operation failed to decode {member}: missing value")]
    Pointer {
        /// The operation.
        op: &'static str,
        /// `path` or `from`.
        member: &'static str,
    },
    /// What should hold the value does not exist or is neither object nor array.
    #[error("{op} operation does not apply: doc is missing path: {path:?}: missing value")]
    Missing {
        /// The operation.
        op: &'static str,
        /// The path as sent.
        path: String,
    },
    /// A key to remove or move does not exist.
    #[error("error in {op} for path: '{path}': Unable to remove nonexistent key: {key}: missing value")]
    NoKey {
        /// The operation.
        op: &'static str,
        /// The path as sent.
        path: String,
        /// Its last part.
        key: String,
    },
    /// The last part of a path into an array is no index of it.
    #[error(
        "error in {op} for path: '{path}': Unable to access invalid index: {index}: invalid index referenced"
    )]
    Index {
        /// The operation.
        op: &'static str,
        /// The path as sent.
        path: String,
        /// The index as sent.
        index: String,
    },
    /// A test failed.
    #[error("testing value {0} failed: test failed")]
    Test(String),
    /// The whole document can only be replaced by an object or array.
    #[error("replace operation value must be object or array")]
    Root,
    /// Copies add up to more than the limit.
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_COPY_BYTES}"
    )]
    CopySize(usize),
    /// Operations move more items of arrays than the limit.
    #[error("the operations move more than {MAX_SHIFTED_ITEMS} items of arrays")]
    Shifts,
    /// The document would nest deeper than can be read.
    #[error("exceeded max depth")]
    TooDeep,
}

/// One operation while it is carried out.
struct Step<'a> {
    op: &'static str,
    members: &'a Map,
    /// Items of arrays that operations have moved so far.
    shifted: &'a Cell<usize>,
}

/// Where a path leads: a container and the last part of the path.
enum Place<'a> {
    Key(&'a mut Map, String),
    Item(&'a mut Vec<Value>, String),
}

/// Carries out the operations one after the other on `document`, which is left half-patched on failure.
pub(super) fn apply(document: &mut Value, operations: &[Value]) -> Result<(), JsonPatchError> {
    let (mut copied, shifted) = (0, Cell::new(0));
    let mut depth = Depth { bound: depth_of(document), measured: 0 };
    for operation in operations {
        let empty = Map::new();
        let members = operation.as_object().unwrap_or(&empty);
        let kind = members.get("op").and_then(Value::as_str).unwrap_or("unknown");
        let step = |op| Step { op, members, shifted: &shifted };
        match kind {
            "add" => step("add").add(document)?,
            "remove" => step("remove").remove(document)?,
            "replace" => step("replace").replace(document)?,
            "move" => step("move").shift(document)?,
            "copy" => step("copy").copy(document, &mut copied)?,
            "test" => step("test").test(document)?,
            other => return Err(JsonPatchError::Kind(other.to_owned())),
        }
        depth.after(kind, members, document)?;
    }
    Ok(())
}

/// An upper bound of the document's depth. Moves and copies can double it, so that without a limit a small patch makes
/// a document that no walker can descend.
struct Depth {
    bound: usize,
    measured: usize,
}

impl Depth {
    fn after(&mut self, kind: &str, members: &Map, document: &Value) -> Result<(), JsonPatchError> {
        let parts =
            |member| members.get(member).and_then(Value::as_str).map_or(0, |p| p.matches('/').count());
        let value = match kind {
            "add" | "replace" => members.get("value").map_or(0, depth_of),
            "move" | "copy" => self.bound.saturating_sub(parts("from")),
            _ => return Ok(()),
        };
        self.bound = self.bound.max(parts("path") + value);
        if self.bound > MAX_DEPTH {
            self.measured += 1;
            self.bound = depth_of(document);
        }
        if self.bound > MAX_DEPTH || self.measured > MAX_MEASUREMENTS {
            Err(JsonPatchError::TooDeep)
        } else {
            Ok(())
        }
    }
}

/// Levels of arrays and objects. The value is at most twice as deep as [`MAX_DEPTH`].
fn depth_of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

impl<'a> Step<'a> {
    fn pointer(&self, member: &'static str) -> Result<&'a str, JsonPatchError> {
        self.members
            .get(member)
            .and_then(Value::as_str)
            .ok_or(JsonPatchError::Pointer { op: self.op, member })
    }

    /// The operation's value; one that is missing counts as null, as upstream's does.
    fn value(&self) -> Value {
        self.members.get("value").cloned().unwrap_or_default()
    }

    fn place<'d>(&self, document: &'d mut Value, path: &str) -> Result<Place<'d>, JsonPatchError> {
        let missing = || JsonPatchError::Missing { op: self.op, path: path.to_owned() };
        let mut parts = path.split('/').skip(1).map(decode).peekable();
        let mut container = document;
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return match container {
                    Value::Object(map) => Ok(Place::Key(map, part)),
                    Value::Array(items) => Ok(Place::Item(items, part)),
                    _ => Err(missing()),
                };
            }
            container = match container {
                Value::Object(map) => map.get_mut(&part),
                Value::Array(items) => index_of(&part, items.len()).and_then(|i| items.get_mut(i)),
                _ => None,
            }
            .ok_or_else(missing)?;
        }
        Err(missing())
    }

    /// Counts items that are about to move.
    fn shift_items(&self, items: usize) -> Result<(), JsonPatchError> {
        self.shifted.set(self.shifted.get() + items);
        if self.shifted.get() > MAX_SHIFTED_ITEMS { Err(JsonPatchError::Shifts) } else { Ok(()) }
    }

    fn bad_index(&self, path: &str, index: String) -> JsonPatchError {
        JsonPatchError::Index { op: self.op, path: path.to_owned(), index }
    }

    fn insert(&self, document: &mut Value, path: &str, value: Value) -> Result<(), JsonPatchError> {
        match self.place(document, path)? {
            Place::Key(map, key) => {
                map.insert(key.into(), value);
            }
            Place::Item(items, key) if key == "-" => items.push(value),
            Place::Item(items, key) => {
                // an index one past the end appends, so negative ones count from there
                match index_of(&key, items.len() + 1) {
                    Some(index) => {
                        self.shift_items(items.len() - index)?;
                        items.insert(index, value);
                    }
                    None => return Err(self.bad_index(path, key)),
                }
            }
        }
        Ok(())
    }

    fn take(&self, document: &mut Value, path: &str) -> Result<Value, JsonPatchError> {
        match self.place(document, path)? {
            Place::Key(map, key) => map.remove(&key).ok_or_else(|| JsonPatchError::NoKey {
                op: self.op,
                path: path.to_owned(),
                key,
            }),
            Place::Item(items, key) => match index_of(&key, items.len()) {
                Some(index) => {
                    self.shift_items(items.len() - index)?;
                    Ok(items.remove(index))
                }
                None => Err(self.bad_index(path, key)),
            },
        }
    }

    /// The value at a path; an absent key is `None`, an absent index an error.
    fn read<'d>(&self, document: &'d mut Value, path: &str) -> Result<Option<&'d Value>, JsonPatchError> {
        match self.place(document, path)? {
            Place::Key(map, key) => Ok(map.get(&key)),
            Place::Item(items, key) => match index_of(&key, items.len()) {
                Some(index) => Ok(items.get(index)),
                None => Err(self.bad_index(path, key)),
            },
        }
    }

    fn add(&self, document: &mut Value) -> Result<(), JsonPatchError> {
        self.insert(document, self.pointer("path")?, self.value())
    }

    fn remove(&self, document: &mut Value) -> Result<(), JsonPatchError> {
        self.take(document, self.pointer("path")?).map(drop)
    }

    fn replace(&self, document: &mut Value) -> Result<(), JsonPatchError> {
        let path = self.pointer("path")?;
        let value = self.value();
        if path.is_empty() {
            if !value.is_object() && !value.is_array() {
                return Err(JsonPatchError::Root);
            }
            *document = value;
            return Ok(());
        }
        match self.place(document, path)? {
            Place::Key(map, key) => {
                map.insert(key.into(), value);
            }
            Place::Item(items, key) => match index_of(&key, items.len()) {
                Some(index) => items[index] = value,
                None => return Err(JsonPatchError::Missing { op: self.op, path: path.to_owned() }),
            },
        }
        Ok(())
    }

    fn shift(&self, document: &mut Value) -> Result<(), JsonPatchError> {
        let value = self.take(document, self.pointer("from")?)?;
        self.insert(document, self.pointer("path")?, value)
    }

    fn copy(&self, document: &mut Value, copied: &mut usize) -> Result<(), JsonPatchError> {
        let value = self.read(document, self.pointer("from")?)?.cloned().unwrap_or_default();
        let path = self.pointer("path")?;
        *copied += encoded_len(&value);
        if *copied > MAX_COPY_BYTES {
            return Err(JsonPatchError::CopySize(*copied));
        }
        self.insert(document, path, value)
    }

    fn test(&self, document: &mut Value) -> Result<(), JsonPatchError> {
        let path = self.pointer("path")?;
        let wanted = self.members.get("value").unwrap_or(&Value::Null);
        let found = if path.is_empty() { Some(&*document) } else { self.read(document, path)? };
        // absent and null are the same here; numbers are the same when their texts are, so 1 is not 1.0
        if found.unwrap_or(&Value::Null) == wanted {
            Ok(())
        } else {
            Err(JsonPatchError::Test(path.to_owned()))
        }
    }
}

/// One part of a JSON pointer (RFC 6901, section 4).
fn decode(part: &str) -> String {
    if part.contains('~') { part.replace("~1", "/").replace("~0", "~") } else { part.to_owned() }
}

/// The index a part means in an array with `len` places; negative ones count from the end.
fn index_of(part: &str, len: usize) -> Option<usize> {
    let index: i64 = part.parse().ok()?;
    let index = if index < 0 {
        len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(index).ok()?
    };
    (index < len).then_some(index)
}

/// Bytes of a value's JSON, counted without writing it.
fn encoded_len(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // a Value has string keys and the counter never fails
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn operations() {
        // document, operations, result or the start of the error
        let cases = [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), Ok(json!({"a": 1, "b": 2}))),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}]),
                Ok(json!({"a": [1, 2, 3]})),
            ),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), Ok(json!({"a": [1, 2]}))),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-1", "value": 2}]),
                Ok(json!({"a": [1, 2]})),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-2", "value": 2}]),
                Ok(json!({"a": [2, 1]})),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/-3", "value": 2}]),
                Err("error in add for path: '/a/-3'"),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "add", "path": "/a/2", "value": 2}]),
                Err("error in add for path: '/a/2': Unable to access invalid index: 2"),
            ),
            (
                json!({}),
                json!([{"op": "add", "path": "/a/b", "value": 2}]),
                Err("add operation does not apply: doc is missing path: \"/a/b\": missing value"),
            ),
            (
                json!({"a": "s"}),
                json!([{"op": "add", "path": "/a/b", "value": 2}]),
                Err("add operation does not apply"),
            ),
            (json!({}), json!([{"op": "add", "path": "", "value": {}}]), Err("add operation does not apply")),
            (
                json!({}),
                json!([{"op": "add", "value": {}}]),
                Err("add operation failed to decode path: missing value"),
            ),
            (json!({}), json!([{"op": "add", "path": "/x~1y~0z"}]), Ok(json!({"x/y~z": null}))),
            (json!({"b": 1}), json!([{"op": "remove", "path": "a/b"}]), Ok(json!({}))),
            (json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/-1"}]), Ok(json!({"a": [1, 2]}))),
            (
                json!({}),
                json!([{"op": "remove", "path": "/a"}]),
                Err("error in remove for path: '/a': Unable to remove nonexistent key: a: missing value"),
            ),
            (json!({}), json!([{"op": "replace", "path": "/a", "value": 1}]), Ok(json!({"a": 1}))),
            (
                json!({"a": []}),
                json!([{"op": "replace", "path": "/a/0", "value": 1}]),
                Err("replace operation does not apply"),
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "replace", "path": "/a/-1", "value": 5}]),
                Ok(json!({"a": [5]})),
            ),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": {"b": 1}}]), Ok(json!({"b": 1}))),
            (
                json!({"a": 1}),
                json!([{"op": "replace", "path": "", "value": 7}]),
                Err("replace operation value"),
            ),
            (
                json!({"a": {"x": 1}}),
                json!([{"op": "move", "from": "/a/x", "path": "/b"}]),
                Ok(json!({"a": {}, "b": 1})),
            ),
            (json!({}), json!([{"op": "move", "from": "/a", "path": "/b"}]), Err("error in move for path")),
            (
                json!({"a": [1]}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                Ok(json!({"a": [1], "b": [1]})),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), Ok(json!({"a": 1}))),
            (
                json!({"a": 1}),
                json!([{"op": "test", "path": "/a", "value": 1.0}]),
                Err("testing value /a failed: test failed"),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/b", "value": null}]), Ok(json!({"a": 1}))),
            (
                json!({"a": {"b": [1]}}),
                json!([{"op": "test", "path": "", "value": {"a": {"b": [1]}}}]),
                Ok(json!({"a": {"b": [1]}})),
            ),
            (json!({"a": 1}), json!([{"op": "jump", "path": "/a"}]), Err("Unexpected kind: jump")),
            (json!({"a": 1}), json!([{"path": "/a"}]), Err("Unexpected kind: unknown")),
            (json!({"a": 1}), json!([7]), Err("Unexpected kind: unknown")),
        ];
        for (mut document, operations, wanted) in cases {
            let text = format!("{document} {operations}");
            let result = apply(&mut document, operations.as_array().unwrap());
            match (result, wanted) {
                (Ok(()), Ok(wanted)) => assert_eq!(document, wanted, "{text}"),
                (Err(error), Err(start)) => {
                    assert!(error.to_string().starts_with(start), "{text}: {error}");
                }
                (got, wanted) => panic!("{text}: {got:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn copies_are_bounded() {
        let mut document = json!({"a": ["x".repeat(1000)]});
        let doubling: Vec<Value> =
            (0..64).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        assert!(matches!(apply(&mut document, &doubling), Err(JsonPatchError::CopySize(_))));
    }

    #[test]
    fn shifts_are_bounded() {
        let front = |operation: Value| -> Vec<Value> { vec![operation; 10_000] };
        let long = json!({"a": vec![0; 20_000]});
        for operation in
            [json!({"op": "add", "path": "/a/0", "value": 0}), json!({"op": "remove", "path": "/a/0"})]
        {
            let mut document = long.clone();
            assert_eq!(apply(&mut document, &front(operation.clone())), Err(JsonPatchError::Shifts));
            // as many operations on what objects have
            let mut document = json!({"a": vec![0; 10_000]});
            assert_eq!(apply(&mut document, &front(operation)[..5_000]), Ok(()));
        }
        // appending moves nothing
        let mut document = long;
        assert_eq!(apply(&mut document, &front(json!({"op": "add", "path": "/a/-", "value": 0}))), Ok(()));
    }

    #[test]
    fn depth_is_bounded() {
        let mut document = json!({"a": {}});
        let deeper: Vec<Value> = (0..MAX_DEPTH)
            .flat_map(|_| {
                [
                    json!({"op": "add", "path": "/b", "value": {}}),
                    json!({"op": "move", "from": "/a", "path": "/b/a"}),
                    json!({"op": "move", "from": "/b", "path": "/a"}),
                ]
            })
            .collect();
        assert_eq!(apply(&mut document, &deeper), Err(JsonPatchError::TooDeep));
        // flat work is never measured
        let mut document = json!({"a": []});
        let flat: Vec<Value> =
            (0..10_000).map(|_| json!({"op": "add", "path": "/a/-", "value": {}})).collect();
        assert_eq!(apply(&mut document, &flat), Ok(()));
    }
}
