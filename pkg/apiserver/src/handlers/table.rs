//! Tables: what `kubectl get` prints, made on the server. Source: KEP-1164, `meta.k8s.io` Table.

use apimachinery::Value;
use apimachinery::json;
use apimachinery::status::Status;
use jiff::Timestamp;
use watchcache::StoredObject;

use crate::context::RequestContext;
use crate::core::Target;
use crate::core::encode::{Encoder, partial_of, write_partial};

/// `includeObject`: what goes along with the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

/// Makes rows of one request.
pub(crate) struct Rows {
    target: Target,
    include: Include,
    now: Timestamp,
}

impl Rows {
    /// Of a request; 400 for an unknown `includeObject`.
    pub(crate) fn new(target: &Target, context: &RequestContext) -> Result<Self, Status> {
        let include = match context.query.get("includeObject").unwrap_or("") {
            "" | "Metadata" => Include::Metadata,
            "Object" => Include::Object,
            "None" => Include::None,
            other => {
                return Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}")));
            }
        };
        Ok(Self { target: target.clone(), include, now: Timestamp::now() })
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

    /// Appends the row of a cached object as JSON. Only what cells are made of is decoded.
    pub(crate) fn write(
        &self,
        encoder: &Encoder<'_>,
        object: &StoredObject,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        let strategy = &self.target.descriptor.strategy;
        let stored = encoder.table_part(object)?;
        out.extend_from_slice(br#"{"cells":"#);
        append(&strategy.table_row(&stored, self.now), out);
        match self.include {
            Include::None => {}
            Include::Metadata => {
                out.extend_from_slice(br#","object":"#);
                write_partial(object, "v1", out);
            }
            Include::Object => {
                out.extend_from_slice(br#","object":"#);
                encoder.write_json(object, out)?;
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Appends a tree as JSON.
fn append(value: &impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a tree has text keys only, which is all that can fail");
}

/// A Table; later events of a watch go without headings.
pub(crate) fn table(
    target: &Target,
    version: &str,
    metadata: Value,
    rows: Vec<Value>,
    headings: bool,
) -> Value {
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
           "columnDefinitions": columns(target, headings), "rows": rows})
}

/// The JSON of a Table up to its rows, which are to be followed by `]}`.
pub(crate) fn head(target: &Target, version: &str, metadata: &Value, headings: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    out.extend_from_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/"#);
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(br#"","metadata":"#);
    append(metadata, &mut out);
    out.extend_from_slice(br#","columnDefinitions":"#);
    append(&columns(target, headings), &mut out);
    out.extend_from_slice(br#","rows":["#);
    out
}

fn columns(target: &Target, headings: bool) -> Value {
    if !headings {
        return Value::Null;
    }
    let columns: Vec<Value> = target
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
        return json!([
            {"name": "Name", "type": "string", "format": "name", "description": "Name must be unique within a namespace.", "priority": 0},
            {"name": "Age", "type": "string", "format": "", "description": "Time since creation.", "priority": 0},
        ]);
    }
    columns.into()
}
