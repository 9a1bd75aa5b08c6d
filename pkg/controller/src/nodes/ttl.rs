//! The TTL controller: tells kubelets, in an annotation of their node, how long they may keep Secrets and ConfigMaps
//! without asking again. The larger the cluster the longer.
//!
//! Behaviour after upstream's `pkg/controller/ttl`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::rest::{Patch, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::resources::NODES;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// From more than how many nodes a step is left downwards, with how many upwards, and its time in seconds. The ranges
/// overlap so that a node more or less does not change every other.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step of a cluster of this many nodes that stood on `step` before.
fn next_step(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

struct Controller {
    nodes: Store<Node>,
    step: Arc<AtomicUsize>,
    rest: Rest,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("ttlcontroller");
    let nodes = context.informer::<Node>();
    let step = Arc::new(AtomicUsize::new(0));
    let (adds, held, current) = (queue.clone(), nodes.store(), step.clone());
    nodes.on_event(move |event| {
        if matches!(event, Event::Updated { .. }) {
            // heartbeats do not take annotations away
            if event.object().annotations().contains_key(ANNOTATION) {
                return;
            }
        } else {
            let before = current.load(Ordering::Relaxed);
            let after = next_step(before, held.len());
            if after != before {
                current.store(after, Ordering::Relaxed);
                held.list().iter().for_each(|node| adds.add(Key::of(&**node)));
            }
        }
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    let controller = Controller { nodes: nodes.store(), step, rest: context.rest("ttl-controller") };
    context.work("ttl-controller", &queue, 1, Arc::new(controller));
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(Next::OnChange) };
        let wanted = STEPS[self.step.load(Ordering::Relaxed)].2.to_string();
        if node.annotations().get(ANNOTATION) == Some(&wanted) {
            return Ok(Next::OnChange);
        }
        let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted}}});
        match self.rest.patch(&NODES, ("", &key.name), "", Patch::Strategic, &patch).await {
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

    #[test]
    fn steps_change_late_in_both_directions() {
        let cases = [(0, 1, 0), (0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (0, 5000, 4), (4, 1, 0)];
        for (before, nodes, after) in cases {
            assert_eq!(next_step(before, nodes), after, "{before} with {nodes} nodes");
        }
    }
}
