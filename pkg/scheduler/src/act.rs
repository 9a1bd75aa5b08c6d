//! What is written to the API: bindings, conditions, nominations, evictions.

use std::sync::Arc;

use client::rest::{Patch, ResourceId, Rest};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::pod::PodInfo;
use crate::volumes::Plan;

const PODS: ResourceId = ResourceId::namespaced("", "v1", "pods", "Pod");

const VOLUMES: ResourceId = ResourceId::cluster("", "v1", "persistentvolumes", "PersistentVolume");
const CLAIMS: ResourceId =
    ResourceId::namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");

/// What is said of the node a pod is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise<'a> {
    /// Nothing new.
    Keep,
    /// This one.
    Node(&'a str),
    /// None any more.
    Withdraw,
}

/// Writes of the scheduler.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    rest: Arc<Rest>,
}

impl Writer {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { rest: Arc::new(Rest::new(client, "kube-scheduler")) }
    }

    /// Binds a pod to a node.
    pub(crate) async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.rest.create_subresource(&PODS, &pod.namespace, &pod.name, "binding", &binding).await.map(drop)
    }

    /// Reserves volumes for claims, and tells provisioners the node.
    pub(crate) async fn bind_volumes(&self, plan: &Plan) -> Result<(), kube::Error> {
        for (_, volume) in &plan.bind {
            self.rest.update(&VOLUMES, "", volume.as_ref()).await?;
        }
        for claim in &plan.provision {
            self.rest.update(&CLAIMS, "", claim.as_ref()).await?;
        }
        Ok(())
    }

    /// Says in the pod's status why it is not scheduled, and where it would be after its victims are gone.
    pub(crate) async fn report(
        &self,
        pod: &PodInfo,
        reason: &str,
        message: &str,
        promise: Promise<'_>,
    ) -> Result<(), kube::Error> {
        if !must_report(&pod.pod, reason, message, promise) {
            return Ok(());
        }
        let unchanged = condition(&pod.pod).filter(|c| c.status == "False");
        let since = unchanged
            .and_then(|c| c.last_transition_time.as_ref().map(|t| t.0))
            .unwrap_or_else(jiff::Timestamp::now);
        let mut status = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": seconds(since),
            "observedGeneration": pod.pod.metadata.generation,
        }]});
        match promise {
            Promise::Keep => {}
            Promise::Node(node) => status["nominatedNodeName"] = json!(node),
            Promise::Withdraw => status["nominatedNodeName"] = json!(null),
        }
        self.patch_status(pod, &status).await
    }

    /// Takes back the promise of a node.
    pub(crate) async fn withdraw(&self, pod: &PodInfo) -> Result<(), kube::Error> {
        self.patch_status(pod, &json!({"nominatedNodeName": null})).await
    }

    async fn patch_status(&self, pod: &PodInfo, status: &serde_json::Value) -> Result<(), kube::Error> {
        let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
        self.rest
            .patch(&PODS, (&pod.namespace, &pod.name), "status", Patch::Strategic, &patch)
            .await
            .map(drop)
    }

    /// Evicts a victim: says why in its status, then deletes it with its own grace period.
    pub(crate) async fn evict(&self, victim: &PodInfo, by: &PodInfo) -> Result<(), kube::Error> {
        let message = format!("{}: preempting to accommodate a higher priority pod", by.scheduler_name());
        let now = seconds(jiff::Timestamp::now());
        let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
            "lastProbeTime": null, "lastTransitionTime": now,
        }]}});
        self.rest.patch(&PODS, (&victim.namespace, &victim.name), "status", Patch::Strategic, &patch).await?;
        let options =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": victim.uid}});
        self.rest.delete(&PODS, &victim.namespace, &victim.name, &options).await.map(drop)
    }
}

/// RFC 3339 in whole seconds, as `metav1.Time` is written.
fn seconds(time: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn condition(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "PodScheduled")
}

/// The status says it already: another write would only wake every watcher.
fn must_report(pod: &Pod, reason: &str, message: &str, promise: Promise<'_>) -> bool {
    let same = condition(pod).is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    });
    let current =
        pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).filter(|n| !n.is_empty());
    let moves = match promise {
        Promise::Keep => false,
        Promise::Node(node) => current != Some(node),
        Promise::Withdraw => current.is_some(),
    };
    !same || moves
}
