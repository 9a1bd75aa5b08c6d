//! Workloads: deployments, replica sets, stateful sets, daemon sets, replication controllers, their revisions and pod
//! templates.
//!
//! Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation`, `pkg/registry/apps`.

use apimachinery::Value;
use apimachinery::json;
use apimachinery::status::FieldError;
use apimachinery::strategy::{Resets, WriteContext};
use jiff::Timestamp;

use super::print::{age, containers, int_or_string, labels, map, name, number, selector};
use super::rules::{DEFAULT, Rules};
use super::template;
use crate::cursor::{At, Errors, immutable, non_negative};
use crate::edit::{default_text, default_to, map_or_new, spec, text};
use crate::kinds::pod::defaults::default_template;

/// Revisions kept by default.
pub(super) const HISTORY: i64 = 10;

pub(super) const DEPLOYMENTS: Rules = Rules {
    resets: &[("status", Resets::Except(&["spec", "metadata.labels"]))],
    generation: true,
    default: default_deployment,
    defaults_depend_on: Some(&["spec"]),
    validate: |o| deployment(&At::root(o)),
    validate_update: |context, new, old| match context.subresource {
        "status" => deployment_status(&At::root(new)),
        _ => {
            let mut errors = deployment(&At::root(new));
            immutable_selector(&mut errors, new, old);
            errors
        }
    },
    warnings: |o, old| template::warnings(o, old, &["spec", "template"]),
    columns: &[
        ("Name", "string"),
        ("Ready", "string"),
        ("Up-to-date", "integer"),
        ("Available", "integer"),
        ("Age", "string"),
        ("+Containers", "string"),
        ("+Images", "string"),
        ("+Selector", "string"),
    ],
    row: |o, now| {
        let ready = number(o, &["status", "readyReplicas"]);
        let [names, images] = containers(&o["spec"]["template"]["spec"]);
        vec![
            name(o).into(),
            format!("{ready}/{}", number(o, &["spec", "replicas"])).into(),
            number(o, &["status", "updatedReplicas"]).into(),
            number(o, &["status", "availableReplicas"]).into(),
            age(o, now),
            names,
            images,
            selector(o["spec"].get("selector")),
        ]
    },
    ..DEFAULT
};

fn default_deployment(_version: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", HISTORY);
    default_to(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = map_or_new(spec, "strategy") {
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = map_or_new(strategy, "rollingUpdate")
        {
            default_to(rolling, "maxUnavailable", "25%");
            default_to(rolling, "maxSurge", "25%");
        }
    }
    default_template(spec);
}

fn deployment(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    non_negative(&mut errors, &spec.get("replicas"));
    check_selector(&mut errors, &spec.get("selector"), "deployment");
    check_template(&mut errors, &spec, "ReplicaSet");
    rolling_strategy(&mut errors, &spec.get("strategy"));
    non_negative(&mut errors, &spec.get("minReadySeconds"));
    non_negative(&mut errors, &spec.get("revisionHistoryLimit"));
    let (deadline, ready) = (spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds").int_or_zero());
    non_negative(&mut errors, &deadline);
    if deadline.int().is_some_and(|d| d <= ready) {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
    errors
}

fn rolling_strategy(errors: &mut Errors, strategy: &At<'_>) {
    match strategy.get("type").text() {
        "Recreate" => {
            if strategy.get("rollingUpdate").present() {
                errors.push(
                    strategy
                        .get("rollingUpdate")
                        .forbidden("may not be specified when strategy `type` is 'Recreate'"),
                );
            }
        }
        "RollingUpdate" => {
            let rolling = strategy.get("rollingUpdate");
            if !rolling.present() {
                errors.push(rolling.required("this should be defaulted and never be nil"));
                return;
            }
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            template::int_or_percent(errors, &unavailable);
            template::int_or_percent(errors, &surge);
            if template::percent_or_int(&unavailable) == 0 && template::percent_or_int(&surge) == 0 {
                errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
            }
            template::at_most_100_percent(errors, &unavailable);
        }
        _ => errors.push(strategy.get("type").not_supported(&["Recreate", "RollingUpdate"])),
    }
}

fn deployment_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let status = object.get("status");
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
    ] {
        non_negative(&mut errors, &status.get(field));
    }
    let total = status.get("replicas").int_or_zero();
    for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        if status.get(field).int_or_zero() > total {
            errors.push(status.get(field).invalid("cannot be greater than status.replicas"));
        }
    }
    if status.get("availableReplicas").int_or_zero() > status.get("readyReplicas").int_or_zero() {
        errors.push(status.get("availableReplicas").invalid("cannot be greater than readyReplicas"));
    }
    errors
}

