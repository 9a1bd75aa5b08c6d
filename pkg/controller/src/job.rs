//! The job controller: runs pods until enough have succeeded or too many have failed.
//!
//! Behaviour after upstream's `pkg/controller/job`: parallel, Indexed, suspended Jobs, deadlines, failure and success
//! policies, back-off, pods counted through finalizers.

mod decide;
mod indexes;
mod policy;

use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::{Patch, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;
use kube::core::SelectorExt as _;
use serde_json::{Value, json};

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::expectations::{Expectations, Written};
use crate::owner::{self, Claimer, claim, controller_of, controller_reference};
use crate::podcontrol::PodControl;
use crate::pods::{self, BY_CONTROLLER, index_by_controller, orphans_of};
use crate::resources::{JOBS, PODS};
use decide::{NewPod, Plan};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// `spec.managedBy` of Jobs that are this controller's.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Controller {
    jobs: Store<Job>,
    pods: Store<Pod>,
    queue: WorkQueue<Key>,
    /// Pods with our finalizer that nobody controls.
    orphans: WorkQueue<Key>,
    expectations: Expectations,
    written: Written,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let jobs = context.informer::<Job>();
    let pods = context.informer::<Pod>();
    index_by_controller(&pods);
    let controller = Arc::new(Controller {
        jobs: jobs.store(),
        pods: pods.store(),
        queue: WorkQueue::new("job"),
        orphans: WorkQueue::new("job_orphan_pod"),
        expectations: Expectations::default(),
        written: Written::default(),
        rest: context.rest("job-controller"),
        recorder: context.recorder("job-controller"),
    });
    let handler = controller.clone();
    jobs.on_event(move |event| {
        let key = Key::of(&**event.object());
        if matches!(event, Event::Deleted(_)) {
            handler.expectations.forget(&key);
            handler.written.forget(&key);
        }
        handler.queue.add(key);
    });
    let handler = controller.clone();
    pods.on_event(move |event| handler.pod_changed(&event));
    let orphans = controller.orphans.clone();
    context.work("job-controller", &orphans, 1, Arc::new(Orphans(controller.clone())));
    let queue = controller.queue.clone();
    context.work("job-controller", &queue, context.config.concurrency.job, controller);
}

