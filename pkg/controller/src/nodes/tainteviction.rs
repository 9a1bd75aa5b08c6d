//! The taint eviction controller: pods leave nodes whose NoExecute taints they do not tolerate, or no longer.
//!
//! Behaviour after upstream's `pkg/controller/tainteviction`. There are no timers to lose: each pod's time to leave is
//! computed anew from its tolerations and the taints' times.

use std::sync::Arc;
use std::time::Duration;

use client::events::{EventRecorder, EventType, reference};
use client::rest::{Patch, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::lifecycle::{RETRY, index_by_node, pods_on};
use super::taints::{evict_at, taints};
use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::pods;
use crate::resources::PODS;

struct Controller {
    nodes: Store<Node>,
    pods: Store<Pod>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("noexec_taint_pod");
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    index_by_node(&pods);
    let adds = queue.clone();
    pods.on_event(move |event| {
        let is_new = match &event {
            Event::Added(_) => true,
            Event::Updated { old, new } => {
                let facts =
                    |pod: &Pod| pod.spec.as_ref().map(|s| (s.node_name.clone(), s.tolerations.clone()));
                facts(old) != facts(new)
            }
            Event::Deleted(_) => false,
        };
        if is_new && !pods::node_name(event.object()).is_empty() {
            adds.add(Key::of(&**event.object()));
        }
    });
    let (adds, on_node) = (queue.clone(), pods.store());
    nodes.on_event(move |event| {
        let changed = match &event {
            Event::Added(node) => !taints(node).is_empty(),
            Event::Updated { old, new } => taints(old) != taints(new),
            Event::Deleted(_) => false,
        };
        if changed {
            for pod in pods_on(&on_node, &event.object().name_any()) {
                adds.add(Key::of(&*pod));
            }
        }
    });
    let controller = Controller {
        nodes: nodes.store(),
        pods: pods.store(),
        rest: context.rest("node-controller"),
        recorder: context.recorder("taint-eviction-controller"),
    };
    context.work("taint-eviction-controller", &queue, 8, Arc::new(controller));
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let Some(node) = self.nodes.get("", pods::node_name(&pod)) else { return Ok(Next::OnChange) };
        if pods::is_terminating(&pod) || pods::is_finished(&pod) {
            return Ok(Next::OnChange);
        }
        let now = Timestamp::now();
        let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or(&[]);
        let Some(due) = evict_at(taints(&node), tolerations, created, now) else { return Ok(Next::OnChange) };
        let wait = due.duration_since(now);
        if wait > SignedDuration::ZERO {
            return Ok(Next::After(Duration::try_from(wait).unwrap_or(RETRY)));
        }
        self.evict(&pod, key, now).await
    }

    async fn evict(&self, pod: &Pod, key: &Key, now: Timestamp) -> SyncResult {
        let note = format!("Marking for deletion Pod {key}");
        self.recorder.event(&reference(pod), EventType::Normal, "TaintManagerEviction", "", note);
        let at = (key.namespace.as_str(), key.name.as_str());
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now)}]}});
        match self.rest.patch(&PODS, at, "status", Patch::Strategic, &patch).await {
            Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
            done => done?,
        };
        let options = json!({"preconditions": {"uid": pod.metadata.uid}});
        match self.rest.delete(&PODS, at.0, at.1, &options).await {
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
