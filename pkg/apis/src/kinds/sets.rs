//! Stateful sets and daemon sets. Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation`.

use apimachinery::Value;

use super::pod::defaults::default_template;
use super::print::{age, containers, labels, map, name, number, selector};
use super::rules::{DEFAULT, Rules};
use super::storage::default_claim;
use super::template;
use super::workload::{HISTORY, check_selector, check_template, immutable_selector};
use crate::cursor::{At, Errors, non_negative, one_of, same, shape};
use crate::edit::{default_text, default_to, map_or_new, maps_in, spec, text};
use crate::names;

pub(super) const STATEFUL_SETS: Rules = Rules {
    generation: true,
    default: default_stateful_set,
    defaults_depend_on: Some(&["spec"]),
    validate: |o| stateful_set(&At::root(o), true),
    validate_update: |context, new, old| match context.subresource {
        "status" => stateful_status(&At::root(new)),
        _ => {
            let (new, old) = (At::root(new), At::root(old));
            let mut errors = stateful_set(&new, false);
            errors.extend(stateful_immutable(&new, &old));
            errors
        }
    },
    warnings: |o, old| template::warnings(o, old, &["spec", "template"]),
    columns: &[
        ("Name", "string"),
        ("Ready", "string"),
        ("Age", "string"),
        ("+Containers", "string"),
        ("+Images", "string"),
    ],
    row: |o, now| {
        let ready = number(o, &["status", "readyReplicas"]);
        let [names, images] = containers(&o["spec"]["template"]["spec"]);
        let counts = format!("{ready}/{}", number(o, &["spec", "replicas"]));
        vec![name(o).into(), counts.into(), age(o, now), names, images]
    },
    ..DEFAULT
};

fn default_stateful_set(_version: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_text(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = map_or_new(spec, "updateStrategy") {
        if text(strategy, "type").is_empty() {
            strategy.insert("type".into(), "RollingUpdate".into());
            map_or_new(strategy, "rollingUpdate");
        }
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut)
        {
            default_to(rolling, "partition", 0);
        }
    }
    if let Some(retention) = map_or_new(spec, "persistentVolumeClaimRetentionPolicy") {
        default_text(retention, "whenDeleted", "Retain");
        default_text(retention, "whenScaled", "Retain");
    }
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", HISTORY);
    for claim in maps_in(spec, "volumeClaimTemplates") {
        claim.insert("apiVersion".into(), "v1".into());
        claim.insert("kind".into(), "PersistentVolumeClaim".into());
        default_claim(claim);
    }
    default_template(spec);
}

/// `new`: it is being made; an old one may have a name that is no longer allowed.
fn stateful_set(object: &At<'_>, new: bool) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    one_of(&mut errors, &spec.get("podManagementPolicy"), &["OrderedReady", "Parallel"]);
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").text() {
        "" => errors.push(strategy.get("type").required("")),
        "OnDelete" => {
            if strategy.get("rollingUpdate").present() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(strategy.get("rollingUpdate").invalid(detail));
            }
        }
        "RollingUpdate" => {
            let rolling = strategy.get("rollingUpdate");
            non_negative(&mut errors, &rolling.get("partition"));
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.present() {
                template::int_or_percent(&mut errors, &unavailable);
                if template::percent_or_int(&unavailable) == 0 {
                    errors.push(unavailable.invalid("cannot be 0"));
                }
                template::at_most_100_percent(&mut errors, &unavailable);
            }
        }
        _ => errors.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        one_of(&mut errors, &retention.get(field), &["Retain", "Delete"]);
    }
    non_negative(&mut errors, &spec.get("replicas"));
    non_negative(&mut errors, &spec.get("minReadySeconds"));
    non_negative(&mut errors, &spec.at(&["ordinals", "start"]));
    non_negative(&mut errors, &spec.get("revisionHistoryLimit"));
    if spec.get("serviceName").present() && !spec.get("serviceName").is_empty() && new {
        shape(
            &mut errors,
            &spec.get("serviceName"),
            names::dns1123_subdomain(spec.get("serviceName").text(), false),
        );
    }
    check_selector(&mut errors, &spec.get("selector"), "statefulset");
    check_template(&mut errors, &spec, "StatefulSet");
    errors
}

fn stateful_immutable(new: &At<'_>, old: &At<'_>) -> Errors {
    const MUTABLE: [&str; 8] = [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "persistentVolumeClaimRetentionPolicy",
        "revisionHistoryLimit",
        "status",
    ];
    let fixed = |object: &At<'_>| {
        let mut spec = object.get("spec").to_value();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|name, _| !MUTABLE.contains(&name.as_str()));
        }
        spec
    };
    if same(Some(&fixed(new)), Some(&fixed(old))) {
        return Vec::new();
    }
    vec![new.get("spec").forbidden(
        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
         'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
    )]
}

fn stateful_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let status = object.get("status");
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        non_negative(&mut errors, &status.get(field));
    }
    let total = status.get("replicas").int_or_zero();
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        if status.get(field).int_or_zero() > total {
            errors.push(status.get(field).invalid("cannot be greater than status.replicas"));
        }
    }
    errors
}

