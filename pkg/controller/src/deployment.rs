//! The deployment controller: replaces one replica set by the next, at the pace the strategy allows.
//!
//! Behaviour after `pkg/controller/deployment` of upstream: revisions, proportional scaling, progress conditions, clean
//! up of old sets. [`decide`] says what one run does, as a pure function of the Deployment and its sets.

mod decide;
mod sets;
mod status;

use std::collections::HashMap;
use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::{Rest, typed};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_already_exists, is_namespace_terminating, is_not_found};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::SelectorExt as _;
use serde_json::json;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::owner::{self, Claimer, claim, controller_of};
use crate::pods::{self, BY_CONTROLLER, index_by_controller};
use crate::resources::{DEPLOYMENTS, REPLICA_SETS};
use decide::{Input, Outcome};

const BY_DEPLOYMENT: &str = "controller";

struct Controller {
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    queue: WorkQueue<Key>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let deployments = context.informer::<Deployment>();
    let sets = context.informer::<ReplicaSet>();
    let pods = context.informer::<Pod>();
    index_by_controller(&pods);
    sets.add_index(BY_DEPLOYMENT, |set| {
        vec![match controller_of(&set.metadata) {
            Some(owner) => owner.uid.clone(),
            None => pods::orphans_of(set.metadata.namespace.as_deref().unwrap_or("")),
        }]
    });
    let controller = Arc::new(Controller {
        deployments: deployments.store(),
        sets: sets.store(),
        pods: pods.store(),
        queue: WorkQueue::new("deployment"),
        rest: context.rest("deployment-controller"),
        recorder: context.recorder("deployment-controller"),
    });
    let queue = controller.queue.clone();
    deployments.on_event(move |event| queue.add(Key::of(&**event.object())));
    let handler = controller.clone();
    sets.on_event(move |event| handler.set_changed(&event));
    let handler = controller.clone();
    pods.on_event(move |event| {
        if let Event::Deleted(pod) = event {
            handler.pod_gone(&pod);
        }
    });
    let queue = controller.queue.clone();
    context.work("deployment-controller", &queue, context.config.concurrency.deployment, controller);
}

impl Controller {
    fn owner_of(&self, set: &ReplicaSet) -> Option<Arc<Deployment>> {
        let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
        let deployment =
            self.deployments.get(set.metadata.namespace.as_deref().unwrap_or(""), &owner.name)?;
        (deployment.metadata.uid.as_ref() == Some(&owner.uid)).then_some(deployment)
    }

    fn set_changed(&self, event: &Event<ReplicaSet>) {
        let owners: Vec<Option<Arc<Deployment>>> = match event {
            Event::Added(set) | Event::Deleted(set) => vec![self.owner_of(set)],
            Event::Updated { old, new } => vec![self.owner_of(old), self.owner_of(new)],
        };
        for owner in owners.into_iter().flatten() {
            self.queue.add(Key::of(&*owner));
        }
        let set = event.object();
        if controller_of(&set.metadata).is_none() && !matches!(event, Event::Deleted(_)) {
            for deployment in self.deployments.list_in(set.metadata.namespace.as_deref().unwrap_or("")) {
                if selects(&deployment, set) {
                    self.queue.add(Key::of(&*deployment));
                }
            }
        }
    }

