//! The namespace controller: empties a namespace that is being deleted, then lets it go.
//!
//! Behaviour after upstream's `pkg/controller/namespace/deletion`: everything discovery says a namespace may hold is
//! deleted, pods before all else (KEP-5080), conditions tell what remains, and at the end the finalizer `kubernetes` is
//! taken out of `spec.finalizers` through the finalize subresource.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::rest::{ResourceId, Rest, typed};
use client::workqueue::{Limits, WorkQueue};
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult, said};
use crate::discovery::{Discovered, discover};
use crate::resources::NAMESPACES;

const FINALIZER: &str = "kubernetes";
/// Wait after a namespace's deletion is seen, so that other API servers know of it and admit nothing new. Upstream
/// waits five seconds; reads here are linearizable, which leaves only the other servers' admission caches.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest time between two looks at a namespace with content left.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Seconds assumed for finalizers to be worked off.
const FINALIZER_ESTIMATE: i64 = 15;

struct Controller {
    namespaces: Store<Namespace>,
    rest: Rest,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let limits = Limits { max: Duration::from_secs(60), ..Limits::default() };
    let queue = WorkQueue::with_limits("namespace", limits);
    let namespaces = context.informer::<Namespace>();
    let adds = queue.clone();
    namespaces.on_event(move |event| {
        if let Event::Added(namespace) | Event::Updated { new: namespace, .. } = event
            && namespace.metadata.deletion_timestamp.is_some()
        {
            adds.add_after(Key::of(&*namespace), SETTLE);
        }
    });
    // the last pod to go is what most deletions wait for
    let (adds, store) = (queue.clone(), namespaces.store());
    context.informer::<Pod>().on_event(move |event| {
        if let Event::Deleted(pod) = event {
            let namespace = pod.namespace().unwrap_or_default();
            if store.get("", &namespace).is_some_and(|held| held.metadata.deletion_timestamp.is_some()) {
                adds.add(Key::new("", namespace));
            }
        }
    });
    let controller =
        Controller { namespaces: namespaces.store(), rest: context.rest("namespace-controller") };
    context.work("namespace-controller", &queue, context.config.concurrency.namespace, Arc::new(controller));
}

/// What one pass over a namespace's content found.
#[derive(Debug, Default, PartialEq)]
struct Findings {
    discovery_failed: Vec<String>,
    errors: Vec<String>,
    /// Objects left, by `resource.group`.
    remaining: BTreeMap<String, usize>,
    /// Objects left that carry a finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Seconds until what is left may be gone.
    estimate: i64,
}

impl Findings {
    fn is_clean(&self) -> bool {
        self.discovery_failed.is_empty() && self.errors.is_empty() && self.remaining.is_empty()
    }

    /// Notes what a list after the deletion shows.
    fn note(&mut self, resource: &ResourceId, items: &[Value], deleted: Timestamp, now: Timestamp) {
        if items.is_empty() {
            return;
        }
        self.remaining.insert(format!("{}.{}", resource.plural, resource.group), items.len());
        for item in items {
            for finalizer in
                item.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten()
            {
                *self.finalizers.entry(finalizer.as_str().unwrap_or("").to_owned()).or_insert(0) += 1;
                self.estimate = self.estimate.max(FINALIZER_ESTIMATE);
            }
            if resource.plural == "pods" && resource.group.is_empty() {
                let grace =
                    item.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
                let passed = now.duration_since(deleted).as_secs();
                self.estimate = self.estimate.max(grace - passed);
            }
        }
        self.estimate = self.estimate.max(1);
    }
}

