//! Writing protobuf messages from JSON trees.

use apimachinery::Value;

/// A protobuf message being written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A field of bytes, text or a message that is written already.
    pub(super) fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message that was written apart.
    pub(super) fn embed(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// A message.
    pub(super) fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// A flag, where it is set.
    pub(super) fn bool(&mut self, field: u64, value: bool) {
        if value {
            self.choice(field, value);
        }
    }

    /// A flag that is one of several choices, and so says something even when it is not set.
    pub(super) fn choice(&mut self, field: u64, value: bool) {
        self.varint(field << 3);
        self.varint(value.into());
    }

    /// A floating point number.
    pub(super) fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A string, where the object has it.
    pub(super) fn text(&mut self, field: u64, object: &Value, key: &str) {
        if let Some(text) = object.get(key).and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    /// Strings, where the object has them.
    pub(super) fn texts(&mut self, field: u64, object: &Value, key: &str) {
        for text in list(object, key).filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    /// `Named*`: a name and a message.
    pub(super) fn named(&mut self, field: u64, name: &str, write: impl FnOnce(&mut Self)) {
        self.message(field, |entry| {
            entry.bytes(1, name.as_bytes());
            entry.message(2, write);
        });
    }

    /// `Any`: the value as YAML, which JSON is.
    pub(super) fn any(&mut self, value: &Value) {
        self.bytes(2, value.to_string().as_bytes());
    }

    /// Extensions (`x-...`).
    pub(super) fn extensions(&mut self, field: u64, object: &Value) {
        for (key, value) in entries(object).filter(|(key, _)| key.starts_with("x-")) {
            self.named(field, key, |any| any.any(value));
        }
    }
}

/// The members of an object, none of anything else.
pub(super) fn entries(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

/// The items of a list in an object.
pub(super) fn list<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    object.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// A flag of an object.
pub(super) fn flag(object: &Value, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or(false)
}
