//! Decoding an object without what is not needed, which is often most of it.

use std::fmt;

use apimachinery::{Map, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Members of `metadata` that no selectable field is made of.
const UNSELECTABLE: [&str; 2] = ["annotations", "managedFields"];
const MANAGED_FIELDS: [&str; 1] = ["managedFields"];

/// What selectable fields can be made of.
pub(crate) fn selectable(json: &[u8]) -> serde_json::Result<Value> {
    decode(json, Part { place: Place::Top, left_out: &UNSELECTABLE, lists: Lists::FirstItem })
}

/// Everything but managed fields.
pub(crate) fn without_managed_fields(json: &[u8]) -> serde_json::Result<Value> {
    decode(json, Part { place: Place::Top, left_out: &MANAGED_FIELDS, lists: Lists::Whole })
}

fn decode(json: &[u8], part: Part) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let tree = part.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(tree)
}

/// Where in an object a value is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    Metadata,
    Elsewhere,
    /// In an item of a list of which only the scalars are wanted.
    Item,
    /// A member of such an item: a scalar, or null for what is none.
    Scalar,
}

#[derive(Clone, Copy, PartialEq)]
enum Lists {
    Whole,
    /// The first item, and of that the scalars.
    FirstItem,
}

/// A value at a place, and what of it is wanted.
#[derive(Clone, Copy)]
struct Part {
    place: Place,
    /// Members of `metadata` that are left out.
    left_out: &'static [&'static str],
    lists: Lists,
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.place {
            // anything else is no object of ours
            Place::Top | Place::Metadata => deserializer.deserialize_map(self),
            Place::Elsewhere | Place::Item | Place::Scalar => deserializer.deserialize_any(self),
        }
    }
}

impl Part {
    fn member(self, key: &str) -> Self {
        let place = match self.place {
            Place::Top if key == "metadata" => Place::Metadata,
            Place::Item => Place::Scalar,
            _ => Place::Elsewhere,
        };
        Self { place, ..self }
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        if self.place == Place::Scalar {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if self.place == Place::Metadata && self.left_out.contains(&key.as_str()) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = match self.member(&key) {
                part if part.lists == Lists::Whole && part.place == Place::Elsewhere => {
                    members.next_value()?
                }
                part => members.next_value_seed(part)?,
            };
            map.insert(key.into(), value);
        }
        Ok(Value::Object(map))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        if self.place == Place::Scalar {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let first = items.next_element_seed(Self { place: Place::Item, ..self })?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(first.into_iter().collect()))
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}
