//! `openapi.v2`.

use apimachinery::Map;
use apimachinery::Value;

use super::message::{Message, entries, flag, list};

/// A path in `Paths`.
pub(super) const PATH: u64 = 2;

pub(super) fn document(out: &mut Message, head: &Map, paths: &Message, definitions: &Message) {
    if let Some(swagger) = head.get("swagger").and_then(Value::as_str) {
        out.bytes(1, swagger.as_bytes());
    }
    if let Some(info) = head.get("info") {
        out.message(2, |m| {
            m.text(1, info, "title");
            m.text(2, info, "version");
        });
    }
    out.embed(8, paths);
    out.embed(9, definitions);
    for requirement in head.get("security").and_then(Value::as_array).into_iter().flatten() {
        out.message(12, |m| {
            for (name, _) in entries(requirement) {
                m.named(1, name, |_| {});
            }
        });
    }
    out.message(13, |m| {
        for (name, definition) in head.get("securityDefinitions").into_iter().flat_map(entries) {
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
}

pub(super) fn path_item(m: &mut Message, item: &Value) {
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
        for (code, response) in operation.get("responses").into_iter().flat_map(entries) {
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
    let required = flag(parameter, "required");
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
                    m.bool(19 + shift, flag(parameter, "uniqueItems"));
                });
            });
        }
    }
}

pub(super) fn schema(m: &mut Message, of: &Value) {
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
            Some(flag) => m.choice(2, flag),
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
