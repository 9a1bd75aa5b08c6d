//! Storage object in use protection: claims that pods use and volumes that claims use are deleted only afterwards.
//!
//! Behaviour after upstream's `pkg/controller/volume/pvcprotection` and `pvprotection`: a finalizer on every claim and
//! volume, taken away when the object is being deleted and nobody uses it.

use std::sync::Arc;

use client::rest::{ResourceId, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde::Serialize;

use super::claims_of;
use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::pods;
use crate::resources::{CLAIMS, VOLUMES};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// What to do about the finalizer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Add,
    Remove,
}

/// A protected object has the finalizer until it is being deleted and nobody uses it.
pub(super) fn decide(meta: &ObjectMeta, finalizer: &str, in_use: impl FnOnce() -> bool) -> Change {
    let held = meta.finalizers.iter().flatten().any(|name| name == finalizer);
    match (meta.deletion_timestamp.is_some(), held) {
        (true, true) if !in_use() => Change::Remove,
        (false, false) => Change::Add,
        _ => Change::None,
    }
}

/// Writes the object with the finalizer changed. These controllers' roles allow updates and no patches.
async fn apply<T>(
    rest: &Rest,
    resource: &ResourceId,
    object: &T,
    finalizer: &str,
    change: Change,
) -> Result<(), SyncError>
where
    T: Clone + Serialize + Metadata<Ty = ObjectMeta>,
{
    let mut changed = object.clone();
    let finalizers = changed.metadata_mut().finalizers.get_or_insert_default();
    match change {
        Change::None => return Ok(()),
        Change::Add => finalizers.push(finalizer.to_owned()),
        Change::Remove => finalizers.retain(|held| held != finalizer),
    }
    match rest.update(resource, "", &changed).await {
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

struct Claims {
    held: Store<PersistentVolumeClaim>,
    pods: Store<Pod>,
    rest: Rest,
}

/// Starts the claim protection controller.
pub(crate) fn start_claims(context: &Context) {
    let queue = WorkQueue::new("pvcprotection");
    let claims = context.informer::<PersistentVolumeClaim>();
    let pods = context.informer::<Pod>();
    let adds = queue.clone();
    claims.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    let adds = queue.clone();
    pods.on_event(move |event| {
        // a pod that ends or goes may have been the last user
        let ended = match &event {
            Event::Deleted(_) => true,
            Event::Updated { old, new } => !pods::is_finished(old) && pods::is_finished(new),
            Event::Added(_) => false,
        };
        if ended {
            let namespace = event.object().namespace().unwrap_or_default();
            for claim in claims_of(event.object()) {
                adds.add(Key::new(namespace.clone(), claim));
            }
        }
    });
    let controller =
        Claims { held: claims.store(), pods: pods.store(), rest: context.rest("pvc-protection-controller") };
    context.work("persistentvolumeclaim-protection-controller", &queue, 1, Arc::new(controller));
}

impl Claims {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(claim) = self.held.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let uses = |pod: &Pod| {
            !pods::is_finished(pod) && !pods::node_name(pod).is_empty() && claims_of(pod).contains(&key.name)
        };
        let in_use = || self.pods.list_in(&key.namespace).iter().any(|pod| uses(pod));
        let change = decide(&claim.metadata, CLAIM_FINALIZER, in_use);
        if change == Change::Remove {
            // a pod may have been placed a moment ago: the server's word counts
            let live = self.rest.list(&crate::resources::PODS, &key.namespace, None, None).await?;
            for pod in live {
                let pod: Pod = client::rest::typed(pod)?;
                if uses(&pod) {
                    return Ok(Next::OnChange);
                }
            }
        }
        apply(&self.rest, &CLAIMS, &*claim, CLAIM_FINALIZER, change).await?;
        Ok(Next::OnChange)
    }
}

impl Reconcile for Claims {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

struct Volumes {
    volumes: Store<PersistentVolume>,
    rest: Rest,
}

/// Starts the volume protection controller.
pub(crate) fn start_volumes(context: &Context) {
    let queue = WorkQueue::new("pvprotection");
    let volumes = context.informer::<PersistentVolume>();
    let adds = queue.clone();
    volumes.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    let controller = Volumes { volumes: volumes.store(), rest: context.rest("pv-protection-controller") };
    context.work("persistentvolume-protection-controller", &queue, 1, Arc::new(controller));
}

impl Volumes {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Next::OnChange) };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let change = decide(&volume.metadata, VOLUME_FINALIZER, || phase == Some("Bound"));
        apply(&self.rest, &VOLUMES, &*volume, VOLUME_FINALIZER, change).await?;
        Ok(Next::OnChange)
    }
}

impl Reconcile for Volumes {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{meta, time};

    #[test]
    fn finalizers_stay_while_in_use() {
        let with = |finalizer: bool, deleted: bool| ObjectMeta {
            finalizers: finalizer.then(|| vec![CLAIM_FINALIZER.to_owned()]),
            deletion_timestamp: deleted.then(|| time(0)),
            ..meta("c")
        };
        let cases = [
            (with(false, false), false, Change::Add),
            (with(true, false), false, Change::None),
            (with(true, true), true, Change::None),
            (with(true, true), false, Change::Remove),
            (with(false, true), false, Change::None),
        ];
        for (meta, in_use, expected) in cases {
            assert_eq!(decide(&meta, CLAIM_FINALIZER, || in_use), expected);
        }
    }
}
