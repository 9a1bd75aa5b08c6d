//! Parameters of operations: which there are, and which operation takes which.

use apimachinery::meta::GroupVersionKind;
use apimachinery::schema::{NodeKind, Scalar};

/// A parameter besides the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) place: &'static str,
    pub(super) kind: &'static str,
    pub(super) description: String,
    pub(super) required: bool,
}

/// A parameter in a place: `query` or `path`.
pub(super) fn parameter(place: &'static str, name: &str, kind: &'static str, description: &str) -> Parameter {
    Parameter {
        name: name.to_owned(),
        place,
        kind,
        description: description.to_owned(),
        required: place == "path",
    }
}

/// A query parameter that several operations take.
pub(super) fn query(name: &'static str) -> Parameter {
    let (kind, description) = match name {
        "allowWatchBookmarks" => ("boolean", "Send BOOKMARK events in a watch."),
        "continue" => ("string", "Token of the page before, to go on with the next one."),
        "dryRun" => ("string", "All: go through every stage of the request, but keep nothing."),
        "fieldManager" => ("string", "Name of who makes the change, for managed fields."),
        "fieldSelector" => ("string", "Only objects whose fields match."),
        "fieldValidation" => {
            ("string", "Ignore, Warn or Strict: what to do about unknown and repeated fields.")
        }
        "force" => ("boolean", "Take over fields that others own; for apply only."),
        "gracePeriodSeconds" => ("integer", "Seconds the object is given to end by itself."),
        "ignoreStoreReadErrorWithClusterBreakingPotential" => {
            ("boolean", "Delete what cannot be read; refused by this server.")
        }
        "shardSelector" => ("string", "A part of the objects only; refused by this server."),
        "labelSelector" => ("string", "Only objects whose labels match."),
        "limit" => ("integer", "Most objects in one answer."),
        "orphanDependents" => ("boolean", "Leave dependents alone; propagationPolicy says it better."),
        "propagationPolicy" => ("string", "Orphan, Background or Foreground: what becomes of dependents."),
        "resourceVersion" => ("string", "The version to read at or watch from."),
        "resourceVersionMatch" => ("string", "Exact or NotOlderThan: how resourceVersion is meant."),
        "sendInitialEvents" => ("boolean", "Begin a watch with the objects there are."),
        "timeoutSeconds" => ("integer", "Longest the call may last, in seconds."),
        "watch" => ("boolean", "Send changes as they happen instead of a list."),
        "pretty" => ("string", "Indent the answer."),
        _ => ("string", ""),
    };
    parameter("query", name, kind, description)
}

/// Several query parameters.
pub(super) fn queries(names: &[&'static str]) -> Vec<Parameter> {
    names.iter().map(|n| query(n)).collect()
}

/// Of lists and watches.
pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
    "watch",
];
/// Of deletes of collections.
pub(super) const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
];
/// Of deletes.
pub(super) const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
/// Of creates and updates.
pub(super) const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
/// Of patches.
pub(super) const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];

/// What the options of a connection or log may say, as parameters. Upstream's documents leave out the one time among
/// them, `sinceTime`.
pub(super) fn of_options(kind: &GroupVersionKind) -> Vec<Parameter> {
    let catalog = apis::catalog();
    let Some(definition) = catalog.kind(kind) else { return Vec::new() };
    let schema = catalog.schema();
    let NodeKind::Object(object) = &schema.node(definition.node).kind else { return Vec::new() };
    let fields =
        object.fields.iter().filter(|(name, _)| !matches!(*name, "apiVersion" | "kind" | "sinceTime"));
    fields
        .map(|(name, field)| {
            let item = match &schema.node(field.node).kind {
                NodeKind::List(list) => list.item,
                _ => field.node,
            };
            let kind = match &schema.node(item).kind {
                NodeKind::Scalar(Scalar::Bool) => "boolean",
                NodeKind::Scalar(Scalar::Int32 | Scalar::Int64) => "integer",
                _ => "string",
            };
            parameter("query", name, kind, "")
        })
        .collect()
}
