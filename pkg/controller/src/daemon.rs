//! The daemonset controller: one pod on every node that fits.
//!
//! Behaviour after upstream's `pkg/controller/daemon`. The scheduler places the pods, each pinned to its node by affinity;
//! this controller decides which nodes get one, replaces old ones by `updateStrategy`, and keeps the template's history.

mod decide;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::{EventRecorder, EventType, reference};
use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::core::SelectorExt as _;
use serde_json::{Value, json};

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::expectations::Expectations;
use crate::owner::{self, Claimer, claim, controller_of, controller_reference};
use crate::podcontrol::PodControl;
use crate::pods::{self, BY_CONTROLLER, index_by_controller, orphans_of};
use crate::resources::{DAEMON_SETS, PODS};
use crate::revisions::{self, HASH_LABEL};
use decide::{Input, Plan};

/// Pods created or deleted in one run.
const BURST: usize = 250;
/// The template's generation on pods, as older clients read it.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
/// Failed pods of one node are deleted again and again with this pause, doubling to the longest.
const FAILED_BASE: Duration = Duration::from_secs(1);
const FAILED_MAX: Duration = Duration::from_secs(15 * 60);

struct Controller {
    sets: Store<DaemonSet>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    revisions: Store<ControllerRevision>,
    queue: WorkQueue<Key>,
    expectations: Expectations,
    failed: decide::FailedPods,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let sets = context.informer::<DaemonSet>();
    let pods = context.informer::<Pod>();
    let nodes = context.informer::<Node>();
    let revisions = context.informer::<ControllerRevision>();
    index_by_controller(&pods);
    let controller = Arc::new(Controller {
        sets: sets.store(),
        pods: pods.store(),
        nodes: nodes.store(),
        revisions: revisions.store(),
        queue: WorkQueue::new("daemonset"),
        expectations: Expectations::default(),
        failed: decide::FailedPods::new(FAILED_BASE, FAILED_MAX),
        rest: context.rest("daemon-set-controller"),
        recorder: context.recorder("daemonset-controller"),
    });
    let handler = controller.clone();
    sets.on_event(move |event| {
        let key = Key::of(&**event.object());
        if matches!(event, Event::Deleted(_)) {
            handler.expectations.forget(&key);
        }
        handler.queue.add(key);
    });
    let handler = controller.clone();
    pods.on_event(move |event| handler.pod_changed(&event));
    let handler = controller.clone();
    nodes.on_event(move |event| {
        if let Event::Updated { old, new } = &event {
            let facts = |node: &Node| {
                let spec = node.spec.as_ref();
                (node.labels().clone(), spec.and_then(|s| s.taints.clone()))
            };
            if facts(old) == facts(new) {
                return;
            }
        }
        for set in handler.sets.list() {
            handler.queue.add(Key::of(&*set));
        }
    });
    let queue = controller.queue.clone();
    context.work("daemonset-controller", &queue, context.config.concurrency.daemon_set, controller);
}

impl Controller {
    fn pod_changed(&self, event: &Event<Pod>) {
        let pod = event.object();
        let namespace = pod.namespace().unwrap_or_default();
        let Some(owner) = controller_of(&pod.metadata) else {
            if !matches!(event, Event::Deleted(_)) && !pod.labels().is_empty() {
                for set in self.sets.list_in(&namespace).iter().filter(|set| selects(set, pod)) {
                    self.queue.add(Key::of(&**set));
                }
            }
            return;
        };
        if owner.kind != "DaemonSet" {
            return;
        }
        let key = Key::new(namespace, owner.name.clone());
        if matches!(event, Event::Deleted(_)) || pods::is_terminating(pod) {
            self.expectations.deleted(&key, pod.metadata.uid.as_deref().unwrap_or(""));
        } else if matches!(event, Event::Added(_)) {
            self.expectations.created(&key);
        }
        self.queue.add(key);
    }

    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let about = reference(&*set);
        let everything =
            owner::selector(set.spec.as_ref().map(|spec| &spec.selector)).is_none_or(|s| s.selects_all());
        if everything {
            let note = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&about, EventType::Warning, "SelectingAll", "", note);
            return Ok(Next::OnChange);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let held = revisions::owned(&self.revisions, &set.metadata);
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let before = collisions;
        let current =
            revisions::ensure(&self.rest, (&DAEMON_SETS, &set.metadata), &template, &held, &mut collisions)
                .await?;
        let hash = revisions::hash_of(&current).to_owned();

