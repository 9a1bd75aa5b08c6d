//! OpenAPI 2.0 (Swagger): everything in one document.

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
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": component::KUBERNETES_VERSION},
        "paths": paths,
        "definitions": closure(Dialect::V2, schema, roots),
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

fn parameter(parameter: &Parameter) -> Value {
    let mut out = json!({
        "name": parameter.name, "in": parameter.place, "description": parameter.description, "type": parameter.kind,
        "uniqueItems": true,
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
            reference(Dialect::V2, name)
        }
    }
}

fn render(item: &PathItem, operation: &Operation, roots: &mut Vec<String>) -> Value {
    let mut responses = Map::new();
    for (code, text) in operation.codes {
        responses.insert(
            (*code).into(),
            json!({"description": text, "schema": content(&operation.answer, roots)}),
        );
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let mut parameters: Vec<Value> = Vec::new();
    if let Some((body, required)) = &operation.body {
        let mut out = json!({"name": "body", "in": "body", "schema": content(body, roots)});
        if *required {
            out["required"] = json!(true);
        }
        parameters.push(out);
    }
    parameters.extend(operation.parameters.iter().map(parameter));
    let mut out = json!({
        "tags": [item.tag], "description": operation.description, "operationId": operation.id, "schemes": ["https"],
        "consumes": operation.consumes, "produces": operation.produces, "responses": responses,
    });
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
