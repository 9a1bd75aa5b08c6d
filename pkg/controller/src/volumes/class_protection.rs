//! Protection of VolumeAttributesClasses: one that a claim or volume has, had or is to have is deleted only afterwards.
//!
//! Behaviour after upstream's `pkg/controller/storage/vacprotection` (KEP-3751).

use std::sync::Arc;

use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::ResourceExt;

use super::protection::{Change, decide};
use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::resources::ATTRIBUTES_CLASSES;

const FINALIZER: &str = "kubernetes.io/vac-protection";
const BY_CLASS: &str = "attributes-class";

/// Classes a claim has, had or is to have.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    let mut names: Vec<String> =
        [wanted, current, target].into_iter().flatten().filter(|n| !n.is_empty()).collect();
    names.sort();
    names.dedup();
    names
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let class = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    class.into_iter().filter(|name| !name.is_empty()).collect()
}

struct Controller {
    classes: Store<VolumeAttributesClass>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    rest: Rest,
}

/// Queues the classes an object no longer speaks for.
fn releases<K>(event: &Event<K>, classes: fn(&K) -> Vec<String>, queue: &WorkQueue<Key>) {
    let before = match event {
        Event::Added(_) => return,
        Event::Updated { old, .. } => classes(old),
        Event::Deleted(last) => classes(last),
    };
    for name in before {
        queue.add(Key::new("", name));
    }
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("vacprotection");
    let classes = context.informer::<VolumeAttributesClass>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let volumes = context.informer::<PersistentVolume>();
    claims.add_index(BY_CLASS, classes_of_claim);
    volumes.add_index(BY_CLASS, classes_of_volume);
    let adds = queue.clone();
    classes.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    let adds = queue.clone();
    claims.on_event(move |event| releases(&event, classes_of_claim, &adds));
    let adds = queue.clone();
    volumes.on_event(move |event| releases(&event, classes_of_volume, &adds));
    let controller = Controller {
        classes: classes.store(),
        claims: claims.store(),
        volumes: volumes.store(),
        rest: context.rest("volumeattributesclass-protection-controller"),
    };
    context.work("volumeattributesclass-protection-controller", &queue, 1, Arc::new(controller));
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(class) = self.classes.get("", &key.name) else { return Ok(Next::OnChange) };
        let in_use = || {
            !self.claims.by_index(BY_CLASS, &key.name).is_empty()
                || !self.volumes.by_index(BY_CLASS, &key.name).is_empty()
        };
        let mut changed = (*class).clone();
        match decide(&class.metadata, FINALIZER, in_use) {
            Change::None => return Ok(Next::OnChange),
            Change::Add => changed.finalizers_mut().push(FINALIZER.into()),
            Change::Remove => changed.finalizers_mut().retain(|held| held != FINALIZER),
        }
        match self.rest.update(&ATTRIBUTES_CLASSES, "", &changed).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Next::OnChange),
        }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_speaks_for_all_its_classes() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "c"}, "spec": {"volumeAttributesClassName": "new"},
            "status": {"currentVolumeAttributesClassName": "old",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "new"}}}))
        .expect("a claim");
        assert_eq!(classes_of_claim(&claim), ["new", "old"]);
        assert!(classes_of_claim(&PersistentVolumeClaim::default()).is_empty());
    }
}
