//! The replicaset and replicationcontroller controllers: as many pods as asked for.
//!
//! Both are the same controller over a [`Replicas`] view, as upstream's is. Behaviour after
//! `pkg/controller/replicaset/replica_set.go`: expectations, creation in growing batches, deletion by rank, adoption.

mod decide;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use client::events::{EventRecorder, EventType};
use client::rest::{ResourceId, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_namespace_terminating, is_not_found};
use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;
use serde_json::json;
use tracing::debug;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::expectations::Expectations;
use crate::owner::{Claimer, claim, controller_of, controller_reference};
use crate::pods::{self, BY_CONTROLLER, index_by_controller, orphans_of};
use crate::resources::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};
use decide::Plan;
use view::Replicas;

/// Size of the first batch of creations; each batch that succeeds entirely is followed by one of twice its size.
const FIRST_BATCH: usize = 1;

/// Where the replica sets (or replication controllers) come from.
enum Owners {
    ReplicaSets(Store<ReplicaSet>),
    ReplicationControllers(Store<ReplicationController>),
}

impl Owners {
    fn get(&self, namespace: &str, name: &str) -> Option<Replicas> {
        match self {
            Self::ReplicaSets(store) => store.get(namespace, name).map(Replicas::of_set),
            Self::ReplicationControllers(store) => store.get(namespace, name).map(Replicas::of_controller),
        }
    }

    fn list_in(&self, namespace: &str) -> Vec<Replicas> {
        match self {
            Self::ReplicaSets(store) => store.list_in(namespace).into_iter().map(Replicas::of_set).collect(),
            Self::ReplicationControllers(store) => {
                store.list_in(namespace).into_iter().map(Replicas::of_controller).collect()
            }
        }
    }
}

struct Controller {
    resource: ResourceId,
    owners: Owners,
    pods: Store<Pod>,
    queue: WorkQueue<Key>,
    expectations: Expectations,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the replicaset controller.
pub(crate) fn start_replica_sets(context: &Context) {
    let informer = context.informer::<ReplicaSet>();
    let controller = Arc::new(Controller {
        resource: REPLICA_SETS,
        owners: Owners::ReplicaSets(informer.store()),
        pods: context.informer::<Pod>().store(),
        queue: WorkQueue::new("replicaset"),
        expectations: Expectations::default(),
        rest: context.rest("replicaset-controller"),
        recorder: context.recorder("replicaset-controller"),
    });
    let handler = controller.clone();
    informer.on_event(move |event| handler.owner_changed(&event));
    controller.run(context, "replicaset-controller", context.config.concurrency.replica_set);
}

/// Starts the replicationcontroller controller.
pub(crate) fn start_replication_controllers(context: &Context) {
    let informer = context.informer::<ReplicationController>();
    let controller = Arc::new(Controller {
        resource: REPLICATION_CONTROLLERS,
        owners: Owners::ReplicationControllers(informer.store()),
        pods: context.informer::<Pod>().store(),
        queue: WorkQueue::new("replicationmanager"),
        expectations: Expectations::default(),
        rest: context.rest("replication-controller"),
        recorder: context.recorder("replication-controller"),
    });
    let handler = controller.clone();
    informer.on_event(move |event| handler.owner_changed(&event));
    controller.run(
        context,
        "replicationcontroller-controller",
        context.config.concurrency.replication_controller,
    );
}

impl Controller {
    fn run(self: Arc<Self>, context: &Context, name: &'static str, workers: usize) {
        let informer = context.informer::<Pod>();
        index_by_controller(&informer);
        let handler = self.clone();
        informer.on_event(move |event| handler.pod_changed(&event));
        let queue = self.queue.clone();
        context.work(name, &queue, workers, self);
    }

    fn owner_changed<K: ResourceExt>(&self, event: &Event<K>) {
        let key = Key::of(&**event.object());
        if matches!(event, Event::Deleted(_)) {
            self.expectations.forget(&key);
        }
        self.queue.add(key);
    }

