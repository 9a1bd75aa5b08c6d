//! OpenAPI 3.0: one document for each group version (KEP-2896).

use apimachinery::Value;
use apimachinery::schema::Schema;
use serde_json::{Map, json};

use super::definitions::{Dialect, closure, reference};
use super::operations::{Content, Operation, PathItem};
use super::parameters::Parameter;

/// The document of these paths.
pub(super) fn document(schema: &Schema, items: &[PathItem]) -> Value {
    let mut roots = Vec::new();
    let mut paths = Map::new();
    for item in items {
        let mut out = Map::new();
        if !item.parameters.is_empty() {
            out.insert("parameters".into(), item.parameters.iter().map(parameter).collect());
        }
        for operation in &item.operations {
            out.insert(operation.method.into(), render(item, operation, &mut roots));
        }
        paths.insert(item.path.clone(), Value::Object(out));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": component::KUBERNETES_VERSION},
        "paths": paths,
        "components": {
            "schemas": closure(Dialect::V3, schema, roots),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header",
            }},
        },
    })
}

fn parameter(parameter: &Parameter) -> Value {
    let mut out = json!({
        "name": parameter.name, "in": parameter.place, "description": parameter.description,
        "schema": {"type": parameter.kind, "uniqueItems": true},
    });
    if parameter.required {
        out["required"] = json!(true);
    }
    out
}

fn content(content: &Content, roots: &mut Vec<String>) -> Value {
    match content {
        Content::Text => json!({"type": "string"}),
        Content::Definition(name) => {
            roots.push(name.clone());
            reference(Dialect::V3, name)
        }
    }
}

fn render(item: &PathItem, operation: &Operation, roots: &mut Vec<String>) -> Value {
    let mut responses = Map::new();
    for (code, text) in operation.codes {
        let types: Map<String, Value> = operation
            .produces
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": content(&operation.answer, roots)})))
            .collect();
        responses.insert((*code).into(), json!({"description": text, "content": types}));
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let mut out = json!({
        "tags": [item.tag], "description": operation.description, "operationId": operation.id, "responses": responses,
    });
    if !operation.parameters.is_empty() {
        out["parameters"] = operation.parameters.iter().map(parameter).collect();
    }
    if let Some((body, required)) = &operation.body {
        let types: Map<String, Value> = operation
            .consumes
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": content(body, roots)})))
            .collect();
        out["requestBody"] = json!({"content": types});
        if *required {
            out["requestBody"]["required"] = json!(true);
        }
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
