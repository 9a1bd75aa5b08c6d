//! The replicaset and replicationcontroller controllers: as many pods as asked for.
//!
//! Both are the same controller over a [`Replicas`] view, as upstream's is. Behaviour after
//! `pkg/controller/replicaset/replica_set.go`: expectations, creation in growing batches, deletion by rank, adoption.

mod decide;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use client::events::EventRecorder;
use client::rest::{ResourceId, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::expectations::Expectations;
use crate::owner::{Claimer, claim, controller_of, controller_reference};
use crate::podcontrol::PodControl;
use crate::pods::{self, BY_CONTROLLER, index_by_controller, orphans_of};
use crate::resources::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};
use decide::Plan;
use view::Replicas;

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
                let reference = controller_reference(&self.resource, owner.meta());
                let pod = pods::from_template(owner.template(), &reference);
                let created = self.pod_control(owner, key).create(&vec![(); count], |()| pod.clone()).await;
                created.map_err(|error| (-(count as i64), error))
            }
            Plan::Delete(pods) => {
                let uids = pods.iter().filter_map(|pod| pod.metadata.uid.clone());
                self.expectations.expect(key, 0, uids);
                let count = pods.len() as i64;
                let deleted = self.pod_control(owner, key).delete(pods.iter().map(|pod| &**pod)).await;
                deleted.map_err(|error| (count, error))
            }
        }
    }

    fn pod_control<'a>(&'a self, owner: &Replicas, key: &'a Key) -> PodControl<'a> {
        let (rest, recorder, expectations) = (&self.rest, &self.recorder, &self.expectations);
        PodControl { rest, recorder, expectations, key, owner: owner.object_reference() }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}
