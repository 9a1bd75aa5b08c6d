//! Facts about a Deployment's replica sets: which is the new one, revisions, sizes, the annotations they carry.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::hash::template_hash;
use crate::owner::controller_reference;
use crate::resources::DEPLOYMENTS;

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that a Deployment keeps for itself.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// Longest list of past revisions kept on a set, in characters.
const MAX_HISTORY: usize = 2000;

pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub(super) fn set_replicas(set: &mut ReplicaSet, count: i32) {
    set.spec.get_or_insert_default().replicas = Some(count);
}

/// What the set's status says.
pub(super) struct Observed {
    pub(super) replicas: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    pub(super) terminating: Option<i32>,
}

pub(super) fn observed(set: &ReplicaSet) -> Observed {
    let status = set.status.as_ref();
    Observed {
        replicas: status.map_or(0, |s| s.replicas),
        ready: status.and_then(|s| s.ready_replicas).unwrap_or(0),
        available: status.and_then(|s| s.available_replicas).unwrap_or(0),
        terminating: status.and_then(|s| s.terminating_replicas),
    }
}

pub(super) fn template(deployment: &Deployment) -> PodTemplateSpec {
    deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
}

/// Whether a set was made of the Deployment's present template; the hash label does not count.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let plain = |mut template: PodTemplateSpec| {
        if let Some(meta) = &mut template.metadata {
            if let Some(labels) = &mut meta.labels {
                labels.remove(HASH_LABEL);
            }
            meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
            meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
            meta.creation_timestamp = None;
        }
        template.metadata = template.metadata.filter(|meta| *meta != ObjectMeta::default());
        template
    };
    let held = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    plain(template(deployment)) == plain(held)
}

/// Older sets first.
pub(super) fn by_creation(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    let key = |set: &ReplicaSet| {
        (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone())
    };
    key(a).cmp(&key(b))
}

/// Lower revisions first.
pub(super) fn by_revision(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    revision(a).cmp(&revision(b)).then_with(|| by_creation(a, b))
}

/// The revision a set carries; 0 without one.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.annotations().get(annotation)?.parse().ok()
}

/// The Deployment's size when the set was last scaled.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED)
}

/// The Deployment's size with surge when the set was last scaled.
pub(super) fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    number(set, MAX)
}

fn annotate(set: &mut ReplicaSet, key: &str, value: String) -> bool {
    set.annotations_mut().insert(key.to_owned(), value.clone()) != Some(value)
}

/// Notes on a set the size it is part of.
pub(super) fn annotate_size(set: &mut ReplicaSet, desired: i32, max: i32) {
    annotate(set, DESIRED, desired.to_string());
    annotate(set, MAX, max.to_string());
}

/// Gives the new set its revision and the Deployment's annotations.
pub(super) fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) {
    for (key, value) in deployment.annotations() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotate(set, key, value.clone());
        }
    }
    let held = set.annotations().get(REVISION).cloned();
    let held_number: i64 = held.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
    if held_number >= revision {
        return;
    }
    annotate(set, REVISION, revision.to_string());
    // a set that becomes the new one again remembers which revisions it was
    if let Some(held) = held {
        let past = set.annotations().get(REVISION_HISTORY).cloned().unwrap_or_default();
        let mut revisions: Vec<String> =
            past.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
        revisions.push(held);
        while revisions.len() > 1 && revisions.join(",").len() > MAX_HISTORY {
            revisions.remove(0);
        }
        annotate(set, REVISION_HISTORY, revisions.join(","));
    }
}

/// Resolves a number or a percentage of `total`.
fn resolve(value: Option<&IntOrString>, default: &str, total: i32, round_up: bool) -> i32 {
    let percent = |text: &str| {
        let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let product = percent * i64::from(total);
        let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
        i32::try_from(scaled).unwrap_or(i32::MAX)
    };
    match value {
        None => percent(default),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => percent(text),
    }
}

/// (maxSurge, maxUnavailable) as numbers of pods; zero for both would never move, so one may be unavailable then.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
    let total = wanted(deployment);
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), "25%", total, true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), "25%", total, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.type_.as_deref());
    strategy == Some("Recreate")
}

/// Pods above the wanted number that a rolling update may have.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { fenceposts(deployment).0 }
}

/// Pods below the wanted number that a rolling update may leave available.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let wanted = wanted(deployment);
    if is_recreate(deployment) || wanted == 0 { 0 } else { fenceposts(deployment).1.min(wanted) }
}

/// A new set for the Deployment's present template, without size.
pub(super) fn make(deployment: &Deployment) -> ReplicaSet {
    let mut template = template(deployment);
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&template, collisions);
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let labels: Option<BTreeMap<String, String>> = meta.labels.clone();
    let mut selector: LabelSelector =
        deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![controller_reference(&DEPLOYMENTS, &deployment.metadata)]),
            ..ObjectMeta::default()
        },
        ..ReplicaSet::default()
    };
    let spec = set.spec.get_or_insert_default();
    spec.min_ready_seconds = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    spec.selector = selector;
    spec.template = Some(template);
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};

    #[test]
    fn fenceposts_round_surge_up_and_unavailability_down() {
        let percent = |text: &str| Some(IntOrString::String(text.into()));
        let number = |n| Some(IntOrString::Int(n));
        let cases = [
            (10, None, None, (3, 2)),
            (1, None, None, (1, 0)),
            (10, number(0), percent("0%"), (0, 1)),
            (4, percent("50%"), percent("50%"), (2, 2)),
            (3, number(5), number(9), (5, 9)),
        ];
        for (replicas, surge, unavailable, expected) in cases {
            let deployment = Deployment {
                spec: Some(DeploymentSpec {
                    replicas: Some(replicas),
                    strategy: Some(DeploymentStrategy {
                        rolling_update: Some(RollingUpdateDeployment {
                            max_surge: surge,
                            max_unavailable: unavailable,
                        }),
                        ..DeploymentStrategy::default()
                    }),
                    ..DeploymentSpec::default()
                }),
                ..Deployment::default()
            };
            assert_eq!(fenceposts(&deployment), expected);
            assert!(max_unavailable(&deployment) <= replicas);
        }
    }

    #[test]
    fn a_set_that_returns_remembers_its_revisions() {
        let mut set = ReplicaSet::default();
        let mut deployment = Deployment::default();
        deployment.annotations_mut().insert("kubernetes.io/change-cause".into(), "why".into());
        deployment.annotations_mut().insert(REVISION.into(), "9".into());
        annotate_new(&deployment, &mut set, 1);
        annotate_new(&deployment, &mut set, 3);
        annotate_new(&deployment, &mut set, 3);
        annotate_new(&deployment, &mut set, 5);
        assert_eq!(set.annotations()[REVISION], "5");
        assert_eq!(set.annotations()[REVISION_HISTORY], "1,3");
        assert_eq!(set.annotations()["kubernetes.io/change-cause"], "why");
    }
}
