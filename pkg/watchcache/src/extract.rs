//! The part of an object that somebody asks for, out of its JSON: what is not wanted is passed by, not decoded.

use apimachinery::table::Part;
use apimachinery::{Key, Map, Value};

use crate::scan::Scanner;

/// The wanted part of an object's JSON. Lists are on the way to their items, which are all there. The whole of an object
/// comes without its managed fields, which are often the larger half and never wanted.
pub(crate) fn part(json: &[u8], wanted: &Part) -> Result<Value, String> {
    let mut scanner = Scanner::new(json);
    match wanted {
        Part::Whole => members(&mut scanner, |scanner, key| match key {
            b"metadata" if scanner.next() == Some(b'{') => members(scanner, |scanner, key| match key {
                b"managedFields" => scanner.value().map(|()| None).map_err(Into::into),
                _ => whole(scanner).map(Some),
            })
            .map(Some),
            _ => whole(scanner).map(Some),
        }),
        Part::Members(_) => value(&mut scanner, wanted),
    }
}

/// An object of what `read` makes of its members' values, which it reads or passes by.
fn members<'j>(
    scanner: &mut Scanner<'j>,
    mut read: impl FnMut(&mut Scanner<'j>, &'j [u8]) -> Result<Option<Value>, String>,
) -> Result<Value, String> {
    scanner.eat(b'{')?;
    let mut found: Vec<(Key, Value)> = Vec::new();
    let mut first = true;
    while let Some(member) = scanner.member(first)? {
        first = false;
        if let Some(value) = read(scanner, member.key)? {
            let key = std::str::from_utf8(member.key).map_err(|e| e.to_string())?;
            found.push((key.into(), value));
        }
    }
    Ok(Value::Object(Map::from_members(found).0))
}

fn value(scanner: &mut Scanner<'_>, wanted: &Part) -> Result<Value, String> {
    let Part::Members(names) = wanted else { return whole(scanner) };
    match scanner.next() {
        Some(b'{') => {
            members(scanner, |scanner, key| match names.iter().find(|(name, _)| name.as_bytes() == key) {
                Some((_, part)) => value(scanner, part).map(Some),
                None => scanner.value().map(|()| None).map_err(Into::into),
            })
        }
        Some(b'[') => {
            scanner.eat(b'[')?;
            let mut items = Vec::new();
            while scanner.item(items.is_empty())? {
                items.push(value(scanner, wanted)?);
            }
            Ok(Value::from(items))
        }
        _ => whole(scanner),
    }
}

fn whole(scanner: &mut Scanner<'_>) -> Result<Value, String> {
    let text = scanner.value_text()?;
    match text {
        // most are plain texts
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            std::str::from_utf8(inner).map(Value::from).map_err(|e| e.to_string())
        }
        other => serde_json::from_slice(other).map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    const WANTED: Part = Part::Members(&[
        ("metadata", Part::Members(&[("name", Part::Whole)])),
        ("spec", Part::Members(&[("node", Part::Whole), ("list", Part::Members(&[("n", Part::Whole)]))])),
        ("status", Part::Whole),
    ]);

    #[test]
    fn what_is_wanted_is_found() {
        let object = json!({"kind": "T", "metadata": {"managedFields": [{"f:}": ["]"]}], "name": "a\"\u{e9}\\"},
            "spec": {"list": [{"m": [1, 2], "n": 1.5}, {}, 7, null, {"n": {"deep": [true]}}], "more": {"node": "x"}, "node": "n"},
            "status": {"a": [{"b": "c"}], "d": null}});
        let expected = json!({"metadata": {"name": "a\"\u{e9}\\"},
            "spec": {"list": [{"n": 1.5}, {}, 7, null, {"n": {"deep": [true]}}], "node": "n"},
            "status": {"a": [{"b": "c"}], "d": null}});
        for text in [object.to_string(), format!("{object:#}")] {
            assert_eq!(part(text.as_bytes(), &WANTED).unwrap(), expected, "{text}");
        }
        let mut unmanaged = object.clone();
        unmanaged["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(part(object.to_string().as_bytes(), &Part::Whole).unwrap(), unmanaged);
        // types other than the expected ones are shown as they are
        assert_eq!(
            part(br#"{"spec":"x","metadata":[]}"#, &WANTED).unwrap(),
            json!({"spec": "x", "metadata": []})
        );
    }

    #[test]
    fn broken_json_is_refused() {
        for json in ["", "{", r#"{"metadata":{"name""#, r#"{"spec":{"list":[{"n":1}"#, r#"{"status":nul}"#] {
            assert!(part(json.as_bytes(), &WANTED).is_err(), "{json}");
        }
    }
}
