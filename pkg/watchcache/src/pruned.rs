//! Decoding an object without what is not needed, which is often most of it.

use std::fmt;

use apimachinery::{Key, Map, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Members of `metadata` that no selectable field is made of.
const UNSELECTABLE: [&str; 2] = ["annotations", "managedFields"];

/// What selectable fields can be made of.
pub(crate) fn selectable(json: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let tree = Place::Top.deserialize(&mut deserializer)?;
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

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            // anything else is no object of ours
            Self::Top | Self::Metadata => deserializer.deserialize_map(self),
            Self::Elsewhere | Self::Item | Self::Scalar => deserializer.deserialize_any(self),
        }
    }
}

impl Place {
    fn member(self, key: &str) -> Self {
        match self {
            Self::Top if key == "metadata" => Self::Metadata,
            Self::Item => Self::Scalar,
            _ => Self::Elsewhere,
        }
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        if self == Self::Scalar {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let mut map = Vec::new();
        while let Some(key) = members.next_key::<Key>()? {
            if self == Self::Metadata && UNSELECTABLE.contains(&key.as_str()) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = members.next_value_seed(self.member(&key))?;
            map.push((key, value));
        }
        Ok(Value::Object(Map::from_members(map).0))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        if self == Self::Scalar {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let first = items.next_element_seed(Self::Item)?;
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
