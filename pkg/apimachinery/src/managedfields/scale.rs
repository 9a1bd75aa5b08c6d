//! Ownership of `replicas` seen through `/scale`: entries of the resource become entries of the Scale before it is
//! written, and go back afterwards.
//!
//! Behaviour: `managedfields/scalehandler.go`.

use super::entries::{self, Managers, Operation, Owned};
use super::fieldpath::{PathElement, Set};
use crate::Value;

/// Version of the Scale kind.
const SCALE: &str = "autoscaling/v1";

/// Where a resource keeps its replicas.
#[derive(Debug, Clone)]
pub struct ReplicasPath {
    /// A version of the resource, such as `apps/v1`.
    pub api_version: String,
    /// The field in it, such as `["spec", "replicas"]`; empty for a version without scale.
    pub path: Vec<String>,
}

fn path_at(paths: &[ReplicasPath], api_version: &str) -> Option<Vec<PathElement>> {
    let found = paths.iter().find(|path| path.api_version == api_version)?;
    Some(found.path.iter().map(|name| PathElement::field(name)).collect())
}

fn scale_path() -> Vec<PathElement> {
    vec![PathElement::field("spec"), PathElement::field("replicas")]
}

fn set_of(path: &[PathElement]) -> Set {
    let mut set = Set::new();
    set.insert(path);
    set
}

/// Managed fields of the Scale, from those of its resource: who owns the replicas.
pub fn to_scale(resource: Option<&Value>, paths: &[ReplicasPath]) -> Option<Value> {
    let managers = entries::decode(resource).ok()?;
    let scale: Managers<'_> = managers
        .into_iter()
        .filter(|(_, owned)| {
            path_at(paths, &owned.api_version).is_some_and(|path| owned.fields.covers(&set_of(&path)))
        })
        .map(|(mut id, owned)| {
            if id.operation == Operation::Update {
                SCALE.clone_into(&mut id.api_version);
            }
            (id, Owned::new(set_of(&scale_path()), SCALE, owned.time))
        })
        .collect();
    entries::encode(scale)
}

/// Managed fields of the resource after its Scale was written: who no longer owns the Scale's replicas loses the
/// resource's, who does now gets them at `api_version`.
pub fn to_resource(
    resource: Option<&Value>,
    scale: Option<&Value>,
    api_version: &str,
    paths: &[ReplicasPath],
) -> Option<Value> {
    let mut result = Managers::new();
    let mut scale = entries::decode(scale).unwrap_or_default();
    for (id, mut owned) in entries::decode(resource).unwrap_or_default() {
        let Some(path) = path_at(paths, &owned.api_version) else { continue };
        if owned.fields.covers(&set_of(&path)) {
            let mut in_scale = id.clone();
            if id.operation == Operation::Update {
                SCALE.clone_into(&mut in_scale.api_version);
            }
            if scale.remove(&in_scale).is_none() {
                owned.fields.subtract(&set_of(&path));
                if owned.fields.is_empty() {
                    continue;
                }
            }
        }
        result.insert(id, owned);
    }
    let Some(path) = path_at(paths, api_version) else { return entries::encode(result) };
    for (mut id, owned) in scale {
        if !owned.fields.covers(&set_of(&scale_path())) {
            continue;
        }
        if id.operation == Operation::Update {
            api_version.clone_into(&mut id.api_version);
        }
        result.insert(id, Owned::new(set_of(&path), api_version, owned.time));
    }
    entries::encode(result)
}
