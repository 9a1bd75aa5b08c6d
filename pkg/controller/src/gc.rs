//! The garbage collector: deletes what has lost its owners, and carries out foreground and orphaning deletion.
//!
//! Behaviour after upstream's `pkg/controller/garbagecollector`: a graph of owners and dependents over the metadata of
//! every resource that can be listed, watched and deleted. The graph only says whom to look at; before anything is
//! deleted the object and its owners are read from the server.

mod graph;
mod judge;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::informer::Metadata;
use client::rest::{Patch, ResourceId, Rest, typed};
use client::workqueue::WorkQueue;
use client::{Event, Informer, is_conflict, is_not_found};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::context::{Context, SyncError};
use crate::discovery::{Discovered, discover};
use graph::{Graph, Subject, Work};
use judge::{FOREGROUND, ORPHAN, OwnerState, Verdict, judge};

/// How often discovery is asked for resources that came or went (CustomResourceDefinitions).
const RESYNC: Duration = Duration::from_secs(30);
/// Events never own and are never owned; there are too many to keep.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// How to reach the objects an owner reference names.
#[derive(Default)]
struct Mapper {
    by_kind: HashMap<(String, String), ResourceId>,
}

impl Mapper {
    fn resolve(&self, api_version: &str, kind: &str) -> Option<ResourceId> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = self.by_kind.get(&(group.to_owned(), kind.to_owned()))?;
        Some(ResourceId { version: version.to_owned().into(), ..found.clone() })
    }
}

struct Controller {
    graph: Mutex<Graph>,
    mapper: RwLock<Mapper>,
    deletions: WorkQueue<Subject>,
    orphans: WorkQueue<Subject>,
    rest: Rest,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let controller = Arc::new(Controller {
        graph: Mutex::default(),
        mapper: RwLock::default(),
        deletions: WorkQueue::new("garbage_collector_attempt_to_delete"),
        orphans: WorkQueue::new("garbage_collector_attempt_to_orphan"),
        rest: context.rest("generic-garbage-collector"),
    });
    let (monitors, factory) = (controller.clone(), context.informers.clone());
    let workers = context.config.concurrency.garbage_collector;
    let (tasks, shutdown) = (context.tasks.clone(), context.shutdown.clone());
    context.spawn(async move {
        let mut running: HashMap<ResourceId, Informer<Metadata>> = HashMap::new();
        let mut ticks = tokio::time::interval(RESYNC);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut started = false;
        loop {
            ticks.tick().await;
            match discover(&monitors.rest).await {
                Ok(discovery) => {
                    monitors.clone().follow(&factory, &mut running, discovery.resources, &discovery.failed);
                }
                Err(error) => {
                    warn!(%error, "discovery failed, resources monitored stay as they are");
                    ticks.reset_after(Duration::from_secs(1));
                    continue;
                }
            }
            if !started {
                for informer in running.values() {
                    informer.synced().await;
                }
                info!(resources = running.len(), "garbage collector synced");
                for _ in 0..workers.max(1) {
                    tasks.spawn(monitors.clone().delete_worker());
                    tasks.spawn(monitors.clone().orphan_worker());
                }
                started = true;
            }
        }
    });
    let closing = controller;
    context.tasks.spawn(async move {
        shutdown.cancelled().await;
        closing.deletions.shut_down();
        closing.orphans.shut_down();
    });
}

fn finalizers(meta: &ObjectMeta) -> &[String] {
    meta.finalizers.as_deref().unwrap_or(&[])
}

impl Controller {
    /// Monitors exactly the resources found; those of groups that could not be asked stay.
    fn follow(
        self: Arc<Self>,
        factory: &client::InformerFactory,
        running: &mut HashMap<ResourceId, Informer<Metadata>>,
        found: Vec<Discovered>,
        failed: &[String],
    ) {
        let mut mapper = self.mapper.write();
        for found in &found {
            let kind = (found.resource.group.to_string(), found.resource.kind.to_string());
            mapper.by_kind.insert(kind, found.resource.clone());
        }
        drop(mapper);
        let wanted: HashSet<ResourceId> = found
            .into_iter()
            .filter(|found| ["list", "watch", "delete"].iter().all(|verb| found.can(verb)))
            .map(|found| found.resource)
            .filter(|resource| !IGNORED.contains(&(resource.group.as_ref(), resource.plural.as_ref())))
            .collect();
        running.retain(|resource, informer| {
            let keep =
                wanted.contains(resource) || failed.iter().any(|failed| failed.starts_with(&*resource.group));
            if !keep {
                factory.remove(informer);
            }
            keep
        });
        for resource in wanted {
            if running.contains_key(&resource) {
                continue;
            }
            let informer = factory.metadata(&resource);
            let (handler, of) = (self.clone(), Arc::new(resource.clone()));
            informer.on_event(move |event| handler.changed(&of, event));
            running.insert(resource, informer);
        }
    }

