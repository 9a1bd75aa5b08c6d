//! FieldsV1 as it was recorded, asked without making a [`Set`] of it.
//!
//! Most writes change nothing of what most managers own. Questions walk down the tree only where the set they ask about
//! goes.

use serde::de::IgnoredAny;

use super::{FieldsError, PathElement, Set};
use crate::json::Reader;
use crate::known::{KnownTexts, Mark};
use crate::{Map, Value};

/// A FieldsV1 tree that can be read.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'v> {
    fields: &'v Value,
    /// Of its text, if it was not read yet.
    mark: Option<Mark>,
}

impl<'v> Recorded<'v> {
    /// Looks through a tree once.
    ///
    /// # Errors
    /// As [`Set::from_fields_v1`].
    pub fn new(fields: &'v Value) -> Result<Self, FieldsError> {
        // a manager owns the same of many objects
        static READABLE: KnownTexts = KnownTexts::new();
        let mark = fields.as_object().and_then(Map::text).map(|text| Mark::of(text));
        if !mark.is_some_and(|mark| READABLE.has(mark)) {
            check(fields)?;
            mark.inspect(|mark| READABLE.add(*mark));
        }
        Ok(Self { fields, mark })
    }

    /// Its text as [`KnownTexts`] know it.
    pub(in crate::managedfields) fn mark(self) -> Option<Mark> {
        self.mark
    }

    /// The tree.
    pub fn tree(self) -> &'v Value {
        self.fields
    }

    /// The set it says.
    pub fn to_set(self) -> Set {
        // it was found readable
        Set::from_fields_v1(self.fields).unwrap_or_default()
    }

    /// There are no members.
    pub fn is_empty(self) -> bool {
        !self.fields.as_object().is_some_and(has_elements)
    }

    /// Some member is one of a set.
    pub fn meets(self, set: &Set) -> bool {
        any(set, self.fields, false, &|wanted, here| wanted && here)
    }

    /// Every member of a set is one.
    pub fn covers(self, set: &Set) -> bool {
        !any(set, self.fields, true, &|wanted, here| wanted && !here)
    }
}

/// Whether `found` holds somewhere in a set: it is told of each entry whether it is a member there and in the tree. What
/// the tree lacks is told of with `lacking` only.
fn any(set: &Set, fields: &Value, lacking: bool, found: &impl Fn(bool, bool) -> bool) -> bool {
    let mut key = String::new();
    set.entries().iter().any(|entry| {
        match fields.as_object().and_then(|map| find(map, &entry.element, &mut key)) {
            Some(below) => {
                found(entry.member, is_member(below)) || any(&entry.children, below, lacking, found)
            }
            None if lacking => {
                found(entry.member, false) || any(&entry.children, &Value::Null, lacking, found)
            }
            None => false,
        }
    })
}

/// There is something besides `.`, of a type that is known.
pub(in crate::managedfields) fn has_elements(map: &Map) -> bool {
    map.keys().any(|key| matches!(key.as_bytes(), [b'f' | b'k' | b'v' | b'i', b':', ..]))
}

/// What is below a key says that the key itself is a member: `.`, or nothing else.
fn is_member(below: &Value) -> bool {
    below.as_object().is_none_or(|map| map.contains_key(".") || !has_elements(map))
}

/// What is below an element. Keys of list items are compared by what they say, as others may have written them in other
/// words; most often the words are ours.
fn find<'m>(map: &'m Map, element: &PathElement, key: &mut String) -> Option<&'m Value> {
    if map.is_empty() {
        return None;
    }
    key.clear();
    element.write_key(key);
    map.get(key).or_else(|| match element {
        PathElement::Field(_) => None,
        _ => map
            .iter()
            .filter(|(other, _)| other.as_bytes().first() == key.as_bytes().first())
            .find(|(other, _)| PathElement::from_key(other).ok().flatten().as_ref() == Some(element))
            .map(|(_, below)| below),
    })
}

