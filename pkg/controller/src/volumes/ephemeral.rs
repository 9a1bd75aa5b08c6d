//! The ephemeral volume controller: makes the claims that pods' generic ephemeral volumes describe (KEP-1698).

use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Store, is_already_exists, is_namespace_terminating};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::ephemeral_claim;
use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::owner::{controller_of, controller_reference};
use crate::pods;
use crate::resources::{CLAIMS, PODS};

struct Controller {
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("ephemeral_volume");
    let pods = context.informer::<Pod>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let adds = queue.clone();
    pods.on_event(move |event| {
        let pod = event.object();
        let has_any = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| v.ephemeral.is_some());
        if has_any && matches!(event, Event::Added(_) | Event::Updated { .. }) && !pods::is_terminating(pod) {
            adds.add(Key::of(&**pod));
        }
    });
    let adds = queue.clone();
    claims.on_event(move |event| {
        if let Event::Deleted(claim) = &event
            && let Some(owner) = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod")
        {
            adds.add(Key::new(claim.namespace().unwrap_or_default(), owner.name.clone()));
        }
    });
    let controller = Controller {
        pods: pods.store(),
        claims: claims.store(),
        rest: context.rest("ephemeral-volume-controller"),
        recorder: context.recorder("ephemeral_volume"),
    };
    let workers = context.config.concurrency.ephemeral_volume;
    context.work("ephemeral-volume-controller", &queue, workers, Arc::new(controller));
}

/// The claims a pod still lacks; an error names a claim of that name that is not the pod's.
fn missing(
    pod: &Pod,
    held: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
) -> Result<Vec<Value>, String> {
    let mut wanted = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(template) = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref()) else {
            continue;
        };
        let name = ephemeral_claim(pod, &volume.name);
        if let Some(claim) = held(&name) {
            let ours =
                controller_of(&claim.metadata).is_some_and(|o| Some(&o.uid) == pod.metadata.uid.as_ref());
            if !ours {
                return Err(format!("PVC {:?} was not created for pod {:?}", name, pod.name_any()));
            }
            continue;
        }
        let meta = template.metadata.clone().unwrap_or_default();
        wanted.push(json!({
            "metadata": {
                "name": name,
                "namespace": pod.metadata.namespace,
                "labels": meta.labels,
                "annotations": meta.annotations,
                "ownerReferences": [controller_reference(&PODS, &pod.metadata)],
            },
            "spec": template.spec,
        }));
    }
    Ok(wanted)
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        if pods::is_terminating(&pod) {
            return Ok(Next::OnChange);
        }
        let claims = missing(&pod, |name| self.claims.get(&key.namespace, name)).map_err(SyncError::other)?;
        for claim in claims {
            match self.rest.create(&CLAIMS, &key.namespace, &claim).await {
                Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => {}
                Err(error) => {
                    let error = SyncError::from(error);
                    let note = format!("ephemeral volume controller failed to create PVC: {error}");
                    self.recorder.event(
                        &reference(&*pod),
                        EventType::Warning,
                        "EphemeralVolumeCreateFailed",
                        "",
                        note,
                    );
                    return Err(error);
                }
                Ok(_) => {}
            }
        }
        Ok(Next::OnChange)
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

    #[test]
    fn claims_are_made_once_and_never_taken_from_others() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "1"}, "spec": {
            "containers": [], "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}, {"name": "x", "emptyDir": {}}]}}))
        .expect("a pod");
        let made = missing(&pod, |_| None).expect("no conflict");
        assert_eq!(made[0]["metadata"]["name"], "p-scratch");
        let own: PersistentVolumeClaim = serde_json::from_value(made[0].clone()).expect("a claim");
        let own = Arc::new(own);
        assert_eq!(missing(&pod, |_| Some(own.clone())), Ok(vec![]));
        assert!(missing(&pod, |_| Some(Arc::default())).is_err());
    }
}