    /// The owner that controls a pod, if it is one of this controller's and still the same object.
    fn owner_of(&self, pod: &Pod) -> Option<Key> {
        let owner = controller_of(&pod.metadata)?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        if owner.kind != self.resource.kind {
            return None;
        }
        let held = self.owners.get(namespace, &owner.name)?;
        (held.meta().uid.as_ref() == Some(&owner.uid)).then(|| held.key())
    }

    fn pod_changed(&self, event: &Event<Pod>) {
        match event {
            Event::Added(pod) if pods::is_terminating(pod) => self.pod_gone(pod),
            Event::Added(pod) => match self.owner_of(pod) {
                Some(owner) => {
                    self.expectations.created(&owner);
                    self.queue.add(owner);
                }
                None => self.wake_possible_owners(pod),
            },
            Event::Deleted(pod) => self.pod_gone(pod),
            Event::Updated { old, new } => {
                if pods::is_terminating(new) {
                    // its owner may replace it before it is gone
                    self.pod_gone(new);
                    if old.labels() != new.labels() {
                        self.pod_gone(old);
                    }
                    return;
                }
                let owner_changed = controller_of(&old.metadata) != controller_of(&new.metadata);
                if owner_changed && let Some(owner) = self.owner_of(old) {
                    self.queue.add(owner);
                }
                if let Some(owner) = self.owner_of(new) {
                    self.queue.add(owner);
                } else if owner_changed || old.labels() != new.labels() {
                    self.wake_possible_owners(new);
                }
            }
        }
    }

    fn pod_gone(&self, pod: &Pod) {
        if let Some(owner) = self.owner_of(pod) {
            self.expectations.deleted(&owner, pod.metadata.uid.as_deref().unwrap_or(""));
            self.queue.add(owner);
        }
    }

    /// A pod without controller: those whose selector matches may adopt it.
    fn wake_possible_owners(&self, pod: &Pod) {
        if controller_of(&pod.metadata).is_some() || pod.labels().is_empty() {
            return;
        }
        for owner in self.owners.list_in(pod.metadata.namespace.as_deref().unwrap_or("")) {
            if owner.selects(pod.labels()) {
                self.queue.add(owner.key());
            }
        }
    }

    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(owner) = self.owners.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let settled = self.expectations.satisfied(key);
        let pods = self.claim(&owner).await?;
        let now = Timestamp::now();
        let (active, rest): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) =
            pods.into_iter().partition(|pod| pods::is_active(pod));
        let terminating = rest.iter().filter(|pod| pods::is_terminating(pod)).count();