    fn changed(&self, resource: &Arc<ResourceId>, event: Event<Metadata>) {
        let works = {
            let mut graph = self.graph.lock();
            match event {
                Event::Added(object) | Event::Updated { new: object, .. } => graph.observe(resource, object),
                Event::Deleted(object) => graph.remove(&object.uid),
            }
        };
        self.queue(works);
    }

    fn queue(&self, works: Vec<Work>) {
        for work in works {
            match work {
                Work::Delete(subject) => self.deletions.add(subject),
                Work::Orphan(subject) => self.orphans.add(subject),
            }
        }
    }

    async fn delete_worker(self: Arc<Self>) {
        while let Some(subject) = self.deletions.get().await {
            match self.attempt_delete(&subject).await {
                Ok(()) => self.deletions.forget(&subject),
                Err(error) => {
                    debug!(?subject, %error, "cannot be judged yet");
                    self.deletions.add_rate_limited(subject.clone());
                }
            }
            self.deletions.done(&subject);
        }
    }

    async fn orphan_worker(self: Arc<Self>) {
        while let Some(subject) = self.orphans.get().await {
            match self.attempt_orphan(&subject).await {
                Ok(()) => self.orphans.forget(&subject),
                Err(error) => {
                    debug!(?subject, %error, "dependents cannot be orphaned yet");
                    self.orphans.add_rate_limited(subject.clone());
                }
            }
            self.orphans.done(&subject);
        }
    }

    fn resource_of(&self, subject: &Subject) -> Result<ResourceId, SyncError> {
        self.mapper.read().resolve(&subject.api_version, &subject.kind).ok_or_else(|| {
            SyncError::other(format!(
                "no matches for kind {:?} in version {:?}",
                subject.kind, subject.api_version
            ))
        })
    }

    /// The object's metadata as the server has it. `None` when it is gone or another one by now.
    async fn live(&self, subject: &Subject) -> Result<Option<(ResourceId, ObjectMeta)>, SyncError> {
        let resource = self.resource_of(subject)?;
        if resource.namespaced && subject.namespace.is_empty() {
            return Err(SyncError::other("cluster-scoped objects cannot refer to namespaced owners"));
        }
        let namespace = if resource.namespaced { subject.namespace.as_str() } else { "" };
        let object = match self.rest.get(&resource, namespace, &subject.name).await {
            Err(error) if is_not_found(&error) => return Ok(None),
            object => object?,
        };
        let meta: ObjectMeta = typed(object.get("metadata").cloned().unwrap_or(Value::Null))?;
        if meta.uid.as_deref() != Some(subject.uid.as_str()) {
            return Ok(None);
        }
        Ok(Some((resource, meta)))
    }

    async fn attempt_delete(&self, subject: &Subject) -> Result<(), SyncError> {
        let Some((resource, meta)) = self.live(subject).await? else {
            // its deletion was missed, or it never was (an owner that only references know)
            let works = self.graph.lock().remove(&subject.uid);
            self.queue(works);
            return Ok(());
        };
        let foreground = finalizers(&meta).iter().any(|finalizer| finalizer == FOREGROUND);
        if meta.deletion_timestamp.is_some() {
            if foreground {
                self.finish_foreground(&resource, subject, &meta).await?;
            }
            return Ok(());
        }
        let mut owners = Vec::new();
        for owner in meta.owner_references.iter().flatten() {
            owners.push((owner.uid.clone(), self.owner_state(owner, &subject.namespace).await?));
        }
        let dependents = self.graph.lock().state_of_dependents(&subject.uid);
        match judge(&meta, &owners, dependents) {
            Verdict::Keep => Ok(()),
            Verdict::Unblock => self.unblock_owners(&resource, subject, &meta).await,
            Verdict::DropReferences(uids) => self.drop_references(&resource, subject, &meta, &uids).await,
            Verdict::Delete(propagation) => {
                let options = json!({
                    "propagationPolicy": propagation,
                    "preconditions": {"uid": subject.uid, "resourceVersion": meta.resource_version},
                });
                match self.rest.delete(&resource, &subject.namespace, &subject.name, &options).await {
                    Err(error) if is_not_found(&error) => Ok(()),
                    Err(error) if is_conflict(&error) => Err(error.into()),
                    done => done.map(drop).map_err(Into::into),
                }
            }
        }
    }