/// Fails as making a set would.
fn check(fields: &Value) -> Result<(), FieldsError> {
    let map = match fields {
        Value::Object(map) => map,
        Value::Null => return Ok(()),
        other => return Set::from_fields_v1(other).map(drop),
    };
    // what is still text need not be read for this; why it cannot be read, if it cannot, is for the tree to say
    let text = map.text().and_then(|text| std::str::from_utf8(text).ok());
    if text.is_some_and(|text| check_text(&mut Reader::new(text)).is_some()) {
        return Ok(());
    }
    map.iter().try_for_each(|(key, below)| {
        check_key(key)?;
        if key == "." { Ok(()) } else { check(below) }
    })
}

/// [`check`] of an object's text; nothing when it fails.
fn check_text(reader: &mut Reader<'_>) -> Option<()> {
    if reader.peek() != Some(b'{') {
        return None;
    }
    reader.enter().ok()?;
    let mut first = true;
    while let Some(key) = reader.next_key(first).ok()? {
        first = false;
        check_key(&key).ok()?;
        check_text(reader)?;
    }
    Some(())
}

fn check_key(key: &str) -> Result<(), FieldsError> {
    let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    let readable = match key.as_bytes() {
        [b'.'] | [b'f', b':', ..] => true,
        [b'v', b':', ..] => is_json(&key[2..]),
        [b'k', b':', b'{', ..] => is_json(&key[2..]),
        _ => false,
    };
    if readable { Ok(()) } else { PathElement::from_key(key).map(drop) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn text_is_readable_where_its_tree_is() {
        let cases = [
            (json!({"f:a": {".": {}, "f:long": {}}}), true),
            (json!({"f:list": {"k:{\"name\":\"x\"}": {".": {}}, "v:1": {}, "i:0": {}}}), true),
            (json!({"f:a": null, "x:unknown to us": {}}), true),
            (json!({"f:list": {"k:{\"name\"": {}}}), false),
            (json!({"f:list": {"v:{": {}, "f:b": {}}}), false),
            (json!({"no prefix at all": {}}), false),
        ];
        for (fields, readable) in cases {
            let text = json!({"fields": fields}).to_string();
            let object = crate::json::parse_in_parts(&text.into()).expect("JSON");
            let map = object["fields"].as_object().expect("an object");
            assert!(map.text().is_some(), "{fields} is short");
            // the second time it is known
            for _ in 0..2 {
                assert_eq!(Recorded::new(&object["fields"]).is_ok(), readable, "{fields}");
            }
            assert_eq!(Recorded::new(&fields).is_ok(), readable, "{fields}");
        }
    }

    #[test]
    fn trees_answer_as_sets_do() {
        let trees = [
            json!({}),
            json!({"f:a": {}}),
            json!({"f:a": {"f:b": {}}}),
            json!({"f:a": {".": {}, "f:b": {}}}),
            json!({"f:a": {"f:b": null}, "f:c": {}}),
            json!({"f:l": {"k:{\"name\":\"x\"}": {".": {}, "f:v": {}}}}),
            json!({"f:l": {"k:{ \"name\" : \"x\" }": {"f:v": {}}, "k:{\"name\":\"y\"}": {}}}),
            json!({"f:l": {"v:1": {}, "i:0": {}}}),
            json!({"f:l": {"v:1.0": {"x:unknown": {}}}, "x:unknown": {}}),
            json!({"x:unknown": {}}),
        ];
        for a in &trees {
            let recorded = Recorded::new(a).unwrap();
            assert_eq!(recorded.is_empty(), recorded.to_set().is_empty(), "{a}");
            for b in &trees {
                let (set, other) = (recorded.to_set(), Set::from_fields_v1(b).unwrap());
                assert_eq!(recorded.meets(&other), !set.intersection(&other).is_empty(), "{a} and {b}");
                assert_eq!(recorded.covers(&other), other.is_subset(&set), "{b} within {a}");
            }
        }
    }

    #[test]
    fn what_makes_no_set_is_refused() {
        for broken in [
            json!([]),
            json!({"a": {}}),
            json!({"f:a": "x"}),
            json!({"f:a": {"v:": {}}}),
            json!({"f:a": {"k:[]": {}}}),
            json!({"k:{": {}}),
            json!({"i:x": {}}),
        ] {
            assert_eq!(Recorded::new(&broken).err(), Set::from_fields_v1(&broken).err(), "{broken}");
            assert!(Recorded::new(&broken).is_err(), "{broken}");
        }
    }
}