pub(super) fn immutable_selector(errors: &mut Errors, new: &Value, old: &Value) {
    let path = ["spec", "selector"];
    immutable(errors, &At::root(new).at(&path), &At::root(old).at(&path));
}

/// A selector is required and selects something.
pub(super) fn check_selector(errors: &mut Errors, selector: &At<'_>, kind: &str) {
    if !selector.present() {
        errors.push(selector.required(""));
        return;
    }
    errors.extend(apimachinery::objectmeta::label_selector(selector.value(), &selector.path()));
    if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
        errors.push(selector.invalid(format!("empty selector is invalid for {kind}")));
    }
}

/// The template's labels match the selector, and its pods are restarted always.
pub(super) fn check_template(errors: &mut Errors, spec: &At<'_>, kind: &str) {
    let template = spec.get("template");
    let matches = template::selects(&spec.get("selector"), &template);
    if spec.get("selector").present() && !matches {
        let found = template.at(&["metadata", "labels"]);
        errors.push(found.invalid("`selector` does not match template `labels`"));
    }
    template::validate(errors, &template);
    let restart = template.at(&["spec", "restartPolicy"]);
    if restart.text() != "Always" {
        errors.push(restart.not_supported(&["Always"]));
    }
    if template.at(&["spec", "activeDeadlineSeconds"]).present() {
        let deadline = template.at(&["spec", "activeDeadlineSeconds"]);
        errors.push(deadline.forbidden(&format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

pub(super) const REPLICA_SETS: Rules = Rules {
    generation: true,
    default: |_, o| {
        if let Some(spec) = spec(o) {
            default_to(spec, "replicas", 1);
            default_template(spec);
        }
    },
    validate: |o| replica_set(&At::root(o)),
    validate_update: |context, new, old| match context.subresource {
        "status" => replica_status(&At::root(new)),
        _ => {
            let mut errors = replica_set(&At::root(new));
            immutable_selector(&mut errors, new, old);
            errors
        }
    },
    warnings: |o, old| template::warnings(o, old, &["spec", "template"]),
    columns: REPLICA_COLUMNS,
    row: |o, now| replica_row(o, now, selector(o["spec"].get("selector"))),
    ..DEFAULT
};

const REPLICA_COLUMNS: &[(&str, &str)] = &[
    ("Name", "string"),
    ("Desired", "integer"),
    ("Current", "integer"),
    ("Ready", "integer"),
    ("Age", "string"),
    ("+Containers", "string"),
    ("+Images", "string"),
    ("+Selector", "string"),
];

fn replica_row(object: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let [names, images] = containers(&object["spec"]["template"]["spec"]);
    vec![
        name(object).into(),
        number(object, &["spec", "replicas"]).into(),
        number(object, &["status", "replicas"]).into(),
        number(object, &["status", "readyReplicas"]).into(),
        age(object, now),
        names,
        images,
        selector,
    ]
}

fn replica_set(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    non_negative(&mut errors, &spec.get("replicas"));
    non_negative(&mut errors, &spec.get("minReadySeconds"));
    // upstream says deployment here as well
    check_selector(&mut errors, &spec.get("selector"), "deployment");
    check_template(&mut errors, &spec, "ReplicaSet");
    errors
}

fn replica_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let status = object.get("status");
    for field in
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]
    {
        non_negative(&mut errors, &status.get(field));
    }
    let total = status.get("replicas").int_or_zero();
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if status.get(field).int_or_zero() > total {
            errors.push(status.get(field).invalid("cannot be greater than status.replicas"));
        }
    }
    if status.get("availableReplicas").int_or_zero() > status.get("readyReplicas").int_or_zero() {
        errors.push(status.get("availableReplicas").invalid("cannot be greater than readyReplicas"));
    }
    errors
}

pub(super) const REPLICATION_CONTROLLERS: Rules = Rules {
    generation: true,
    default: default_controller,
    validate: |o| replication_controller(&At::root(o)),
    validate_update: |context, new, _| match context.subresource {
        "status" => replica_status(&At::root(new)),
        _ => replication_controller(&At::root(new)),
    },
    warnings: |o, old| template::warnings(o, old, &["spec", "template"]),
    orphan: true,
    columns: REPLICA_COLUMNS,
    row: |o, now| replica_row(o, now, labels(map(o, &["spec", "selector"]))),
    ..DEFAULT
};

fn default_controller(_version: &str, object: &mut Value) {
    let template_labels = object.pointer("/spec/template/metadata/labels").cloned();
    if let Some(labels) = template_labels.filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
        && let Some(map) = object.as_object_mut()
    {
        let empty = |v: Option<&Value>| v.and_then(Value::as_object).is_none_or(apimachinery::Map::is_empty);
        if let Some(metadata) = map_or_new(map, "metadata")
            && empty(metadata.get("labels"))
        {
            metadata.insert("labels".into(), labels.clone());
        }
        if let Some(spec) = map_or_new(map, "spec")
            && empty(spec.get("selector"))
        {
            spec.insert("selector".into(), labels);
        }
    }
    if let Some(spec) = spec(object) {
        default_to(spec, "replicas", 1);
        if spec.contains_key("template") {
            default_template(spec);
        }
    }
}

fn replication_controller(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    non_negative(&mut errors, &spec.get("minReadySeconds"));
    if spec.get("selector").is_empty() {
        errors.push(spec.get("selector").required(""));
    }
    non_negative(&mut errors, &spec.get("replicas"));
    let template = spec.get("template");
    if !template.present() {
        errors.push(template.required(""));
        return errors;
    }
    let labels = template.at(&["metadata", "labels"]);
    let selected =
        spec.get("selector").entries().all(|(key, value)| labels.key(key).value() == value.value());
    if !selected {
        errors.push(labels.invalid("`selector` does not match template `labels`"));
    }
    template::validate(&mut errors, &template);
    let restart = template.at(&["spec", "restartPolicy"]);
    if restart.text() != "Always" {
        errors.push(restart.not_supported(&["Always"]));
    }
    errors
}

pub(super) const POD_TEMPLATES: Rules = Rules {
    generation: true,
    default: |_, o| {
        if let Some(map) = o.as_object_mut() {
            default_template(map);
        }
    },
    validate: pod_template,
    validate_update: |_, new, _| pod_template(new),
    warnings: |o, old| template::warnings(o, old, &["template"]),
    columns: &[("Name", "string"), ("Containers", "string"), ("Images", "string"), ("Pod Labels", "string")],
    row: |o, _| {
        let [names, images] = containers(&o["template"]["spec"]);
        vec![name(o).into(), names, images, labels(map(o, &["template", "metadata", "labels"]))]
    },
    ..DEFAULT
};

fn pod_template(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    template::validate(&mut errors, &At::root(object).get("template"));
    errors
}

pub(super) const CONTROLLER_REVISIONS: Rules = Rules {
    validate: |o| controller_revision(&At::root(o)),
    validate_update: |_: &WriteContext<'_>, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        let mut errors = controller_revision(&new);
        immutable(&mut errors, &new.get("data"), &old.get("data"));
        errors
    },
    columns: &[("Name", "string"), ("Controller", "string"), ("Revision", "string"), ("Age", "string")],
    row: |o, now| {
        let owner = super::print::list(o, &["metadata", "ownerReferences"])
            .iter()
            .find(|r| r["controller"] == json!(true))
            .map_or_else(|| "<none>".into(), owner_text);
        vec![name(o).into(), owner.into(), int_or_string(o, &["revision"], "0").into(), age(o, now)]
    },
    ..DEFAULT
};