    async fn owner_state(&self, owner: &OwnerReference, namespace: &str) -> Result<OwnerState, SyncError> {
        if self.graph.lock().is_absent(&owner.uid) {
            return Ok(OwnerState::Gone);
        }
        let subject = Subject::owner(owner, namespace);
        Ok(match self.live(&subject).await? {
            None => {
                self.graph.lock().note_absent(&owner.uid);
                OwnerState::Gone
            }
            Some((_, meta)) => {
                let waits =
                    meta.deletion_timestamp.is_some() && finalizers(&meta).iter().any(|f| f == FOREGROUND);
                if waits { OwnerState::WaitsForDependents } else { OwnerState::Solid }
            }
        })
    }

    /// An owner in foreground deletion: goes when no dependent blocks it any more.
    async fn finish_foreground(
        &self,
        resource: &ResourceId,
        subject: &Subject,
        meta: &ObjectMeta,
    ) -> Result<(), SyncError> {
        let blocking = self.graph.lock().blocking_dependents(&subject.uid);
        if blocking.is_empty() {
            return self.remove_finalizer(resource, subject, meta, FOREGROUND).await;
        }
        for dependent in blocking {
            // One that is leaving wakes its owners when it is gone; asking for it again would go round in circles.
            if !self.graph.lock().is_leaving(&dependent.uid) {
                self.deletions.add(dependent);
            }
        }
        Ok(())
    }

    /// Lets no owner wait for an object, and looks at it again.
    async fn unblock_owners(
        &self,
        resource: &ResourceId,
        subject: &Subject,
        meta: &ObjectMeta,
    ) -> Result<(), SyncError> {
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        for owner in &mut owners {
            owner.block_owner_deletion = owner.block_owner_deletion.map(|_| false);
        }
        self.patch_meta(resource, subject, meta, &json!({ "ownerReferences": owners })).await?;
        self.deletions.add(subject.clone());
        Ok(())
    }

    /// Cuts the dependents loose, then lets the owner go.
    async fn attempt_orphan(&self, subject: &Subject) -> Result<(), SyncError> {
        let dependents = self.graph.lock().dependents(&subject.uid);
        for dependent in dependents {
            if let Some((resource, meta)) = self.live(&dependent).await? {
                self.drop_references(&resource, &dependent, &meta, std::slice::from_ref(&subject.uid))
                    .await?;
            }
        }
        match self.live(subject).await? {
            Some((resource, meta)) => self.remove_finalizer(&resource, subject, &meta, ORPHAN).await,
            None => Ok(()),
        }
    }

    async fn drop_references(
        &self,
        resource: &ResourceId,
        subject: &Subject,
        meta: &ObjectMeta,
        uids: &[String],
    ) -> Result<(), SyncError> {
        let held = meta.owner_references.as_deref().unwrap_or(&[]);
        let left: Vec<&OwnerReference> = held.iter().filter(|owner| !uids.contains(&owner.uid)).collect();
        if left.len() == held.len() {
            return Ok(());
        }
        self.patch_meta(resource, subject, meta, &json!({ "ownerReferences": left })).await
    }

    async fn remove_finalizer(
        &self,
        resource: &ResourceId,
        subject: &Subject,
        meta: &ObjectMeta,
        finalizer: &str,
    ) -> Result<(), SyncError> {
        let left: Vec<&String> = finalizers(meta).iter().filter(|held| *held != finalizer).collect();
        if left.len() == finalizers(meta).len() {
            return Ok(());
        }
        self.patch_meta(resource, subject, meta, &json!({ "finalizers": left })).await
    }

    /// Replaces lists of the metadata, on the version that was read.
    async fn patch_meta(
        &self,
        resource: &ResourceId,
        subject: &Subject,
        meta: &ObjectMeta,
        change: &Value,
    ) -> Result<(), SyncError> {
        let mut patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}});
        if let (Some(target), Some(change)) = (patch["metadata"].as_object_mut(), change.as_object()) {
            target.extend(change.clone());
        }
        let at = (subject.namespace.as_str(), subject.name.as_str());
        match self.rest.patch(resource, at, "", Patch::Merge, &patch).await {
            Err(error) if is_not_found(&error) => Ok(()),
            done => done.map(drop).map_err(Into::into),
        }
    }
}
