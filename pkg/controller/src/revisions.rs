//! ControllerRevisions: the past templates of DaemonSets and StatefulSets, for roll-outs and roll-backs.
//!
//! Behaviour after upstream's `pkg/controller/history`: a revision holds the template as a patch, equal templates are
//! one revision, and the newest revision number is the current one.

use std::sync::Arc;

use client::rest::{ResourceId, Rest, typed};
use client::{Store, is_already_exists, is_not_found};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::context::SyncError;
use crate::hash::template_hash;
use crate::owner::{controller_of, controller_reference};
use crate::resources::CONTROLLER_REVISIONS;

/// Label of revisions and of the pods made of them: the hash of the template.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// Names tried when the hash of a new revision is taken by another template.
const MAX_COLLISIONS: i32 = 16;

/// The revisions an object owns, oldest first.
pub(crate) fn owned(store: &Store<ControllerRevision>, owner: &ObjectMeta) -> Vec<Arc<ControllerRevision>> {
    let mut revisions = store.list_in(owner.namespace.as_deref().unwrap_or(""));
    revisions.retain(|revision| {
        controller_of(&revision.metadata).is_some_and(|held| Some(&held.uid) == owner.uid.as_ref())
    });
    revisions.sort_by_key(|revision| (revision.revision, revision.name_any()));
    revisions
}

/// The template as the patch that restores it.
fn patch(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The revision of the present template among those held.
pub(crate) fn current<'a>(
    held: &'a [Arc<ControllerRevision>],
    template: &PodTemplateSpec,
) -> Option<&'a Arc<ControllerRevision>> {
    let wanted = patch(template);
    held.iter().rev().find(|revision| revision.data.as_ref().is_some_and(|data| data.0 == wanted))
}

/// The template a revision holds.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Makes sure there is a revision of the present template and that it is the newest. `collisions` is the owner's
/// collision count, raised when a name was taken.
pub(crate) async fn ensure(
    rest: &Rest,
    owner: (&ResourceId, &ObjectMeta),
    template: &PodTemplateSpec,
    held: &[Arc<ControllerRevision>],
    collisions: &mut i32,
) -> Result<Arc<ControllerRevision>, SyncError> {
    let newest = held.last().map_or(0, |revision| revision.revision);
    if let Some(found) = current(held, template) {
        if found.revision == newest {
            return Ok(found.clone());
        }
        // the template of the past is current again
        let mut renewed = (**found).clone();
        renewed.revision = newest + 1;
        return Ok(Arc::new(typed(rest.update(&CONTROLLER_REVISIONS, "", &renewed).await?)?));
    }
    let (resource, meta) = owner;
    let namespace = meta.namespace.clone().unwrap_or_default();
    let data = patch(template);
    for _ in 0..MAX_COLLISIONS {
        let hash = template_hash(template, Some(*collisions));
        let name = format!("{}-{hash}", meta.name.as_deref().unwrap_or(""));
        let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(HASH_LABEL.into(), hash);
        let revision = json!({
            "metadata": {"name": name, "namespace": namespace, "labels": labels,
                "ownerReferences": [controller_reference(resource, meta)]},
            "data": data, "revision": newest + 1,
        });
        match rest.create(&CONTROLLER_REVISIONS, &namespace, &revision).await {
            Ok(made) => return Ok(Arc::new(typed(made)?)),
            Err(error) if is_already_exists(&error) => {
                let found: ControllerRevision =
                    typed(rest.get(&CONTROLLER_REVISIONS, &namespace, &name).await?)?;
                if found.data.as_ref().is_some_and(|held| held.0 == data) {
                    return Ok(Arc::new(found));
                }
                *collisions += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(SyncError::other("no free name for a new controller revision"))
}

/// The hash a revision's pods carry.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    revision.labels().get(HASH_LABEL).map_or("", String::as_str)
}

/// Deletes revisions beyond `limit` that no pod needs, oldest first.
pub(crate) async fn clean_up(
    rest: &Rest,
    held: &[Arc<ControllerRevision>],
    limit: Option<i32>,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Result<(), SyncError> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let spare: Vec<&Arc<ControllerRevision>> = held.iter().filter(|revision| !in_use(revision)).collect();
    let surplus = spare.len().saturating_sub(limit);
    for revision in spare.into_iter().take(surplus) {
        let namespace = revision.namespace().unwrap_or_default();
        match rest.delete(&CONTROLLER_REVISIONS, &namespace, &revision.name_any(), &json!({})).await {
            Err(error) if !is_not_found(&error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