/// The namespace's conditions after a pass, in upstream's order and words.
fn conditions(held: &[NamespaceCondition], found: &Findings, now: Timestamp) -> Vec<NamespaceCondition> {
    let counted = |map: &BTreeMap<String, usize>, middle: &str, end: &str| {
        map.iter().map(|(what, count)| format!("{what}{middle}{count}{end}")).collect::<Vec<_>>().join(", ")
    };
    let bad = |failing: bool, reason: &'static str, message: String| failing.then_some((reason, message));
    let mut errors = found.errors.clone();
    errors.sort_unstable();
    let states = [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            bad(!found.discovery_failed.is_empty(), "DiscoveryFailed", {
                let groups = &found.discovery_failed;
                let list: Vec<String> = groups
                    .iter()
                    .map(|group| format!("{group}: stale GroupVersion discovery: {group}"))
                    .collect();
                format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server \
                     APIs: {}",
                    groups.len(),
                    list.join(", ")
                )
            }),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            None,
        ),
        (
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            bad(
                !errors.is_empty(),
                "ContentDeletionFailed",
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    errors.len(),
                    errors.join(", ")
                ),
            ),
        ),
        (
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            bad(
                !found.remaining.is_empty(),
                "SomeResourcesRemain",
                format!(
                    "Some resources are remaining: {}",
                    counted(&found.remaining, " has ", " resource instances")
                ),
            ),
        ),
        (
            "NamespaceFinalizersRemaining",
            ("ContentRemoved", "All content successfully removed"),
            bad(
                !found.finalizers.is_empty(),
                "SomeFinalizersRemain",
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    counted(&found.finalizers, " in ", " resource instances")
                ),
            ),
        ),
    ];
    let mut all = held.to_vec();
    for (kind, fine, failing) in states {
        let (status, (reason, message)) = match failing {
            Some(failing) => ("True", failing),
            None => ("False", (fine.0, fine.1.to_owned())),
        };
        let mut new = NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match all.iter_mut().find(|condition| condition.type_ == kind) {
            None => all.push(new),
            Some(held) => {
                if held.status == new.status {
                    new.last_transition_time.clone_from(&held.last_transition_time);
                }
                *held = new;
            }
        }
    }
    all
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        if self.namespaces.get("", &key.name).is_none_or(|held| held.metadata.deletion_timestamp.is_none()) {
            return Ok(Next::OnChange);
        }
        // several may write a namespace that goes: begin from its latest state
        let mut namespace: Namespace = match self.rest.get(&NAMESPACES, "", &key.name).await {
            Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
            fresh => typed(fresh?)?,
        };
        let Some(deleted) = namespace.metadata.deletion_timestamp.clone() else { return Ok(Next::OnChange) };
        let ours = |namespace: &Namespace| {
            let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
            finalizers.clone().any(|finalizer| finalizer == FINALIZER)
        };
        if !ours(&namespace) {
            return Ok(Next::OnChange);
        }
        let status = namespace.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".into());
            namespace = typed(self.rest.update(&NAMESPACES, "status", &namespace).await?)?;
        }
        let found = self.empty(&key.name, deleted.0).await?;
        if found.is_clean() {
            let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            return match self.rest.update(&NAMESPACES, "finalize", &namespace).await {
                Err(error) if !is_not_found(&error) => Err(error.into()),
                _ => Ok(Next::OnChange),
            };
        }
        self.report(namespace, &found).await?;
        if !found.errors.is_empty() || !found.discovery_failed.is_empty() {
            return Err(SyncError::other(format!("content of namespace {key} cannot be deleted entirely")));
        }
        let estimate = Duration::from_secs(found.estimate.unsigned_abs() / 2 + 1);
        Ok(Next::After(estimate.min(LOOK_AGAIN)))
    }

    async fn report(&self, mut namespace: Namespace, found: &Findings) -> Result<(), SyncError> {
        let status: &mut NamespaceStatus = namespace.status.get_or_insert_default();
        let held = status.conditions.clone().unwrap_or_default();
        let new = conditions(&held, found, Timestamp::now());
        if new != held {
            status.conditions = Some(new);
            match self.rest.update(&NAMESPACES, "status", &namespace).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes what the namespace holds: pods first, the rest once they are gone.
    async fn empty(&self, namespace: &str, deleted: Timestamp) -> Result<Findings, SyncError> {
        let discovery = discover(&self.rest).await?;
        let mut found = Findings { discovery_failed: discovery.failed, ..Findings::default() };
        let mut resources: Vec<Discovered> = discovery
            .resources
            .into_iter()
            .filter(|found| found.resource.namespaced && found.can("delete") && found.can("list"))
            .collect();
        resources.sort_by_key(|found| found.resource.plural != "pods" || !found.resource.group.is_empty());
        for (position, resource) in resources.iter().enumerate() {
            if let Err(error) = self.empty_one(resource, namespace, deleted, &mut found).await {
                found.errors.push(said(&error));
            }
            if position == 0 && !found.remaining.is_empty() {
                // pods are still being stopped: keep the secrets, config and network policies they run with
                break;
            }
        }
        Ok(found)
    }

    async fn empty_one(
        &self,
        discovered: &Discovered,
        namespace: &str,
        deleted: Timestamp,
        found: &mut Findings,
    ) -> Result<(), kube::Error> {
        let resource = &discovered.resource;
        let held = match self.rest.list(resource, namespace, None, None).await {
            // not served after all
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => return Ok(()),
            held => held?,
        };
        if held.is_empty() {
            return Ok(());
        }
        let options = json!({"propagationPolicy": "Background"});
        if discovered.can("deletecollection") {
            match self.rest.delete_collection(resource, namespace, &options).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {}
                done => {
                    done?;
                }
            }
        } else {
            for item in &held {
                let name = item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("");
                match self.rest.delete(resource, namespace, name, &options).await {
                    Err(error) if !is_not_found(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        let left = self.rest.list(resource, namespace, None, None).await?;
        found.note(resource, &left, deleted, Timestamp::now());
        Ok(())
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
    use crate::resources::{CONFIG_MAPS, PODS};
    use crate::testing::at;

    #[test]
    fn conditions_say_what_remains_and_keep_their_times() {
        let mut found = Findings::default();
        found.note(
            &PODS,
            &[json!({"spec": {"terminationGracePeriodSeconds": 40}}), json!({})],
            at(0),
            at(10),
        );
        found.note(&CONFIG_MAPS, &[json!({"metadata": {"finalizers": ["example.com/keep"]}})], at(0), at(10));
        assert_eq!(found.estimate, 30);
        let first = conditions(&[], &found, at(10));
        let message = |kind: &str, list: &[NamespaceCondition]| {
            let condition = list.iter().find(|condition| condition.type_ == kind).expect("is there").clone();
            (condition.status, condition.message.unwrap_or_default(), condition.last_transition_time)
        };
        assert_eq!(
            message("NamespaceContentRemaining", &first).1,
            "Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining", &first).1,
            "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances"
        );
        let second = conditions(&first, &Findings::default(), at(20));
        assert_eq!(message("NamespaceContentRemaining", &second).0, "False");
        let (status, _, since) = message("NamespaceDeletionDiscoveryFailure", &second);
        assert_eq!((status.as_str(), since), ("False", Some(Time(at(10)))));
        assert_eq!(second.len(), 5);
    }
}
