//! The v2 document as protobuf (`openapi.v2.Document` of gnostic): the only form in which client-go asks for it.
//!
//! Field numbers are those of `OpenAPIv2.proto`. Only what our documents hold is encoded.

use apimachinery::Value;

/// A protobuf message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    fn bool(&mut self, field: u64, value: bool) {
        if value {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    /// A string, where the object has it.
    fn text(&mut self, field: u64, object: &Value, key: &str) {
        if let Some(text) = object.get(key).and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    /// Strings, where the object has them.
    fn texts(&mut self, field: u64, object: &Value, key: &str) {
        for text in list(object, key).filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    /// `Named*`: a name and a message.
    fn named(&mut self, field: u64, name: &str, write: impl FnOnce(&mut Self)) {
        self.message(field, |entry| {
            entry.bytes(1, name.as_bytes());
            entry.message(2, write);
        });
    }

    /// `Any`: the value as YAML, which JSON is.
    fn any(&mut self, value: &Value) {
        self.bytes(2, value.to_string().as_bytes());
    }

    /// Extensions (`x-...`).
    fn extensions(&mut self, field: u64, object: &Value) {
        for (key, value) in entries(object).filter(|(key, _)| key.starts_with("x-")) {
            self.named(field, key, |any| any.any(value));
        }
    }
}

fn entries(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

fn list<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    object.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Encodes a v2 document.
pub(super) fn v2(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document, "swagger");
    if let Some(info) = document.get("info") {
        out.message(2, |m| {
            m.text(1, info, "title");
            m.text(2, info, "version");
        });
    }
    out.message(8, |paths| {
        for (path, item) in document.get("paths").map(entries).into_iter().flatten() {
            paths.named(2, path, |m| path_item(m, item));
        }
    });
    out.message(9, |definitions| {
        for (name, definition) in document.get("definitions").map(entries).into_iter().flatten() {
            definitions.named(1, name, |m| schema(m, definition));
        }
    });
    for requirement in list(document, "security") {
        out.message(12, |m| {
            for (name, _) in entries(requirement) {
                m.named(1, name, |_| {});
            }
        });
    }
    out.message(13, |m| {
        for (name, definition) in document.get("securityDefinitions").map(entries).into_iter().flatten() {
            m.named(1, name, |item| {
                item.message(2, |key| {
                    key.text(1, definition, "type");
                    key.text(2, definition, "name");
                    key.text(3, definition, "in");
                    key.text(4, definition, "description");
                });
            });
        }
    });
    out.0
}

fn path_item(m: &mut Message, item: &Value) {
    const METHODS: [(u64, &str); 7] =
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (field, method) in METHODS {
        if let Some(found) = item.get(method) {
            m.message(field, |m| operation(m, found));
        }
    }
    for one in list(item, "parameters") {
        m.message(9, |m| m.message(1, |m| parameter(m, one)));
    }
}

fn operation(m: &mut Message, operation: &Value) {
    m.texts(1, operation, "tags");
    m.text(3, operation, "description");
    m.text(5, operation, "operationId");
    m.texts(6, operation, "produces");
    m.texts(7, operation, "consumes");
    for one in list(operation, "parameters") {
        m.message(8, |m| m.message(1, |m| parameter(m, one)));
    }
    m.message(9, |m| {
        for (code, response) in operation.get("responses").map(entries).into_iter().flatten() {
            m.named(1, code, |m| {
                m.message(1, |m| {
                    m.text(1, response, "description");
                    if let Some(of) = response.get("schema") {
                        m.message(2, |m| m.message(1, |m| schema(m, of)));
                    }
                });
            });
        }
    });
    m.texts(10, operation, "schemes");
    m.extensions(13, operation);
}

fn parameter(m: &mut Message, parameter: &Value) {
    let required = parameter.get("required").and_then(Value::as_bool).unwrap_or(false);
    let unique = parameter.get("uniqueItems").and_then(Value::as_bool).unwrap_or(false);
    match parameter.get("in").and_then(Value::as_str) {
        Some("body") => m.message(1, |m| {
            m.text(1, parameter, "description");
            m.text(2, parameter, "name");
            m.text(3, parameter, "in");
            m.bool(4, required);
            if let Some(of) = parameter.get("schema") {
                m.message(5, |m| schema(m, of));
            }
        }),
        place => {
            // the path form lacks allowEmptyValue, which moves the numbers after it by one
            let (form, shift) = if place == Some("path") { (4, 0) } else { (3, 1) };
            m.message(2, |m| {
                m.message(form, |m| {
                    m.bool(1, required);
                    m.text(2, parameter, "in");
                    m.text(3, parameter, "description");
                    m.text(4, parameter, "name");
                    m.text(5 + shift, parameter, "type");
                    m.bool(19 + shift, unique);
                });
            });
        }
    }
}

fn schema(m: &mut Message, of: &Value) {
    m.text(1, of, "$ref");
    m.text(2, of, "format");
    m.text(4, of, "description");
    if let Some(default) = of.get("default") {
        m.message(5, |m| m.any(default));
    }
    m.texts(19, of, "required");
    for one in list(of, "enum") {
        m.message(20, |m| m.any(one));
    }
    if let Some(item) = of.get("additionalProperties") {
        m.message(21, |m| match item.as_bool() {
            Some(flag) => m.bool(2, flag),
            None => m.message(1, |m| schema(m, item)),
        });
    }
    if let Some(kind) = of.get("type").and_then(Value::as_str) {
        m.message(22, |m| m.bytes(1, kind.as_bytes()));
    }
    if let Some(item) = of.get("items") {
        m.message(23, |m| m.message(1, |m| schema(m, item)));
    }
    if let Some(properties) = of.get("properties") {
        m.message(25, |m| {
            for (name, property) in entries(properties) {
                m.named(1, name, |m| schema(m, property));
            }
        });
    }
    m.extensions(31, of);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_protobuf() {
        let bytes = v2(&json!({"swagger": "2.0", "info": {"title": "K", "version": "1"}}));
        let expected: &[u8] = &[
            0x0a, 3, b'2', b'.', b'0', // swagger
            0x12, 6, 0x0a, 1, b'K', 0x12, 1, b'1', // info
            0x42, 0, 0x4a, 0, 0x6a, 0, // paths, definitions, securityDefinitions
        ];
        assert_eq!(bytes, expected);
    }
}
