//! The statefulset controller: numbered pods with their own claims, made and replaced in order.
//!
//! Behaviour after upstream's `pkg/controller/statefulset`.

mod decide;
mod identity;

use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Store, is_already_exists, is_not_found};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::ResourceExt;
use kube::core::SelectorExt as _;
use serde_json::json;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::expectations::Written;
use crate::owner::{self, Claimer, claim, controller_of};
use crate::pods::{BY_CONTROLLER, index_by_controller, orphans_of};
use crate::resources::{CLAIMS, PODS, STATEFUL_SETS};
use crate::revisions::{self, HASH_LABEL};
use decide::{Action, Input, Revision};

struct Controller {
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    revisions: Store<ControllerRevision>,
    written: Written,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("statefulset");
    let sets = context.informer::<StatefulSet>();
    let pods = context.informer::<Pod>();
    index_by_controller(&pods);
    let claims = context.informer::<PersistentVolumeClaim>();
    let revisions = context.informer::<ControllerRevision>();
    let controller = Arc::new(Controller {
        sets: sets.store(),
        pods: pods.store(),
        claims: claims.store(),
        revisions: revisions.store(),
        written: Written::default(),
        rest: context.rest("statefulset-controller"),
        recorder: context.recorder("statefulset-controller"),
    });
    let (adds, handler) = (queue.clone(), controller.clone());
    sets.on_event(move |event| {
        let key = Key::of(&**event.object());
        if matches!(event, Event::Deleted(_)) {
            handler.written.forget(&key);
        }
        adds.add(key);
    });
    let (adds, all) = (queue.clone(), sets.store());
    pods.on_event(move |event| {
        let pod = event.object();
        let namespace = pod.namespace().unwrap_or_default();
        let owners = [Some(pod), if let Event::Updated { old, .. } = &event { Some(old) } else { None }];
        for owner in owners.into_iter().flatten().filter_map(|pod| controller_of(&pod.metadata)) {
            if owner.kind == "StatefulSet" {
                adds.add(Key::new(namespace.clone(), owner.name.clone()));
            }
        }
        if controller_of(&pod.metadata).is_none() && !matches!(event, Event::Deleted(_)) {
            for set in all.list_in(&namespace).iter().filter(|set| selects(set, pod)) {
                adds.add(Key::of(&**set));
            }
        }
    });
    context.work("statefulset-controller", &queue, context.config.concurrency.stateful_set, controller);
}

fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    owner::selector(set.spec.as_ref().map(|spec| &spec.selector))
        .is_some_and(|selector| !selector.selects_all() && selector.matches(pod.labels()))
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        if set.metadata.deletion_timestamp.is_some()
            || self.written.is_stale(key, set.metadata.resource_version.as_deref())
        {
            return Ok(Next::OnChange);
        }
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let held = revisions::owned(&self.revisions, &set.metadata);
        let status = set.status.as_ref();
        let mut collisions = status.and_then(|status| status.collision_count).unwrap_or(0);
        let update =
            revisions::ensure(&self.rest, (&STATEFUL_SETS, &set.metadata), &template, &held, &mut collisions)
                .await?;
        let current = status
            .and_then(|status| status.current_revision.as_ref())
            .and_then(|name| held.iter().find(|revision| revision.metadata.name.as_ref() == Some(name)))
            .unwrap_or(&update)
            .clone();
        let pods = self.claim(&set).await?;
        let names = |revision: &ControllerRevision| revision.name_any();
        let input = Input {
            set: &set,
            pods: &pods,
            current: &names(&current),
            update: &names(&update),
            collisions,
            now: Timestamp::now(),
        };
        let plan = decide::decide(&input);
        for action in plan.actions {
            self.act(&set, action, (&current, &update, &template)).await?;
        }
        self.retain(&set, &pods).await?;
        if let Some(status) = plan.status {
            let changed = StatefulSet { status: Some(status), ..(*set).clone() };
            match self.rest.update(&STATEFUL_SETS, "status", &changed).await {
                Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
                done => self.written.note(key, &done?),
            }
        }
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let in_use = |revision: &ControllerRevision| {
            let name = revision.name_any();
            name == names(&current)
                || name == names(&update)
                || pods.iter().any(|pod| pod.labels().get(HASH_LABEL) == Some(&name))
        };
        revisions::clean_up(&self.rest, &held, limit, in_use).await?;
        Ok(plan.again.map_or(Next::OnChange, Next::After))
    }

    async fn claim(&self, set: &StatefulSet) -> Result<Vec<Arc<Pod>>, SyncError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or("");
        let mut candidates = self.pods.by_index(BY_CONTROLLER, set.metadata.uid.as_deref().unwrap_or(""));
        candidates.extend(self.pods.by_index(BY_CONTROLLER, &orphans_of(namespace)));
        let mut claimer = Claimer {
            rest: &self.rest,
            resource: &STATEFUL_SETS,
            owner: &set.metadata,
            claimed: &PODS,
            finalizer: None,
            checked: false,
        };
        let mut claimed = Vec::new();
        for pod in candidates {
            // a pod with a name that is not the set's is not adopted
            let matches = selects(set, &pod) && identity::ordinal(set, &pod).is_some();
            let claim = claim(&set.metadata, &pod.metadata, matches);
            if claimer.settle(&pod.metadata, claim).await? {
                claimed.push(pod);
            }
        }
        Ok(claimed)
    }

    async fn act(
        &self,
        set: &StatefulSet,
        action: Action,
        (current, update, template): (&ControllerRevision, &ControllerRevision, &PodTemplateSpec),
    ) -> Result<(), SyncError> {
        let about = reference(set);
        let namespace = set.namespace().unwrap_or_default();
        let set_name = set.name_any();
        match action {
            Action::Create(ordinal, which) => {
                let revision = if which == Revision::Current { current } else { update };
                let held = revisions::template_of(revision);
                let template = held.as_ref().unwrap_or(template);
                self.ensure_claims(set, ordinal).await?;
                let pod = identity::make_pod(set, template, ordinal, &revision.name_any());
                let name = identity::pod_name(set, ordinal);
                match self.rest.create(&PODS, &namespace, &pod).await {
                    Ok(_) => {
                        let note = format!("create Pod {name} in StatefulSet {set_name} successful");
                        self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", "", note);
                        Ok(())
                    }
                    Err(error) if is_already_exists(&error) => Err(error.into()),
                    Err(error) => {
                        let error = SyncError::from(error);
                        let note =
                            format!("create Pod {name} in StatefulSet {set_name} failed error: {error}");
                        self.recorder.event(&about, EventType::Warning, "FailedCreate", "", note);
                        Err(error)
                    }
                }
            }
            Action::Delete(pod, why) => {
                let name = pod.name_any();
                if let Some((reason, what)) = why {
                    let note = format!("StatefulSet {namespace}/{set_name} is recreating {what} Pod {name}");
                    self.recorder.event(&about, EventType::Warning, reason, "", note);
                }
                let options = json!({"preconditions": {"uid": pod.metadata.uid}});
                match self.rest.delete(&PODS, &namespace, &name, &options).await {
                    Err(error) if !is_not_found(&error) => {
                        let error = SyncError::from(error);
                        let note =
                            format!("delete Pod {name} in StatefulSet {set_name} failed error: {error}");
                        self.recorder.event(&about, EventType::Warning, "FailedDelete", "", note);
                        Err(error)
                    }
                    _ => {
                        let note = format!("delete Pod {name} in StatefulSet {set_name} successful");
                        self.recorder.event(&about, EventType::Normal, "SuccessfulDelete", "", note);
                        Ok(())
                    }
                }
            }
        }
    }

    async fn ensure_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<(), SyncError> {
        let namespace = set.namespace().unwrap_or_default();
        for claim in identity::claims(set, ordinal) {
            let name =
                claim.pointer("/metadata/name").and_then(serde_json::Value::as_str).unwrap_or("").to_owned();
            if let Some(held) = self.claims.get(&namespace, &name) {
                if held.metadata.deletion_timestamp.is_some() {
                    return Err(SyncError::other(format!("pvc {name} is being deleted")));
                }
                continue;
            }
            match self.rest.create(&CLAIMS, &namespace, &claim).await {
                Err(error) if is_already_exists(&error) => {}
                done => {
                    done?;
                    let pod = identity::pod_name(set, ordinal);
                    let note =
                        format!("create Claim {name} Pod {pod} in StatefulSet {} success", set.name_any());
                    self.recorder.event(&reference(set), EventType::Normal, "SuccessfulCreate", "", note);
                }
            }
        }
        Ok(())
    }

    /// Owner references of claims follow `persistentVolumeClaimRetentionPolicy`: the garbage collector does the rest.
    async fn retain(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<(), SyncError> {
        let namespace = set.namespace().unwrap_or_default();
        for pod in pods {
            let Some(ordinal) = identity::ordinal(set, pod) else { continue };
            for name in identity::claim_names(set, ordinal) {
                let Some(claim) = self.claims.get(&namespace, &name) else { continue };
                let Some(owners) = identity::claim_owners(set, pod, ordinal, &claim) else { continue };
                let mut changed = (*claim).clone();
                changed.metadata.owner_references = Some(owners);
                // An update: the controller's role allows no patch of claims.
                match self.rest.update(&CLAIMS, "", &changed).await {
                    Err(error) if !is_not_found(&error) => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}
