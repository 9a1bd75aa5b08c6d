//! `openapi.v3`.

use apimachinery::Map;
use apimachinery::Value;

use super::message::{Message, entries, flag, list};

/// A path in `Paths`.
pub(super) const PATH: u64 = 1;

pub(super) fn document(out: &mut Message, head: &Map, paths: &Message, definitions: &Message) {
    if let Some(openapi) = head.get("openapi").and_then(Value::as_str) {
        out.bytes(1, openapi.as_bytes());
    }
    if let Some(info) = head.get("info") {
        out.message(2, |m| {
            m.text(1, info, "title");
            m.text(6, info, "version");
        });
    }
    out.embed(4, paths);
    out.message(5, |components| {
        components.embed(1, definitions);
        components.message(7, |m| {
            for (name, scheme) in head.get("securitySchemes").into_iter().flat_map(entries) {
                m.named(1, name, |m| {
                    m.message(1, |m| {
                        m.text(1, scheme, "type");
                        m.text(2, scheme, "description");
                        m.text(3, scheme, "name");
                        m.text(4, scheme, "in");
                    });
                });
            }
        });
    });
}

pub(super) fn path_item(m: &mut Message, item: &Value) {
    const METHODS: [(u64, &str); 7] =
        [(4, "get"), (5, "put"), (6, "post"), (7, "delete"), (8, "options"), (9, "head"), (10, "patch")];
    for (field, method) in METHODS {
        if let Some(found) = item.get(method) {
            m.message(field, |m| operation(m, found));
        }
    }
    for one in list(item, "parameters") {
        m.message(13, |m| m.message(1, |m| parameter(m, one)));
    }
}

fn operation(m: &mut Message, operation: &Value) {
    m.texts(1, operation, "tags");
    m.text(3, operation, "description");
    m.text(5, operation, "operationId");
    for one in list(operation, "parameters") {
        m.message(6, |m| m.message(1, |m| parameter(m, one)));
    }
    if let Some(body) = operation.get("requestBody") {
        m.message(7, |m| {
            m.message(1, |m| {
                content(m, 2, body);
                m.bool(3, flag(body, "required"));
            });
        });
    }
    m.message(8, |m| {
        for (code, response) in operation.get("responses").into_iter().flat_map(entries) {
            m.named(2, code, |m| {
                m.message(1, |m| {
                    m.text(1, response, "description");
                    content(m, 3, response);
                });
            });
        }
    });
    m.extensions(13, operation);
}

/// `MediaTypes`, where the object has `content`.
fn content(m: &mut Message, field: u64, of: &Value) {
    let Some(content) = of.get("content") else { return };
    m.message(field, |m| {
        for (media, of) in entries(content) {
            m.named(1, media, |m| {
                if let Some(schema) = of.get("schema") {
                    m.message(1, |m| schema_or_reference(m, schema));
                }
            });
        }
    });
}

fn parameter(m: &mut Message, parameter: &Value) {
    m.text(1, parameter, "name");
    m.text(2, parameter, "in");
    m.text(3, parameter, "description");
    m.bool(4, flag(parameter, "required"));
    if let Some(schema) = parameter.get("schema") {
        m.message(10, |m| schema_or_reference(m, schema));
    }
}

/// `SchemaOrReference`.
pub(super) fn schema_or_reference(m: &mut Message, of: &Value) {
    if of.get("$ref").is_some() {
        m.message(2, |m| m.text(1, of, "$ref"));
    } else {
        m.message(1, |m| schema(m, of));
    }
}

fn schema(m: &mut Message, of: &Value) {
    m.bool(20, flag(of, "uniqueItems"));
    m.texts(23, of, "required");
    for one in list(of, "enum") {
        m.message(24, |m| m.any(one));
    }
    m.text(25, of, "type");
    for (field, word) in [(26, "allOf"), (27, "oneOf"), (28, "anyOf")] {
        for one in list(of, word) {
            m.message(field, |m| schema_or_reference(m, one));
        }
    }
    if let Some(item) = of.get("items") {
        m.message(30, |m| m.message(1, |m| schema_or_reference(m, item)));
    }
    if let Some(properties) = of.get("properties") {
        m.message(31, |m| {
            for (name, property) in entries(properties) {
                m.named(1, name, |m| schema_or_reference(m, property));
            }
        });
    }
    if let Some(item) = of.get("additionalProperties") {
        m.message(32, |m| match item.as_bool() {
            Some(flag) => m.choice(2, flag),
            None => m.message(1, |m| schema_or_reference(m, item)),
        });
    }
    if let Some(default) = of.get("default") {
        // the form knows scalars only; of others it says that there is one
        m.message(33, |m| match default {
            Value::Number(number) => m.double(1, number.as_f64().unwrap_or_default()),
            Value::Bool(flag) => m.choice(2, *flag),
            Value::String(text) => m.bytes(3, text.as_bytes()),
            _ => {}
        });
    }
    m.text(34, of, "description");
    m.text(35, of, "format");
    m.extensions(36, of);
}