        let settled = self.expectations.satisfied(key);
        let pods = self.claim(&set).await?;
        let nodes = self.nodes.list();
        let now = Timestamp::now();
        let input = Input { set: &set, nodes: &nodes, pods: &pods, hash: &hash, now };
        let plan = if settled { decide::decide(&input, &self.failed) } else { Plan::default() };
        let again = plan.again;
        let result = self.act(&set, key, &hash, plan).await;
        let collided = (collisions != before).then_some(collisions);
        if let Some(status) = decide::status(&input, collided) {
            let changed = DaemonSet { status: Some(status), ..(*set).clone() };
            match self.rest.update(&DAEMON_SETS, "status", &changed).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        result?;
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let in_use = |revision: &ControllerRevision| {
            let hash = revisions::hash_of(revision);
            revision.metadata.name == current.metadata.name
                || pods.iter().any(|pod| pod.labels().get(HASH_LABEL).map(String::as_str) == Some(hash))
        };
        revisions::clean_up(&self.rest, &held, limit, in_use).await?;
        Ok(again.map_or(Next::OnChange, Next::After))
    }

    async fn claim(&self, set: &DaemonSet) -> Result<Vec<Arc<Pod>>, SyncError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or("");
        let mut candidates = self.pods.by_index(BY_CONTROLLER, set.metadata.uid.as_deref().unwrap_or(""));
        candidates.extend(self.pods.by_index(BY_CONTROLLER, &orphans_of(namespace)));
        let mut claimer = Claimer {
            rest: &self.rest,
            resource: &DAEMON_SETS,
            owner: &set.metadata,
            claimed: &PODS,
            finalizer: None,
            checked: false,
        };
        let mut claimed = Vec::new();
        for pod in candidates {
            let claim = claim(&set.metadata, &pod.metadata, selects(set, &pod));
            if claimer.settle(&pod.metadata, claim).await? {
                claimed.push(pod);
            }
        }
        Ok(claimed)
    }

    async fn act(&self, set: &DaemonSet, key: &Key, hash: &str, mut plan: Plan) -> Result<(), SyncError> {
        let about = reference(set);
        for (pod, node) in &plan.failed {
            let note = format!(
                "Found failed daemon pod {}/{pod} on node {node}, will try to kill it",
                key.namespace
            );
            self.recorder.event(&about, EventType::Warning, "FailedDaemonPod", "", note);
        }
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        let uids = plan.delete.iter().filter_map(|pod| pod.metadata.uid.clone());
        self.expectations.expect(key, plan.create.len(), uids);
        let control = self.pod_control(set, key);
        let created = control.create(&plan.create, |node| make_pod(set, hash, node)).await;
        let deleted = control.delete(plan.delete.iter().map(|pod| &**pod)).await;
        created.and(deleted)
    }

    fn pod_control<'a>(&'a self, set: &DaemonSet, key: &'a Key) -> PodControl<'a> {
        let (rest, recorder, expectations) = (&self.rest, &self.recorder, &self.expectations);
        PodControl { rest, recorder, expectations, key, owner: reference(set) }
    }
}

fn selects(set: &DaemonSet, pod: &Pod) -> bool {
    owner::selector(set.spec.as_ref().map(|spec| &spec.selector))
        .is_some_and(|selector| !selector.selects_all() && selector.matches(pod.labels()))
}

/// A pod for one node: pinned to it by affinity, and tolerating what befalls nodes.
fn make_pod(set: &DaemonSet, hash: &str, node: &str) -> Value {
    let mut template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.get_or_insert_default();
    let labels: &mut BTreeMap<String, String> = meta.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.to_owned());
    if let Some(generation) = set.annotations().get(GENERATION) {
        labels.insert(GENERATION_LABEL.into(), generation.clone());
    }
    let spec = template.spec.get_or_insert_default();
    spec.tolerations = Some(decide::tolerations(spec));
    let mut pod = pods::from_template(&template, &controller_reference(&DAEMON_SETS, &set.metadata));
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let path = "requiredDuringSchedulingIgnoredDuringExecution";
    let affinity = &mut pod["spec"]["affinity"]["nodeAffinity"][path]["nodeSelectorTerms"];
    match affinity.as_array_mut() {
        // the node is pinned within every alternative, in place of other fields
        Some(terms) if !terms.is_empty() => {
            for term in terms {
                term["matchFields"] = json!([field]);
            }
        }
        _ => *affinity = json!([{"matchFields": [field]}]),
    }
    pod
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
    fn pods_are_pinned_within_each_alternative() {
        let set: DaemonSet = serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {"spec": {
            "containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}]}}}}}}}))
        .expect("a set");
        let pod = make_pod(&set, "h", "n1");
        let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][0]["key"], "a");
        assert_eq!(terms[1]["matchFields"][0]["values"], json!(["n1"]));
        assert_eq!(pod["metadata"]["labels"][HASH_LABEL], "h");
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(6));
        let plain: DaemonSet = serde_json::from_value(
            json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {}}}),
        )
        .expect("a set");
        let pod = make_pod(&plain, "h", "n1");
        assert_eq!(pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].as_array().map(Vec::len), Some(1));
    }
}