pub(super) const DAEMON_SETS: Rules = Rules {
    generation: true,
    default: default_daemon_set,
    defaults_depend_on: Some(&["spec"]),
    validate: |o| daemon_set(&At::root(o)),
    validate_update: |context, new, old| match context.subresource {
        "status" => daemon_status(&At::root(new)),
        _ => {
            let mut errors = daemon_set(&At::root(new));
            immutable_selector(&mut errors, new, old);
            errors
        }
    },
    warnings: |o, old| template::warnings(o, old, &["spec", "template"]),
    columns: &[
        ("Name", "string"),
        ("Desired", "integer"),
        ("Current", "integer"),
        ("Ready", "integer"),
        ("Up-to-date", "integer"),
        ("Available", "integer"),
        ("Node Selector", "string"),
        ("Age", "string"),
        ("+Containers", "string"),
        ("+Images", "string"),
        ("+Selector", "string"),
    ],
    row: |o, now| {
        let status = |field: &str| Value::from(number(o, &["status", field]));
        let [names, images] = containers(&o["spec"]["template"]["spec"]);
        vec![
            name(o).into(),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            labels(map(o, &["spec", "template", "spec", "nodeSelector"])),
            age(o, now),
            names,
            images,
            selector(o["spec"].get("selector")),
        ]
    },
    ..DEFAULT
};

fn default_daemon_set(_version: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    if let Some(strategy) = map_or_new(spec, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = map_or_new(strategy, "rollingUpdate")
        {
            default_to(rolling, "maxUnavailable", 1);
            default_to(rolling, "maxSurge", 0);
        }
    }
    default_to(spec, "revisionHistoryLimit", HISTORY);
    default_template(spec);
}

fn daemon_set(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    check_selector(&mut errors, &spec.get("selector"), "daemonset");
    check_template(&mut errors, &spec, "DaemonSet");
    non_negative(&mut errors, &spec.get("minReadySeconds"));
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.get("rollingUpdate");
            if rolling.present() {
                let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
                template::int_or_percent(&mut errors, &unavailable);
                template::int_or_percent(&mut errors, &surge);
                match (template::percent_or_int(&unavailable) != 0, template::percent_or_int(&surge) != 0) {
                    (true, true) => {
                        errors.push(surge.invalid("may not be set when maxUnavailable is non-zero"));
                    }
                    (false, false) => errors.push(unavailable.required("cannot be 0 when maxSurge is 0")),
                    _ => {}
                }
                template::at_most_100_percent(&mut errors, &unavailable);
                template::at_most_100_percent(&mut errors, &surge);
            } else {
                errors.push(rolling.required(""));
            }
        }
        _ => errors.push(strategy.get("type").not_supported(&["RollingUpdate", "OnDelete"])),
    }
    non_negative(&mut errors, &spec.get("revisionHistoryLimit"));
    errors
}

fn daemon_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
    ] {
        non_negative(&mut errors, &object.at(&["status", field]));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::workload::tests::defaulted;
    use super::*;
    use apimachinery::json;
    use apimachinery::strategy::WriteContext;

    #[test]
    fn both_have_upstreams_defaults() {
        let set = defaulted(&STATEFUL_SETS, &json!({"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}));
        let spec = &set["spec"];
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        let claim = &spec["volumeClaimTemplates"][0];
        assert_eq!(
            (&claim["kind"], &claim["status"]["phase"]),
            (&json!("PersistentVolumeClaim"), &json!("Pending"))
        );
        assert_eq!((STATEFUL_SETS.validate)(&set), []);
        let set = defaulted(&DAEMON_SETS, &json!({}));
        let rolling = json!({"maxUnavailable": 1, "maxSurge": 0});
        assert_eq!(set["spec"]["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": rolling}));
        assert_eq!((DAEMON_SETS.validate)(&set), []);
    }

    #[test]
    fn a_daemon_set_rolls_one_way() {
        for (unavailable, surge, expected) in [
            (json!(1), json!(0), None),
            (json!(0), json!("10%"), None),
            (json!(1), json!(1), Some("may not be set when maxUnavailable is non-zero")),
            (json!(0), json!(0), Some("cannot be 0 when maxSurge is 0")),
        ] {
            let rolling = json!({"maxUnavailable": unavailable, "maxSurge": surge});
            let set = defaulted(
                &DAEMON_SETS,
                &json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}),
            );
            let texts: Vec<String> = (DAEMON_SETS.validate)(&set).iter().map(ToString::to_string).collect();
            assert_eq!(texts.len(), usize::from(expected.is_some()), "{rolling} {texts:?}");
            assert!(expected.is_none_or(|e| texts[0].ends_with(e)), "{texts:?}");
        }
    }

    #[test]
    fn a_stateful_set_changes_in_few_fields() {
        let context = WriteContext {
            now: jiff::Timestamp::UNIX_EPOCH,
            user: "u",
            groups: &[],
            subresource: "",
            group: "",
        };
        let old = defaulted(&STATEFUL_SETS, &json!({"serviceName": "s"}));
        for (patch, fine) in [
            (json!({"serviceName": "s", "replicas": 5}), true),
            (json!({"serviceName": "other"}), false),
            (json!({"serviceName": "s", "podManagementPolicy": "Parallel"}), false),
        ] {
            let new = defaulted(&STATEFUL_SETS, &patch);
            assert_eq!((STATEFUL_SETS.validate_update)(&context, &new, &old).is_empty(), fine, "{patch}");
        }
    }
}
