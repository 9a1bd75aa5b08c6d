//! The disruption controller: how many pods of each PodDisruptionBudget may be evicted now.
//!
//! Behaviour after upstream's `pkg/controller/disruption`. The eviction subresource counts down `disruptionsAllowed` and
//! notes the pod in `disruptedPods`; this controller recounts and drops notes that came true or too old.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::events::{EventRecorder, EventType, reference};
use client::rest::{ResourceId, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::SelectorExt as _;
use serde_json::Value;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::owner::{controller_of, selector};
use crate::pods;
use crate::resources::{BUDGETS, DEPLOYMENTS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS};

/// An eviction that was allowed and did not happen within this time is counted back.
const EVICTION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

struct Controller {
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("disruption");
    let budgets = context.informer::<PodDisruptionBudget>();
    let pods = context.informer::<Pod>();
    let adds = queue.clone();
    budgets.on_event(move |event| adds.add(Key::of(&**event.object())));
    let (adds, store) = (queue.clone(), budgets.store());
    pods.on_event(move |event| {
        let pods: Vec<&Pod> = match &event {
            Event::Added(pod) | Event::Deleted(pod) => vec![pod],
            Event::Updated { old, new } => vec![old, new],
        };
        for budget in store.list_in(pods[0].metadata.namespace.as_deref().unwrap_or("")) {
            if pods.iter().any(|pod| covers(&budget, pod)) {
                adds.add(Key::of(&*budget));
            }
        }
    });
    let controller = Controller {
        budgets: budgets.store(),
        pods: pods.store(),
        rest: context.rest("disruption-controller"),
        recorder: context.recorder("controllermanager"),
    };
    context.work("disruption-controller", &queue, 1, Arc::new(controller));
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
    selector.is_some_and(|selector| selector.matches(pod.labels()))
}

/// The scale of what controls the covered pods.
struct Scales {
    /// Pods that should exist, over all controllers.
    wanted: i32,
}

/// (expected, needed healthy) of a budget. Percentages are of what should exist, rounded up.
fn needs(budget: &PodDisruptionBudget, covered: i32, scales: Option<&Scales>) -> (i32, i32) {
    let percent = |text: &str, of: i32| {
        let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
        i32::try_from((percent * i64::from(of) + 99).div_euclid(100)).unwrap_or(i32::MAX)
    };
    let wanted = scales.map_or(covered, |scales| scales.wanted);
    let spec = budget.spec.as_ref();
    if let Some(most) = spec.and_then(|spec| spec.max_unavailable.as_ref()) {
        let most = match most {
            IntOrString::Int(number) => *number,
            IntOrString::String(text) => percent(text, wanted),
        };
        return (wanted, (wanted - most).max(0));
    }
    match spec.and_then(|spec| spec.min_available.as_ref()) {
        None => (covered, 0),
        Some(IntOrString::Int(number)) => (covered, *number),
        Some(IntOrString::String(text)) => (wanted, percent(text, wanted)),
    }
}

/// Whether a budget's numbers depend on what should exist, and not only on what does.
fn needs_scales(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    let percentage = |value: Option<&IntOrString>| matches!(value, Some(IntOrString::String(_)));
    spec.is_some_and(|spec| spec.max_unavailable.is_some())
        || percentage(spec.and_then(|s| s.min_available.as_ref()))
}

/// Drops notes of evictions that are done or overdue; (notes kept, when the next is overdue).
fn pending(
    held: &BTreeMap<String, Time>,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<SignedDuration>) {
    let mut kept = BTreeMap::new();
    let mut next: Option<SignedDuration> = None;
    for pod in pods {
        let name = pod.name_any();
        let Some(at) = held.get(&name) else { continue };
        let left = (at.0 + EVICTION_TIMEOUT).duration_since(now);
        if pods::is_terminating(pod) || left <= SignedDuration::ZERO {
            continue;
        }
        next = Some(next.map_or(left, |next| next.min(left)));
        kept.insert(name, at.clone());
    }
    (kept, next)
}

fn condition(held: &[Condition], allowed: i32, generation: Option<i64>, now: Timestamp) -> Condition {
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let since = held.iter().find(|c| c.type_ == "DisruptionAllowed" && c.status == status);
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: since.map_or(Time(now), |held| held.last_transition_time.clone()),
    }
}

