//! What a replica set needs, from what it has. No I/O, no clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::view::Replicas;
use crate::pods;

/// Pods created or deleted in one run at most (upstream's `BurstReplicas`).
pub(super) const BURST: usize = 500;

/// The next step towards the wanted number.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// `doubled` counts related pods by node; it is asked for only when pods must be chosen.
pub(super) fn plan(
    owner: &Replicas,
    active: &[Arc<Pod>],
    doubled: impl FnOnce() -> HashMap<String, usize>,
    now: Timestamp,
) -> Plan {
    let (have, want) = (active.len(), owner.wanted());
    if have < want {
        return Plan::Create((want - have).min(BURST));
    }
    if have == want {
        return Plan::Nothing;
    }
    let surplus = (have - want).min(BURST);
    let mut pods = active.to_vec();
    if surplus < have {
        let doubled = doubled();
        pods.sort_by(|a, b| pods::by_deletion_preference(a, b, &doubled, now));
    }
    pods.truncate(surplus);
    Plan::Delete(pods)
}

/// The new status, `None` when nothing changed. `failed`: what could not be done, as (surplus, message); a negative
/// surplus is a lack.
pub(super) fn status(
    owner: &Replicas,
    active: &[Arc<Pod>],
    terminating: usize,
    failed: Option<(i64, String)>,
    now: Timestamp,
) -> Option<ReplicaSetStatus> {
    let count = |matches: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| matches(pod)).count() as i32;
    let labels = owner.template_labels();
    let labelled = |pod: &Pod| {
        labels
            .into_iter()
            .flatten()
            .all(|(key, value)| pod.labels().get(key).is_some_and(|held| held == value))
    };
    let mut new = owner.status().clone();
    new.replicas = active.len() as i32;
    new.fully_labeled_replicas = Some(count(&labelled)).filter(|count| *count > 0);
    new.ready_replicas = Some(count(&|pod| pods::is_ready(pod))).filter(|count| *count > 0);
    new.available_replicas = Some(count(&|pod| pods::is_available(pod, owner.min_ready_seconds(), now)))
        .filter(|count| *count > 0);
    new.terminating_replicas = Some(terminating as i32);
    new.observed_generation = owner.meta().generation;

    let held = new.conditions.iter().flatten().any(|condition| condition.type_ == "ReplicaFailure");
    match failed {
        Some((surplus, message)) if !held => {
            let reason = if surplus < 0 { "FailedCreate" } else { "FailedDelete" };
            new.conditions.get_or_insert_default().push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            });
        }
        None if held => {
            if let Some(conditions) = &mut new.conditions {
                conditions.retain(|condition| condition.type_ != "ReplicaFailure");
            }
            new.conditions = new.conditions.filter(|conditions| !conditions.is_empty());
        }
        _ => {}
    }
    let normal = |status: &ReplicaSetStatus| {
        let mut status = status.clone();
        for count in
            [&mut status.fully_labeled_replicas, &mut status.ready_replicas, &mut status.available_replicas]
        {
            count.get_or_insert(0);
        }
        status.terminating_replicas.get_or_insert(0);
        status
    };
    (normal(&new) != normal(owner.status())).then_some(new)
}

/// When the next ready pod becomes available, for owners with `minReadySeconds`.
pub(super) fn next_availability(owner: &Replicas, active: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let min_ready = owner.min_ready_seconds();
    if min_ready == 0 {
        return None;
    }
    let soonest = active
        .iter()
        .filter_map(|pod| pods::until_available(pod, min_ready, now))
        .filter(jiff::SignedDuration::is_positive)
        .min()?;
    // whole seconds are compared: a moment later is certainly late enough
    Duration::try_from(soonest).ok().map(|wait| wait + Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    use super::*;
    use crate::testing::{at, meta, pod};

    fn set(replicas: i32, min_ready: i32, status: ReplicaSetStatus) -> Replicas {
        let spec = ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: Some(min_ready),
            selector: LabelSelector {
                match_labels: Some([("app".to_owned(), "x".to_owned())].into()),
                ..LabelSelector::default()
            },
            ..ReplicaSetSpec::default()
        };
        Replicas::of_set(Arc::new(ReplicaSet {
            metadata: meta("rs"),
            spec: Some(spec),
            status: Some(status),
        }))
    }

    fn named(names: &[&str]) -> Vec<Arc<Pod>> {
        names.iter().map(|name| Arc::new(pod(name).node("n").ready(0).build())).collect()
    }

    #[test]
    fn plans_follow_the_difference_and_the_burst() {
        let none = || HashMap::new();
        let empty = ReplicaSetStatus::default;
        assert_eq!(plan(&set(3, 0, empty()), &named(&["a"]), none, at(0)), Plan::Create(2));
        assert_eq!(plan(&set(1000, 0, empty()), &[], none, at(0)), Plan::Create(BURST));
        assert_eq!(plan(&set(1, 0, empty()), &named(&["a"]), none, at(0)), Plan::Nothing);
        let pods =
            vec![Arc::new(pod("ready").node("n").ready(0).build()), Arc::new(pod("not").node("n").build())];
        let Plan::Delete(chosen) = plan(&set(1, 0, empty()), &pods, none, at(9)) else {
            panic!("expected deletes")
        };
        assert_eq!(chosen.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), ["not"]);
        let Plan::Delete(all) = plan(&set(0, 0, empty()), &pods, || panic!("no choice to make"), at(9))
        else {
            panic!("expected deletes")
        };
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn status_counts_and_reports_failures_once() {
        let pods = vec![
            Arc::new(pod("a").label("app", "x").ready(0).build()),
            Arc::new(pod("b").label("app", "x").ready(95).build()),
            Arc::new(pod("c").build()),
        ];
        let owner = set(3, 10, ReplicaSetStatus::default());
        let first = status(&owner, &pods, 1, None, at(100)).expect("changed");
        assert_eq!(
            (first.replicas, first.ready_replicas, first.available_replicas, first.terminating_replicas),
            (3, Some(2), Some(1), Some(1))
        );
        assert_eq!(first.observed_generation, Some(1));
        assert_eq!(next_availability(&owner, &pods, at(100)), Some(Duration::from_millis(5100)));
        let owner = set(3, 10, first);
        assert_eq!(status(&owner, &pods, 1, None, at(101)), None, "nothing new");
        let failed = status(&owner, &pods, 1, Some((-2, "quota".into())), at(101)).expect("changed");
        let condition = &failed.conditions.as_ref().expect("a condition")[0];
        assert_eq!(
            (condition.reason.as_deref(), condition.message.as_deref()),
            (Some("FailedCreate"), Some("quota"))
        );
        let owner = set(3, 10, failed);
        assert_eq!(status(&owner, &pods, 1, Some((-2, "still".into())), at(102)), None);
        assert_eq!(status(&owner, &pods, 1, None, at(103)).expect("changed").conditions, None);
    }
}
