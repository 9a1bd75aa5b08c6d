//! The way from client-side to server-side apply: what `kubectl apply` wrote down in an annotation is no conflict to
//! `kubectl apply --server-side`, which keeps the annotation up to date for the way back.
//!
//! Behaviour: `lastappliedmanager.go` and `lastappliedupdater.go` of managedfields.

use std::collections::BTreeMap;

use super::entries::ManagerId;
use super::fieldpath::{Set, json_escape};
use super::manager::Write;
use super::typed::{Type, Typed};
use crate::Value;
use crate::meta::{at, str_at};

/// The only manager that is upgraded; everybody else opts out by another name.
pub(super) const UPGRADING_MANAGER: &str = "kubectl";
/// Where client-side apply keeps the configuration last applied.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most bytes all annotations may have.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The conflicts left when fields that the last client-side apply set, and that are still as it set them, are none.
/// All are left when there is no usable annotation.
pub(super) fn conflicts_left(
    write: &Write<'_>,
    live: &Value,
    conflicts: BTreeMap<ManagerId, Set>,
) -> BTreeMap<ManagerId, Set> {
    let Some(allowed) = still_as_applied(write, live) else { return conflicts };
    conflicts
        .into_iter()
        .map(|(id, set)| (id, set.difference(&allowed)))
        .filter(|(_, set)| !set.is_empty())
        .collect()
}

fn still_as_applied(write: &Write<'_>, live: &Value) -> Option<Set> {
    let text = at(live, &["metadata", "annotations", ANNOTATION])?.as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    if str_at(&applied, &["apiVersion"]) != write.api_version {
        return None;
    }
    let (typed, root) = (Typed::new(write.schema), Type::Node(write.root));
    typed.validate(root, &applied).ok()?;
    let diff = typed.compare(root, &applied, live);
    let set = typed.field_set(root, &applied);
    Some(set.difference(&diff.modified).difference(&diff.added).difference(&diff.removed))
}

/// Brings the annotation up to date with what was applied, if the object has it; drops it when there is no room.
pub(super) fn refresh(object: &mut Value, applied: &Value) {
    let Some(annotations) =
        object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut).filter(|annotations| {
            annotations.get(ANNOTATION).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
        })
    else {
        return;
    };
    annotations.insert(ANNOTATION.into(), Value::from(encode(applied)));
    let size: usize =
        annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}

/// The configuration without the annotation itself, in the bytes Go's encoder makes of it.
fn encode(applied: &Value) -> String {
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    format!("{}\n", json_escape(&applied.to_string()))
}
