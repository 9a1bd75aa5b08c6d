//! Pods.
//!
//! Source: `pkg/registry/core/pod/strategy.go`, `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation`.

mod container;
pub(crate) mod defaults;
mod prepare;
mod print;
mod qos;
mod scheduling;
mod security;
mod update;
pub(crate) mod validation;
mod volumes;
pub(crate) mod warnings;

use apimachinery::Value;
use apimachinery::meta::{at, str_at};
use apimachinery::strategy::Resets;

use super::rules::{DEFAULT, Rules};
use crate::cursor::At;
use crate::edit::text;

/// Pods.
pub(super) const PODS: Rules = Rules {
    resets: &[
        ("status", Resets::Except(&["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"])),
        ("ephemeralcontainers", Resets::Only(&["spec.ephemeralContainers"])),
        (
            "resize",
            Resets::Only(&[
                "spec.containers.*.resources",
                "spec.containers.*.resizePolicy",
                "spec.initContainers.*.resources",
                "spec.initContainers.*.resizePolicy",
                "spec.resources",
            ]),
        ),
    ],
    generation: true,
    default: defaults::default_pod,
    defaults_depend_on: Some(&["spec"]),
    prepare_create: prepare::create,
    prepare_update: prepare::update,
    validate: |o| validation::pod(&At::root(o)),
    validate_update: update::validate,
    // people write pods, programs update them
    warnings: |o, old| if old.is_none() { warnings::of_spec(&At::root(o).get("spec")) } else { Vec::new() },
    grace: Some(grace),
    columns: print::COLUMNS,
    row: print::row,
    printed: print::PART,
    ..DEFAULT
};

/// What was asked for, else what the pod says; none for a pod no kubelet runs or that is done.
fn grace(pod: &Value, requested: Option<i64>) -> i64 {
    let own = at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    let unscheduled = str_at(pod, &["spec", "nodeName"]).is_empty();
    let done = pod
        .get("status")
        .and_then(Value::as_object)
        .is_some_and(|s| matches!(text(s, "phase"), "Failed" | "Succeeded"));
    if unscheduled || done {
        return 0;
    }
    let period = requested.or(own).unwrap_or(0);
    if period < 0 { 1 } else { period }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn grace_is_what_was_asked_for_or_the_pods_own() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        for (pod, requested, expected) in [
            (pod("n", "Running"), None, 30),
            (pod("n", "Running"), Some(5), 5),
            (pod("n", "Running"), Some(-1), 1),
            (pod("", "Pending"), Some(5), 0),
            (pod("n", "Succeeded"), None, 0),
            (json!({"spec": {"nodeName": "n"}}), None, 0),
        ] {
            assert_eq!(grace(&pod, requested), expected, "{pod} {requested:?}");
        }
    }
}