impl Controller {
    fn pod_changed(&self, event: &Event<Pod>) {
        let pod = event.object();
        let Some(owner) = owner_of(pod) else {
            if let Event::Updated { old, .. } = event
                && let Some(owner) = owner_of(old)
            {
                self.queue.add(owner);
            }
            if is_forsaken(pod) && !matches!(event, Event::Deleted(_)) {
                self.orphans.add(Key::of(&**pod));
            }
            if controller_of(&pod.metadata).is_none() && !matches!(event, Event::Deleted(_)) {
                for job in self.jobs.list_in(pod.metadata.namespace.as_deref().unwrap_or("")) {
                    if selects(&job, pod) {
                        self.queue.add(Key::of(&*job));
                    }
                }
            }
            return;
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        if matches!(event, Event::Deleted(_)) || pods::is_terminating(pod) {
            self.expectations.deleted(&owner, uid);
        } else if matches!(event, Event::Added(_)) {
            self.expectations.created(&owner);
        }
        self.queue.add(owner);
    }

    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return self.release_orphans(key).await;
        };
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != MANAGER) {
            return Ok(Next::OnChange);
        }
        if self.written.is_stale(key, job.metadata.resource_version.as_deref()) {
            return Ok(Next::OnChange);
        }
        let settled = self.expectations.satisfied(key);
        let pods = self.claim(&job).await?;
        let plan = decide::decide(&job, &pods, settled, Timestamp::now());
        self.act(&job, key, plan).await
    }

    /// Pods of a Job that is gone keep nobody's count any more.
    async fn release_orphans(&self, key: &Key) -> SyncResult {
        for pod in self.pods.list_in(&key.namespace) {
            if decide::has_finalizer(&pod) && owner_of(&pod).as_ref() == Some(key) {
                self.release(&pod).await?;
            }
        }
        Ok(Next::OnChange)
    }

    /// A pod that its Job let go, or that lost it by an orphaning deletion, must not wait for anybody's count.
    async fn sync_orphan(&self, key: &Key) -> SyncResult {
        if let Some(pod) = self.pods.get(&key.namespace, &key.name).filter(|pod| is_forsaken(pod)) {
            // Of this version only: a Job may just be adopting it.
            let version = json!(pod.metadata.resource_version);
            self.remove_finalizer(&pod, ("resourceVersion", version)).await?;
        }
        Ok(Next::OnChange)
    }

    async fn claim(&self, job: &Job) -> Result<Vec<Arc<Pod>>, SyncError> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or("");
        let mut candidates = self.pods.by_index(BY_CONTROLLER, job.metadata.uid.as_deref().unwrap_or(""));
        candidates.extend(self.pods.by_index(BY_CONTROLLER, &orphans_of(namespace)));
        let mut claimer = Claimer {
            rest: &self.rest,
            resource: &JOBS,
            owner: &job.metadata,
            claimed: &PODS,
            finalizer: Some(FINALIZER),
            checked: false,
        };
        let mut claimed = Vec::new();
        for pod in candidates {
            let claim = claim(&job.metadata, &pod.metadata, selects(job, &pod));
            if claimer.settle(&pod.metadata, claim).await? {
                claimed.push(pod);
            }
        }
        Ok(claimed)
    }

    async fn act(&self, job: &Job, key: &Key, plan: Plan) -> SyncResult {
        let about = reference(job);
        // counted before released: a crash in between counts no pod twice and loses none
        if let Some(status) = plan.status {
            let changed = Job { status: Some(status), ..job.clone() };
            match self.rest.update(&JOBS, "status", &changed).await {
                Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
                done => self.written.note(key, &done?),
            }
        }
        for note in plan.notes {
            let kind = if note.is_warning { EventType::Warning } else { EventType::Normal };
            self.recorder.event(&about, kind, &note.reason, "", note.message);
        }
        for pod in &plan.release {
            self.release(pod).await?;
        }
        if !plan.delete.is_empty() {
            self.expectations.expect(key, 0, plan.delete.iter().filter_map(|pod| pod.metadata.uid.clone()));
            self.pod_control(job, key).delete(plan.delete.iter().map(|pod| &**pod)).await?;
        }
        if !plan.create.is_empty() {
            self.expectations.expect(key, plan.create.len(), []);
            self.pod_control(job, key).create(&plan.create, |pod| make_pod(job, *pod)).await?;
        }
        Ok(plan.again.map_or(Next::OnChange, Next::After))
    }

    async fn release(&self, pod: &Pod) -> Result<(), SyncError> {
        if !decide::has_finalizer(pod) {
            return Ok(());
        }
        self.remove_finalizer(pod, ("uid", json!(pod.metadata.uid))).await
    }

    /// Removes the finalizer from a pod whose metadata still has this value.
    async fn remove_finalizer(&self, pod: &Pod, (field, value): (&str, Value)) -> Result<(), SyncError> {
        let patch = json!({"metadata": {field: value, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        match self.rest.patch(&PODS, (&namespace, &name), "", Patch::Strategic, &patch).await {
            Err(error) if is_not_found(&error) => Ok(()),
            done => done.map(drop).map_err(Into::into),
        }
    }

    fn pod_control<'a>(&'a self, job: &Job, key: &'a Key) -> PodControl<'a> {
        let (rest, recorder, expectations) = (&self.rest, &self.recorder, &self.expectations);
        PodControl { rest, recorder, expectations, key, owner: reference(job) }
    }
}

/// The Job that controls a pod.
fn owner_of(pod: &Pod) -> Option<Key> {
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job")?;
    Some(Key::new(pod.namespace().unwrap_or_default(), owner.name.clone()))
}

/// Whether a pod has our finalizer and nobody who would remove it.
fn is_forsaken(pod: &Pod) -> bool {
    decide::has_finalizer(pod) && controller_of(&pod.metadata).is_none()
}

fn selects(job: &Job, pod: &Pod) -> bool {
    owner::selector(job.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
        .is_some_and(|selector| !selector.selects_all() && selector.matches(pod.labels()))
}

/// A pod of the Job; Indexed ones know their index by name, label, annotation, host name and environment.
fn make_pod(job: &Job, new: NewPod) -> Value {
    let mut template: PodTemplateSpec =
        job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.get_or_insert_default();
    meta.finalizers.get_or_insert_default().push(FINALIZER.into());
    if let Some(index) = new.index {
        meta.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
        meta.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
        if job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some()) {
            meta.annotations.get_or_insert_default().insert(FAILURES.into(), new.failures.to_string());
        }
    }
    let mut pod = pods::from_template(&template, &controller_reference(&JOBS, &job.metadata));
    let Some(index) = new.index else { return pod };
    let name = job.name_any();
    pod["metadata"]["generateName"] = json!(pods::generate_name(&format!("{name}-{index}")));
    if pod["spec"]["hostname"].as_str().unwrap_or("").is_empty() {
        pod["spec"]["hostname"] = json!(format!("{name}-{index}"));
    }
    let variable = json!({"name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": format!("metadata.labels['{INDEX}']")}}});
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let env = container["env"].as_array().cloned().unwrap_or_default();
            if !env.iter().any(|held| held["name"] == variable["name"]) {
                container["env"] = env.into_iter().chain([variable.clone()]).collect();
            }
        }
    }
    pod
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

/// The part that looks after single pods.
struct Orphans(Arc<Controller>);

impl Reconcile for Orphans {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.0.sync_orphan(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn only_pods_without_controller_are_forsaken() {
        let with_finalizer = |mut pod: Pod| {
            pod.metadata.finalizers = Some(vec![FINALIZER.into()]);
            pod
        };
        assert!(is_forsaken(&with_finalizer(pod("a").build())));
        assert!(!is_forsaken(&with_finalizer(pod("a").owned("job").build())));
        assert!(!is_forsaken(&pod("a").build()));
    }
}
