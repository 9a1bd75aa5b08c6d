//! Tables: what `kubectl get` prints, made on the server. Source: KEP-1164, `meta.k8s.io` Table.

use apimachinery::Value;
use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::json;
use watchcache::StoredObject;

use crate::context::RequestContext;
use crate::core::Target;
use crate::core::encode::{Encoder, partial_of};

/// `includeObject`: what goes along with the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

/// Makes rows of one request.
pub(crate) struct Rows<'a> {
    target: &'a Target,
    include: Include,
    now: Timestamp,
}

impl<'a> Rows<'a> {
    /// Of a request; 400 for an unknown `includeObject`.
    pub(crate) fn new(target: &'a Target, context: &RequestContext) -> Result<Self, Status> {
        let include = match context.query.get("includeObject").unwrap_or("") {
            "" | "Metadata" => Include::Metadata,
            "Object" => Include::Object,
            "None" => Include::None,
            other => {
                return Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}")));
            }
        };
        Ok(Self { target, include, now: Timestamp::now() })
    }

    /// The row of an object given in its stored and its served version.
    pub(crate) fn row(&self, stored: &Value, served: &Value) -> Value {
        let mut row = json!({ "cells": self.target.descriptor.strategy.table_row(stored, self.now) });
        match self.include {
            Include::None => {}
            Include::Metadata => row["object"] = partial_of(served, "v1"),
            Include::Object => row["object"] = served.clone(),
        }
        row
    }

    /// The row of a cached object.
    pub(crate) fn stored_row(&self, encoder: &Encoder<'_>, object: &StoredObject) -> Result<Value, Status> {
        let stored = object.to_value().map_err(|e| Status::internal(e.to_string()))?;
        if self.include == Include::Object {
            return Ok(self.row(&stored, &encoder.value(object)?));
        }
        Ok(self.row(&stored, &stored))
    }
}

/// A Table; later events of a watch go without headings.
pub(crate) fn table(
    target: &Target,
    version: &str,
    metadata: Value,
    rows: Vec<Value>,
    headings: bool,
) -> Value {
    let mut columns: Vec<Value> = Vec::new();
    if headings {
        columns = target
            .descriptor
            .columns
            .iter()
            .map(|c| {
                json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description,
                       "priority": c.priority})
            })
            .collect();
        if columns.is_empty() {
            // what the default strategy prints
            columns = vec![
                json!({"name": "Name", "type": "string", "format": "name", "description": "Name must be unique within a namespace.", "priority": 0}),
                json!({"name": "Age", "type": "string", "format": "", "description": "Time since creation.", "priority": 0}),
            ];
        }
    }
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
           "columnDefinitions": if headings { Value::from(columns) } else { Value::Null }, "rows": rows})
}
