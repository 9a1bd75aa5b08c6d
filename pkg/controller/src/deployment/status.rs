//! A Deployment's status: counts and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::sets::{self, observed};

pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub(super) fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Sets a condition, unless one of that status and reason is there already; keeps the transition time of an unchanged
/// status.
pub(super) fn set_condition(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(held) = condition(status, &new.type_) {
        if held.status == new.status && held.reason == new.reason {
            return;
        }
        if held.status == new.status {
            new.last_transition_time.clone_from(&held.last_transition_time);
        }
    }
    remove_condition(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

pub(super) fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
    status.conditions = status.conditions.take().filter(|conditions| !conditions.is_empty());
}

/// `progressDeadlineSeconds`, if there is one.
pub(super) fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(seconds.into()))
}

/// Counts over all sets, and Available.
pub(super) fn counts<'a>(
    deployment: &Deployment,
    all: impl Iterator<Item = &'a ReplicaSet> + Clone,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |value: &dyn Fn(&ReplicaSet) -> i32| all.clone().map(value).sum::<i32>();
    let available = sum(&|set| observed(set).available);
    let unavailable = (sum(&sets::replicas) - available).max(0);
    let terminating: Option<i32> = all
        .clone()
        .map(|set| observed(set).terminating)
        .try_fold(0, |total, count| count.map(|count| total + count));
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    let held = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(&|set| observed(set).replicas)),
        updated_replicas: some(new.map_or(0, |set| observed(set).replicas)),
        ready_replicas: some(sum(&|set| observed(set).ready)),
        available_replicas: some(available),
        unavailable_replicas: some(unavailable),
        terminating_replicas: terminating,
        collision_count: held.collision_count,
        conditions: held.conditions,
    };
    let enough = available >= sets::wanted(deployment) - sets::max_unavailable(deployment);
    let condition = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, new_condition("Available", condition.0, condition.1, condition.2, now));
    status
}

fn n(count: Option<i32>) -> i32 {
    count.unwrap_or(0)
}

/// All pods are of the new set, available, and no old one runs.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = sets::wanted(deployment);
    n(status.updated_replicas) == wanted
        && n(status.replicas) == wanted
        && n(status.available_replicas) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(progressing)) = (deadline(deployment), condition(status, PROGRESSING)) else {
        return false;
    };
    match progressing.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => progressing.last_update_time.as_ref().is_some_and(|at| now.duration_since(at.0) > deadline),
    }
}

/// The conditions of a rollout under way: Progressing and ReplicaFailure. `base` is the status before this run.
pub(super) fn rollout<'a>(
    deployment: &Deployment,
    base: &DeploymentStatus,
    status: &mut DeploymentStatus,
    all: impl Iterator<Item = &'a ReplicaSet> + Clone,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let current = condition(status, PROGRESSING).cloned();
    if deadline(deployment).is_none() {
        remove_condition(status, PROGRESSING);
    } else {
        let settled = n(status.replicas) == n(status.updated_replicas)
            && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
        let what = new.map_or_else(
            || format!("Deployment {:?}", deployment.name_any()),
            |set| format!("ReplicaSet {:?}", set.name_any()),
        );
        let condition = |state, reason, text: &str| {
            new_condition(PROGRESSING, state, reason, &format!("{what} {text}"), now)
        };
        if settled {
        } else if is_complete(deployment, status) {
            set_condition(status, condition("True", NEW_SET_AVAILABLE, "has successfully progressed."));
        } else if has_progressed(base, status) {
            let mut progress = condition("True", "ReplicaSetUpdated", "is progressing.");
            // always renewed, as the deadline counts from its update time
            if let Some(current) = current.filter(|current| current.status == "True") {
                progress.last_transition_time = current.last_transition_time;
            }
            remove_condition(status, PROGRESSING);
            set_condition(status, progress);
        } else if has_timed_out(deployment, status, now) {
            set_condition(status, condition("False", TIMED_OUT, "has timed out progressing."));
        }
    }
    remove_condition(status, "ReplicaFailure");
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
    };
    if let Some(failure) = new.and_then(failure).or_else(|| all.clone().find_map(failure)) {
        let held = condition(base, "ReplicaFailure");
        let unchanged = held.filter(|held| held.reason == failure.reason && held.message == failure.message);
        let now_condition = DeploymentCondition {
            type_: failure.type_,
            status: failure.status,
            reason: failure.reason,
            message: failure.message,
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time,
        };
        set_condition(status, unchanged.cloned().unwrap_or(now_condition));
    }
}

/// When to look again because nothing may happen before the progress deadline passes.
pub(super) fn look_again(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let progressing = condition(status, PROGRESSING)?;
    if is_complete(deployment, status) || progressing.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let due = progressing.last_update_time.as_ref()?.0 + deadline;
    let wait = due.duration_since(now).max(SignedDuration::ZERO) + SignedDuration::from_secs(1);
    Duration::try_from(wait).ok()
}
