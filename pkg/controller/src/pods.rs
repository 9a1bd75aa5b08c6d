//! What controllers need to know of pods: their state, their order for deletion, and how to make one of a template.

use std::cmp::Ordering;
use std::collections::HashMap;

use client::Informer;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::owner::controller_of;

/// Index of pods by the uid of their controller, or by `/NAMESPACE` for those without one.
pub(crate) const BY_CONTROLLER: &str = "controller";

/// Adds [`BY_CONTROLLER`]; every controller that needs it asks for it.
pub(crate) fn index_by_controller(pods: &Informer<Pod>) {
    pods.add_index(BY_CONTROLLER, |pod| {
        vec![match controller_of(&pod.metadata) {
            Some(owner) => owner.uid.clone(),
            None => orphans_of(pod.metadata.namespace.as_deref().unwrap_or("")),
        }]
    });
}

/// The value of [`BY_CONTROLLER`] for pods of a namespace that nobody controls. No uid begins with a slash.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("/{namespace}")
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready; `None` when it is not, or does not say.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready")?;
    (ready.status == "True").then(|| ready.last_transition_time.as_ref().map(|time| time.0)).flatten()
}

/// How long until a pod counts as available: ready for `min_ready` seconds. Zero when it does, `None` when it is not
/// ready.
pub(crate) fn until_available(pod: &Pod, min_ready: i32, now: Timestamp) -> Option<SignedDuration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready == 0 {
        return Some(SignedDuration::ZERO);
    }
    let due = ready_since(pod)? + SignedDuration::from_secs(min_ready.into());
    Some(due.duration_since(now).max(SignedDuration::ZERO))
}

pub(crate) fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    until_available(pod, min_ready, now).is_some_and(|wait| wait.is_zero())
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// `controller.kubernetes.io/pod-deletion-cost`; zero when absent or malformed.
fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations()
        .get("controller.kubernetes.io/pod-deletion-cost")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Restarts of the container that restarted most: sidecars apart from the others.
fn max_restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let regular = status.container_statuses.iter().flatten().map(|c| c.restart_count).max().unwrap_or(0);
    let sidecars: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let sidecar = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(|c| sidecars.contains(&c.name.as_str()))
        .map(|c| c.restart_count)
        .max()
        .unwrap_or(0);
    (regular, sidecar)
}

/// Ages are compared by powers of two, so that among pods of about one age chance decides and not the rollout's order.
fn age_rank(at: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(at) = at else { return -1 };
    let nanoseconds = now.duration_since(at).as_nanos();
    if nanoseconds <= 0 { -1 } else { i64::from(nanoseconds.ilog2()) }
}

/// Orders pods so that those best deleted come first (upstream's `ActivePodsWithRanks`). `doubled` is the number of
/// related pods on each node.
pub(crate) fn by_deletion_preference(
    a: &Pod,
    b: &Pod,
    doubled: &HashMap<String, usize>,
    now: Timestamp,
) -> Ordering {
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let rank = |pod: &Pod| doubled.get(node_name(pod)).copied().unwrap_or(0);
    let (ready_a, ready_b) = (is_ready(a), is_ready(b));
    (!node_name(a).is_empty())
        .cmp(&!node_name(b).is_empty())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| ready_a.cmp(&ready_b))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| {
            if ready_a && ready_b {
                let (a, b) = (age_rank(ready_since(a), now), age_rank(ready_since(b), now));
                return a.cmp(&b);
            }
            Ordering::Equal
        })
        .then_with(|| max_restarts(b).cmp(&max_restarts(a)))
        .then_with(|| age_rank(created(a), now).cmp(&age_rank(created(b), now)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// A pod of a template, as controllers create it: named after its controller, owned by it.
pub(crate) fn from_template(template: &PodTemplateSpec, owner: &OwnerReference) -> Value {
    let meta = template.metadata.as_ref();
    let mut metadata = json!({
        "generateName": generate_name(&owner.name),
        "ownerReferences": [owner],
    });
    if let Some(labels) = meta.and_then(|meta| meta.labels.as_ref()) {
        metadata["labels"] = json!(labels);
    }
    if let Some(annotations) = meta.and_then(|meta| meta.annotations.as_ref()) {
        metadata["annotations"] = json!(annotations);
    }
    if let Some(finalizers) = meta.and_then(|meta| meta.finalizers.as_ref()) {
        metadata["finalizers"] = json!(finalizers);
    }
    json!({"metadata": metadata, "spec": template.spec})
}

/// `NAME-`, or `NAME` where the dash would not leave a valid prefix.
pub(crate) fn generate_name(controller: &str) -> String {
    const LONGEST_PREFIX: usize = 252;
    if controller.len() > LONGEST_PREFIX { controller.to_owned() } else { format!("{controller}-") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn availability_is_readiness_for_long_enough() {
        let cases = [
            (pod("a"), 0, None),
            (pod("a").ready(10), 0, Some(0)),
            (pod("a").ready(10), 5, Some(0)),
            (pod("a").ready(18), 5, Some(3)),
        ];
        for (pod, min_ready, expected) in cases {
            let wait = until_available(&pod.build(), min_ready, at(20)).map(|wait| wait.as_secs());
            assert_eq!(wait, expected);
        }
    }

    #[test]
    fn pods_are_deleted_in_upstreams_order() {
        let doubled = HashMap::from([("busy".to_owned(), 3), ("n".to_owned(), 1)]);
        // each pod is to go before the next
        let order: Vec<Pod> = vec![
            pod("unassigned").phase("Pending"),
            pod("pending").node("n").phase("Pending"),
            pod("unready").node("n"),
            pod("cheap").node("n").ready(0).annotation("controller.kubernetes.io/pod-deletion-cost", "-1"),
            pod("doubled").node("busy").ready(0),
            pod("recently-ready").node("n").ready(90),
            pod("restarting").node("n").ready(0).restarts(4),
            pod("young").node("n").ready(0).created(90),
            pod("old").node("n").ready(0).created(0),
        ]
        .into_iter()
        .map(crate::testing::PodBuilder::build)
        .collect();
        for (i, a) in order.iter().enumerate() {
            for b in &order[i + 1..] {
                let names = (a.name_any(), b.name_any());
                assert_eq!(by_deletion_preference(a, b, &doubled, at(100)), Ordering::Less, "{names:?}");
                assert_eq!(by_deletion_preference(b, a, &doubled, at(100)), Ordering::Greater, "{names:?}");
            }
        }
    }
}