    /// A Deployment that recreates waits for its old pods to be gone.
    fn pod_gone(&self, pod: &Pod) {
        let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else {
            return;
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        if let Some(deployment) = self.sets.get(namespace, &owner.name).and_then(|set| self.owner_of(&set))
            && decide::is_recreate(&deployment)
        {
            self.queue.add(Key::of(&*deployment));
        }
    }

    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else {
            return Ok(Next::OnChange);
        };
        let about = reference(&*deployment);
        if decide::selects_everything(&deployment) {
            let note = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&about, EventType::Warning, "SelectingAll", "", note);
            if let Some(observed) = decide::observed_only(&deployment) {
                self.rest.update(&DEPLOYMENTS, "status", &observed).await?;
            }
            return Ok(Next::OnChange);
        }
        let sets = self.claim(&deployment).await?;
        let running = self.running_pods(&sets);
        let input = Input { deployment: &deployment, sets, running: &running, now: Timestamp::now() };
        let outcome = decide::decide(input);
        self.act(&deployment, outcome).await
    }

    async fn claim(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, SyncError> {
        let uid = deployment.metadata.uid.as_deref().unwrap_or("");
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or("");
        let mut candidates = self.sets.by_index(BY_DEPLOYMENT, uid);
        candidates.extend(self.sets.by_index(BY_DEPLOYMENT, &pods::orphans_of(namespace)));
        let mut claimer = Claimer {
            rest: &self.rest,
            resource: &DEPLOYMENTS,
            owner: &deployment.metadata,
            claimed: &REPLICA_SETS,
            finalizer: None,
            checked: false,
        };
        let mut sets = Vec::new();
        for set in candidates {
            let claim = claim(&deployment.metadata, &set.metadata, selects(deployment, &set));
            if claimer.settle(&set.metadata, claim).await? {
                sets.push(set);
            }
        }
        Ok(sets)
    }

    /// Pods that may still run, by the uid of their set.
    fn running_pods(&self, sets: &[Arc<ReplicaSet>]) -> HashMap<String, usize> {
        sets.iter()
            .filter_map(|set| set.metadata.uid.clone())
            .map(|uid| {
                let count = self
                    .pods
                    .by_index(BY_CONTROLLER, &uid)
                    .iter()
                    .filter(|pod| !pods::is_finished(pod))
                    .count();
                (uid, count)
            })
            .collect()
    }

    async fn act(&self, deployment: &Deployment, outcome: Outcome) -> SyncResult {
        let about = reference(deployment);
        let scaled =
            |note: String| self.recorder.event(&about, EventType::Normal, "ScalingReplicaSet", "", note);
        if let Some(set) = &outcome.create {
            self.create(deployment, set).await?;
            let count = sets::replicas(set);
            if count > 0 {
                scaled(format!("Scaled up replica set {} from 0 to {count}", set.name_any()));
            }
        }
        for update in outcome.updates {
            match self.rest.update(&REPLICA_SETS, "", &update.set).await {
                Ok(_) => update.note.map(&scaled),
                Err(error) if is_not_found(&error) => None,
                Err(error) => return Err(error.into()),
            };
        }
        for set in outcome.deletes {
            let options = json!({"preconditions": {"uid": set.metadata.uid}});
            let namespace = set.metadata.namespace.as_deref().unwrap_or("");
            match self.rest.delete(&REPLICA_SETS, namespace, &set.name_any(), &options).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        if let Some(changed) = outcome.deployment {
            match self.rest.update(&DEPLOYMENTS, "status", &changed).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(outcome.again.map_or(Next::OnChange, Next::After))
    }

    /// Creates the new set. Its name is a hash of the template: an unrelated set of that name makes the hash be taken
    /// with the next collision count.
    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), SyncError> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or("");
        let Err(error) = self.rest.create(&REPLICA_SETS, namespace, set).await else { return Ok(()) };
        if is_already_exists(&error) {
            let held: ReplicaSet = typed(self.rest.get(&REPLICA_SETS, namespace, &set.name_any()).await?)?;
            let ours = controller_of(&held.metadata)
                .is_some_and(|o| Some(&o.uid) == deployment.metadata.uid.as_ref());
            if !(ours && sets::same_template(deployment, &held)) {
                self.rest.update(&DEPLOYMENTS, "status", &decide::next_collision(deployment)).await?;
            }
            // either way the cache is behind: look again
            return Err(error.into());
        }
        if is_namespace_terminating(&error) {
            return Err(error.into());
        }
        let error = SyncError::from(error);
        let note = format!("Failed to create new replica set {:?}: {error}", set.name_any());
        if let Some(changed) = decide::create_failed(deployment, &note, Timestamp::now()) {
            self.rest.update(&DEPLOYMENTS, "status", &changed).await?;
        }
        self.recorder.event(&reference(deployment), EventType::Warning, "ReplicaSetCreateError", "", note);
        Err(error)
    }
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    owner::selector(deployment.spec.as_ref().map(|spec| &spec.selector))
        .is_some_and(|selector| !selector.selects_all() && selector.matches(set.labels()))
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}