/// The budget's status; and when an eviction under way is overdue.
fn decide(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scales: Option<&Scales>,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<SignedDuration>) {
    let held = budget.status.clone().unwrap_or_default();
    let (disrupted, next) = pending(&held.disrupted_pods.clone().unwrap_or_default(), pods, now);
    let healthy = pods
        .iter()
        .filter(|pod| {
            !pods::is_terminating(pod) && pods::is_ready(pod) && !disrupted.contains_key(&pod.name_any())
        })
        .count() as i32;
    let (expected, needed) = needs(budget, pods.len() as i32, scales);
    let allowed = if expected <= 0 { 0 } else { (healthy - needed).max(0) };
    let mut conditions: Vec<Condition> = held.conditions.clone().unwrap_or_default();
    let new = condition(&conditions, allowed, budget.metadata.generation, now);
    conditions.retain(|condition| condition.type_ != new.type_);
    conditions.push(new);
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(needed),
        disrupted_pods: Some(disrupted).filter(|map| !map.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    (status, next)
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| covers(&budget, pod) && !pods::is_finished(pod));
        let about = reference(&*budget);
        if pods.is_empty() {
            self.recorder.event(&about, EventType::Normal, "NoPods", "", "No matching pods found");
        }
        let scales = if needs_scales(&budget) {
            match self.scales(&key.namespace, &pods).await {
                Ok(scales) => Some(scales),
                Err(error) => {
                    let note = format!("Failed to calculate the number of expected pods: {error}");
                    self.recorder.event(
                        &about,
                        EventType::Warning,
                        "CalculateExpectedPodCountFailed",
                        "",
                        note,
                    );
                    return self.fail_safe(&budget, &error).await;
                }
            }
        } else {
            None
        };
        let (status, next) = decide(&budget, &pods, scales.as_ref(), Timestamp::now());
        if budget.status.as_ref() != Some(&status) {
            self.write(&budget, status).await?;
        }
        Ok(next.and_then(|wait| Duration::try_from(wait).ok()).map_or(Next::OnChange, Next::After))
    }

    /// Unknown numbers allow no eviction.
    async fn fail_safe(&self, budget: &PodDisruptionBudget, error: &SyncError) -> SyncResult {
        let mut status = budget.status.clone().unwrap_or_default();
        status.disruptions_allowed = Some(0);
        let mut new = condition(&[], 0, budget.metadata.generation, Timestamp::now());
        new.reason = "SyncFailed".into();
        new.message = error.to_string();
        let conditions = status.conditions.get_or_insert_default();
        if let Some(held) = conditions.iter().find(|c| c.type_ == new.type_ && c.status == new.status) {
            new.last_transition_time = held.last_transition_time.clone();
        }
        conditions.retain(|condition| condition.type_ != new.type_);
        conditions.push(new);
        if budget.status.as_ref() != Some(&status) {
            self.write(budget, status).await?;
        }
        Err(SyncError::other(error.to_string()))
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), SyncError> {
        let changed = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        match self.rest.update(&BUDGETS, "status", &changed).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Adds up what the pods' controllers want, each controller once.
    async fn scales(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<Scales, SyncError> {
        let mut wanted: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                let name = pod.name_any();
                return Err(SyncError::other(format!("found no controller ref for pod {name:?}")));
            };
            if wanted.contains_key(&owner.uid) {
                continue;
            }
            let resource = match owner.kind.as_str() {
                "ReplicaSet" => REPLICA_SETS,
                "ReplicationController" => REPLICATION_CONTROLLERS,
                "StatefulSet" => STATEFUL_SETS,
                kind => {
                    return Err(SyncError::other(format!(
                        "found no controllers for pod {:?}: {kind}",
                        pod.name_any()
                    )));
                }
            };
            let (uid, replicas) = self.scale_of(&resource, namespace, &owner.name).await?;
            wanted.insert(uid, replicas);
        }
        Ok(Scales { wanted: wanted.values().sum() })
    }

    /// The uid and size of a controller; a ReplicaSet's Deployment stands for it.
    async fn scale_of(
        &self,
        resource: &ResourceId,
        namespace: &str,
        name: &str,
    ) -> Result<(String, i32), SyncError> {
        let mut object = self.rest.get(resource, namespace, name).await?;
        let parent =
            object.pointer("/metadata/ownerReferences").and_then(Value::as_array).and_then(|owners| {
                let parent = owners
                    .iter()
                    .find(|owner| owner["controller"] == true && owner["kind"] == "Deployment")?;
                parent["name"].as_str().map(str::to_owned)
            });
        if let Some(parent) = parent {
            object = self.rest.get(&DEPLOYMENTS, namespace, &parent).await?;
        }
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or("").to_owned();
        let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        Ok((uid, i32::try_from(replicas).unwrap_or(i32::MAX)))
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{at, pod, time};

    fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
        let object = json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": {
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0, "disruptedPods": disrupted}});
        serde_json::from_value(object).expect("a budget")
    }

    #[test]
    fn allowed_disruptions_follow_the_budget() {
        let pods: Vec<Arc<Pod>> = (0..4).map(|n| Arc::new(pod(&format!("p{n}")).ready(0).build())).collect();
        // (budget, ready pods, wanted by controllers): (expected, needed, allowed)
        let cases = [
            (json!({"minAvailable": 3}), 4, None, (4, 3, 1)),
            (json!({"minAvailable": 5}), 4, None, (4, 5, 0)),
            (json!({"minAvailable": "50%"}), 4, Some(5), (5, 3, 1)),
            (json!({"maxUnavailable": 1}), 4, Some(4), (4, 3, 1)),
            (json!({"maxUnavailable": 1}), 3, Some(4), (4, 3, 0)),
            (json!({"maxUnavailable": "30%"}), 4, Some(4), (4, 2, 2)),
            (json!({"minAvailable": 0}), 0, None, (0, 0, 0)),
        ];
        for (spec, ready, wanted, expected) in cases {
            let scales = wanted.map(|wanted| Scales { wanted });
            let (status, _) =
                decide(&budget(spec.clone(), json!({})), &pods[..ready], scales.as_ref(), at(0));
            assert_eq!(
                (status.expected_pods, status.desired_healthy, status.disruptions_allowed),
                (Some(expected.0), Some(expected.1), Some(expected.2)),
                "{spec}"
            );
            let reason = &status.conditions.expect("a condition")[0].reason;
            assert_eq!(reason, if expected.2 > 0 { "SufficientPods" } else { "InsufficientPods" });
        }
    }

    #[test]
    fn evictions_under_way_count_until_they_are_overdue() {
        let pods: Vec<Arc<Pod>> = (0..3).map(|n| Arc::new(pod(&format!("p{n}")).ready(0).build())).collect();
        let budget =
            budget(json!({"minAvailable": 1}), json!({"p0": time(0), "p1": time(60), "gone": time(60)}));
        let (status, next) = decide(&budget, &pods, None, at(100));
        assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!(status.disrupted_pods.map(|map| map.len()), Some(2));
        assert_eq!(next, Some(SignedDuration::from_secs(20)));
        let (later, _) = decide(&budget, &pods, None, at(150));
        assert_eq!(later.current_healthy, Some(2));
    }
}