/// An owner as `deployment.apps/web`.
fn owner_text(reference: &Value) -> String {
    use apimachinery::meta::str_at;
    let kind = str_at(reference, &["kind"]).to_lowercase();
    let group = str_at(reference, &["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
    let name = str_at(reference, &["name"]);
    if group.is_empty() { format!("{kind}/{name}") } else { format!("{kind}.{group}/{name}") }
}

fn controller_revision(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    if !object.get("data").present() {
        errors.push(object.get("data").required("data is mandatory"));
    }
    non_negative(&mut errors, &object.get("revision"));
    errors
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A defaulted object of a kind, with its spec changed.
    pub(in super::super) fn defaulted(rules: &Rules, patch: &Value) -> Value {
        let mut object = json!({"metadata": {"name": "w"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        for (key, value) in patch.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        (rules.default)("v1", &mut object);
        object
    }

    fn problems(rules: &Rules, patch: Value) -> Vec<String> {
        (rules.validate)(&defaulted(rules, &patch)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn deployments_have_upstreams_defaults() {
        let deployment = defaulted(&DEPLOYMENTS, &json!({}));
        let spec = &deployment["spec"];
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        let recreate = defaulted(&DEPLOYMENTS, &json!({"strategy": {"type": "Recreate"}}));
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
        assert_eq!((DEPLOYMENTS.validate)(&recreate), []);
    }

    #[test]
    fn problems_have_upstreams_words() {
        for (rules, patch, expected) in [
            (&DEPLOYMENTS, json!({}), None),
            (&REPLICA_SETS, json!({}), None),
            (
                &DEPLOYMENTS,
                json!({"selector": {"matchLabels": {"a": "c"}}}),
                Some(
                    "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                ),
            ),
            (
                &DEPLOYMENTS,
                json!({"selector": {}}),
                Some("spec.selector: Invalid value: {}: empty selector is invalid for deployment"),
            ),
            (
                &DEPLOYMENTS,
                json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}}),
                Some(
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                ),
            ),
            (
                &DEPLOYMENTS,
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
                Some(
                    "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                ),
            ),
            (
                &DEPLOYMENTS,
                json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
                Some("spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"),
            ),
            (
                &REPLICA_SETS,
                json!({"template": {"metadata": {"labels": {"a": "b"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}),
                Some(
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ),
            ),
        ] {
            let found = problems(rules, patch.clone());
            assert_eq!(found, expected.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{patch}");
        }
    }

    #[test]
    fn a_controller_takes_labels_and_selector_from_its_template() {
        let mut object = json!({"metadata": {"name": "rc"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        (REPLICATION_CONTROLLERS.default)("v1", &mut object);
        assert_eq!(object["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!((REPLICATION_CONTROLLERS.validate)(&object), []);
    }

    #[test]
    fn rows() {
        let mut object = defaulted(&DEPLOYMENTS, &json!({"replicas": 3}));
        object["status"] = json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2});
        let row = (DEPLOYMENTS.row)(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("2/3"), json!(3), json!(2)]);
        assert_eq!(row[5..], [json!("c"), json!("i"), json!("a=b")]);
        let revision = json!({"metadata": {"name": "r", "ownerReferences": [{"controller": true, "kind": "DaemonSet",
            "apiVersion": "apps/v1", "name": "ds"}]}, "revision": 2});
        let row = (CONTROLLER_REVISIONS.row)(&revision, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..3], [json!("daemonset.apps/ds"), json!("2")]);
    }
}