        let mut failed = None;
        if settled && owner.meta().deletion_timestamp.is_none() {
            let plan = decide::plan(&owner, &active, || self.related_by_node(&owner), now);
            failed = self.act(&owner, key, plan).await.err();
        }
        let status = decide::status(
            &owner,
            &active,
            terminating,
            failed.as_ref().map(|f| (f.0, f.1.to_string())),
            now,
        );
        if let Some(status) = status {
            let object = owner.with_status(&status);
            match self.rest.update(&self.resource, "status", &object).await {
                Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
                other => other?,
            };
        }
        if let Some((_, error)) = failed {
            return Err(error);
        }
        Ok(decide::next_availability(&owner, &active, now).map_or(Next::OnChange, Next::After))
    }

    /// The owner's pods, after adopting and releasing.
    async fn claim(&self, owner: &Replicas) -> Result<Vec<Arc<Pod>>, SyncError> {
        let uid = owner.meta().uid.as_deref().unwrap_or("");
        let mut candidates = self.pods.by_index(BY_CONTROLLER, uid);
        candidates.extend(self.pods.by_index(BY_CONTROLLER, &orphans_of(&owner.key().namespace)));
        let mut claimer = Claimer {
            rest: &self.rest,
            resource: &self.resource,
            owner: owner.meta(),
            claimed: &PODS,
            finalizer: None,
            checked: false,
        };
        let mut claimed = Vec::new();
        for pod in candidates {
            // finished pods are not adopted: they would never be counted
            if controller_of(&pod.metadata).is_none() && !pods::is_active(&pod) {
                continue;
            }
            let claim = claim(owner.meta(), &pod.metadata, owner.selects(pod.labels()));
            if claimer.settle(&pod.metadata, claim).await? {
                claimed.push(pod);
            }
        }
        Ok(claimed)
    }

    /// Number of active pods on each node that belong to this owner's siblings (the sets of one Deployment).
    fn related_by_node(&self, owner: &Replicas) -> HashMap<String, usize> {
        let parent = controller_of(owner.meta()).map(|parent| parent.uid.clone());
        let siblings = match parent {
            None => vec![owner.meta().uid.clone().unwrap_or_default()],
            Some(parent) => self
                .owners
                .list_in(&owner.key().namespace)
                .iter()
                .filter(|sibling| controller_of(sibling.meta()).is_some_and(|p| p.uid == parent))
                .filter_map(|sibling| sibling.meta().uid.clone())
                .collect(),
        };
        let mut counts = HashMap::new();
        for uid in siblings {
            for pod in self.pods.by_index(BY_CONTROLLER, &uid) {
                if pods::is_active(&pod) {
                    *counts.entry(pods::node_name(&pod).to_owned()).or_insert(0) += 1;
                }
            }
        }
        counts
    }

    /// Carries out a plan. The error says how many pods too many (positive) or too few were wanted.
    async fn act(&self, owner: &Replicas, key: &Key, plan: Plan) -> Result<(), (i64, SyncError)> {
        match plan {
            Plan::Nothing => Ok(()),
            Plan::Create(count) => {
                self.expectations.expect(key, count, []);
                self.create(owner, key, count).await.map_err(|error| (-(count as i64), error))
            }
            Plan::Delete(pods) => {
                let uids = pods.iter().filter_map(|pod| pod.metadata.uid.clone());
                self.expectations.expect(key, 0, uids);
                let count = pods.len() as i64;
                let results = join_all(pods.iter().map(|pod| self.delete(owner, key, pod))).await;
                results.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err((count, error)))
            }
        }
    }

    /// Creates pods in batches of 1, 2, 4, ..., so that an error all of them share is met once and not `count` times.
    async fn create(&self, owner: &Replicas, key: &Key, count: usize) -> Result<(), SyncError> {
        let (mut left, mut batch) = (count, FIRST_BATCH);
        while left > 0 {
            let size = batch.min(left);
            let results = join_all((0..size).map(|_| self.create_one(owner, key))).await;
            left -= size;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                for _ in 0..left {
                    self.expectations.created(key);
                }
                debug!(%key, left, "creations skipped after a failure");
                return Err(error);
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, owner: &Replicas, key: &Key) -> Result<(), SyncError> {
        let reference = controller_reference(&self.resource, owner.meta());
        let pod = pods::from_template(owner.template(), &reference);
        let about = owner.object_reference();
        match self.rest.create(&PODS, &key.namespace, &pod).await {
            Ok(created) => {
                let name =
                    created.pointer("/metadata/name").and_then(serde_json::Value::as_str).unwrap_or("");
                let note = format!("Created pod: {name}");
                self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", "Create", note);
                Ok(())
            }
            Err(error) => {
                self.expectations.created(key);
                if is_namespace_terminating(&error) {
                    // nothing can be created there any more, and that is no failure
                    return Ok(());
                }
                let error = SyncError::from(error);
                let note = format!("Error creating: {error}");
                self.recorder.event(&about, EventType::Warning, "FailedCreate", "Create", note);
                Err(error)
            }
        }
    }

    async fn delete(&self, owner: &Replicas, key: &Key, pod: &Pod) -> Result<(), SyncError> {
        let about = owner.object_reference();
        let (name, uid) = (pod.name_any(), pod.metadata.uid.as_deref().unwrap_or(""));
        let options = json!({"preconditions": {"uid": uid}});
        match self.rest.delete(&PODS, &key.namespace, &name, &options).await {
            Ok(_) => {
                let note = format!("Deleted pod: {name}");
                self.recorder.event(&about, EventType::Normal, "SuccessfulDelete", "Delete", note);
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(key, uid);
                if is_not_found(&error) {
                    return Ok(());
                }
                let error = SyncError::from(error);
                let note = format!("Error deleting: {error}");
                self.recorder.event(&about, EventType::Warning, "FailedDelete", "Delete", note);
                Err(error)
            }
        }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}
