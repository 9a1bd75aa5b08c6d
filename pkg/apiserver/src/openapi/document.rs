//! Documents of both versions, made part by part: no document is ever in memory as a tree.

use std::collections::BTreeSet;
use std::io::Write as _;

use apidocs::Descriptions;
use apimachinery::Value;
use apimachinery::schema::Schema;
use apimachinery::{Map, json};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::definitions::{Dialect, Writer, reachable, reference};
use super::gnostic;
use super::operations::{Content, Operation, PathItem};
use super::parameters::Parameter;

/// How a document is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    /// JSON.
    Json,
    /// The messages of gnostic.
    Protobuf,
}

/// Takes a document's parts: all paths, then all definitions.
trait Sink {
    fn path(&mut self, path: &str, item: &Value);
    fn definition(&mut self, name: &str, definition: &Value);
}

/// A document of these paths and of the definitions they refer to, compressed by gzip.
pub(super) fn compressed(
    dialect: Dialect,
    encoding: Encoding,
    schema: &Schema,
    items: &[PathItem],
) -> Vec<u8> {
    let head = head(dialect);
    match encoding {
        Encoding::Json => {
            let mut sink = Json::new(dialect, &head);
            write(dialect, schema, items, &mut sink);
            sink.finish(&head)
        }
        Encoding::Protobuf => {
            let mut sink = Protobuf { dialect, out: gnostic::Document::default() };
            write(dialect, schema, items, &mut sink);
            gzip(&sink.out.finish(dialect, &head))
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes all bytes")
}

/// What a document says besides paths and definitions.
fn head(dialect: Dialect) -> Map {
    let info = json!({"title": "Kubernetes", "version": component::KUBERNETES_VERSION});
    let token = json!({"BearerToken": {
        "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
    }});
    let head = match dialect {
        Dialect::V2 => json!({
            "swagger": "2.0", "info": info, "securityDefinitions": token, "security": [{"BearerToken": []}],
        }),
        Dialect::V3 => json!({"openapi": "3.0.0", "info": info, "securitySchemes": token}),
    };
    match head {
        Value::Object(head) => head,
        _ => Map::new(),
    }
}

fn write(dialect: Dialect, schema: &Schema, items: &[PathItem], sink: &mut dyn Sink) {
    let mut roots = BTreeSet::new();
    let mut render = Render { dialect, roots: &mut roots };
    for item in items {
        sink.path(&item.path, &render.item(item));
    }
    let texts = Descriptions::load();
    let writer = Writer { dialect, schema, texts: &texts };
    for (name, id) in reachable(schema, roots) {
        sink.definition(&name, &writer.definition(id, &name));
    }
}

/// JSON text, compressed as it is written.
struct Json {
    out: GzEncoder<Vec<u8>>,
    dialect: Dialect,
    in_definitions: bool,
    first: bool,
}

impl Json {
    fn new(dialect: Dialect, head: &Map) -> Self {
        let mut json = Self {
            out: GzEncoder::new(Vec::new(), Compression::default()),
            dialect,
            in_definitions: false,
            first: true,
        };
        json.text("{");
        // the schemes are part of the components in version 3
        for (key, value) in head.iter().filter(|(key, _)| *key != "securitySchemes") {
            json.member(key, value);
        }
        json.text(",\"paths\":{");
        json.first = true;
        json
    }

    fn text(&mut self, text: &str) {
        self.out.write_all(text.as_bytes()).expect("a vector takes all bytes");
    }

    fn member(&mut self, key: &str, value: &Value) {
        if !std::mem::take(&mut self.first) {
            self.text(",");
        }
        serde_json::to_writer(&mut self.out, key).expect("a text is JSON");
        self.text(":");
        serde_json::to_writer(&mut self.out, value).expect("a tree has text keys only");
    }

    fn begin_definitions(&mut self) {
        if !std::mem::replace(&mut self.in_definitions, true) {
            self.text(match self.dialect {
                Dialect::V2 => "},\"definitions\":{",
                Dialect::V3 => "},\"components\":{\"schemas\":{",
            });
            self.first = true;
        }
    }

    fn finish(mut self, head: &Map) -> Vec<u8> {
        self.begin_definitions();
        self.text("}");
        if let Some(schemes) = head.get("securitySchemes") {
            self.first = false;
            self.member("securitySchemes", schemes);
            self.text("}");
        }
        self.text("}");
        self.out.finish().expect("a vector takes all bytes")
    }
}

impl Sink for Json {
    fn path(&mut self, path: &str, item: &Value) {
        self.member(path, item);
    }

    fn definition(&mut self, name: &str, definition: &Value) {
        self.begin_definitions();
        self.member(name, definition);
    }
}

/// Protobuf messages.
struct Protobuf {
    dialect: Dialect,
    out: gnostic::Document,
}

impl Sink for Protobuf {
    fn path(&mut self, path: &str, item: &Value) {
        self.out.path(self.dialect, path, item);
    }

    fn definition(&mut self, name: &str, definition: &Value) {
        self.out.definition(self.dialect, name, definition);
    }
}

/// Renders paths, and notes which definitions they refer to.
struct Render<'a> {
    dialect: Dialect,
    roots: &'a mut BTreeSet<String>,
}

impl Render<'_> {
    fn item(&mut self, item: &PathItem) -> Value {
        let mut out = Map::new();
        if !item.parameters.is_empty() {
            out.insert("parameters".into(), item.parameters.iter().map(|p| self.parameter(p)).collect());
        }
        for operation in &item.operations {
            out.insert(operation.method.into(), self.operation(item, operation));
        }
        Value::Object(out)
    }

    fn parameter(&self, parameter: &Parameter) -> Value {
        let kind = json!({"type": parameter.kind, "uniqueItems": true});
        let mut out =
            json!({"name": parameter.name, "in": parameter.place, "description": parameter.description});
        match (self.dialect, out.as_object_mut(), kind) {
            (Dialect::V2, Some(out), Value::Object(kind)) => out.extend(kind),
            (_, Some(out), kind) => drop(out.insert("schema".into(), kind)),
            _ => {}
        }
        if parameter.required {
            out["required"] = json!(true);
        }
        out
    }

    fn content(&mut self, content: &Content) -> Value {
        match content {
            Content::Text => json!({"type": "string"}),
            Content::Definition(name) => {
                self.roots.insert(name.clone());
                reference(self.dialect, name)
            }
        }
    }

    /// The same content in each media type, as version 3 has it.
    fn by_media_type(&mut self, media_types: &[&str], content: &Content) -> Value {
        let schema = self.content(content);
        media_types
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": schema})))
            .collect::<Map>()
            .into()
    }

    fn response(&mut self, text: &str, operation: &Operation) -> Value {
        match self.dialect {
            Dialect::V2 => json!({"description": text, "schema": self.content(&operation.answer)}),
            Dialect::V3 => {
                let content = self.by_media_type(&operation.produces, &operation.answer);
                json!({"description": text, "content": content})
            }
        }
    }

    fn operation(&mut self, item: &PathItem, operation: &Operation) -> Value {
        let mut responses: Map = operation
            .codes
            .iter()
            .map(|(code, text)| ((*code).to_owned(), self.response(text, operation)))
            .collect();
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        let mut out = json!({
            "tags": [item.tag], "description": operation.description, "operationId": operation.id,
            "responses": responses,
        });
        let mut parameters: Vec<Value> = operation.parameters.iter().map(|p| self.parameter(p)).collect();
        let body = operation.body.as_ref().map(|(body, required)| {
            let mut out = match self.dialect {
                Dialect::V2 => json!({"name": "body", "in": "body", "schema": self.content(body)}),
                Dialect::V3 => json!({"content": self.by_media_type(&operation.consumes, body)}),
            };
            if *required {
                out["required"] = json!(true);
            }
            out
        });
        match self.dialect {
            Dialect::V2 => {
                parameters.splice(0..0, body);
                out["schemes"] = json!(["https"]);
                for (key, types) in [("consumes", &operation.consumes), ("produces", &operation.produces)] {
                    if !types.is_empty() {
                        out[key] = json!(types);
                    }
                }
            }
            Dialect::V3 => {
                if let Some(body) = body {
                    out["requestBody"] = body;
                }
            }
        }
        if !parameters.is_empty() {
            out["parameters"] = Value::from(parameters);
        }
        if let Some(action) = operation.action {
            out["x-kubernetes-action"] = json!(action);
        }
        if let Some(gvk) = &operation.gvk {
            out["x-kubernetes-group-version-kind"] =
                json!({"group": gvk.group, "kind": gvk.kind, "version": gvk.version});
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::nonresource;
    use super::*;

    fn text(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).expect("gzip");
        out
    }

    #[test]
    fn json_is_whole_with_and_without_definitions() {
        for dialect in [Dialect::V2, Dialect::V3] {
            for items in [Vec::new(), vec![nonresource::version()]] {
                let bytes = compressed(dialect, Encoding::Json, &apis::schema(), &items);
                let document: Value = serde_json::from_slice(&text(&bytes)).expect("JSON");
                let definitions = match dialect {
                    Dialect::V2 => &document["definitions"],
                    Dialect::V3 => &document["components"]["schemas"],
                };
                assert!(document["info"]["title"] == "Kubernetes" && document["paths"].is_object());
                let schemes = match dialect {
                    Dialect::V2 => &document["securityDefinitions"],
                    Dialect::V3 => &document["components"]["securitySchemes"],
                };
                assert!(schemes["BearerToken"].is_object());
                assert_eq!(definitions.as_object().map(Map::len), Some(items.len()), "{dialect:?}");
            }
        }
    }
}
