//! Disruption budgets, autoscalers, priorities, runtime classes.
//!
//! Source: `pkg/apis/policy`, `pkg/apis/autoscaling`, `pkg/apis/scheduling`, `pkg/apis/node`.

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, metadata_mut};
use apimachinery::objectmeta;

use super::print::{age, int_or_string, list, name, number, or, str_at};
use super::rules::{DEFAULT, Rules};
use super::template;
use crate::conversion::autoscaling::CPU_PERCENT;
use crate::cursor::{At, Errors, same, shape};
use crate::edit::{default_to, map_at, map_or_new, spec};
use crate::names;

pub(super) const BUDGETS: Rules = Rules {
    generation: true,
    validate: |o| budget(&At::root(o)),
    validate_update: |context, new, _| match context.subresource {
        "status" => Vec::new(),
        _ => budget(&At::root(new)),
    },
    columns: &[
        ("Name", "string"),
        ("Min Available", "string"),
        ("Max Unavailable", "string"),
        ("Allowed Disruptions", "integer"),
        ("Age", "string"),
    ],
    row: |o, now| {
        vec![
            name(o).into(),
            int_or_string(o, &["spec", "minAvailable"], "N/A").into(),
            int_or_string(o, &["spec", "maxUnavailable"], "N/A").into(),
            number(o, &["status", "disruptionsAllowed"]).into(),
            age(o, now),
        ]
    },
    ..DEFAULT
};

fn budget(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let (min, max) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if min.present() && max.present() {
        errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for at in [min, max] {
        template::int_or_percent(&mut errors, &at);
        template::at_most_100_percent(&mut errors, &at);
    }
    let selector = spec.get("selector");
    errors.extend(objectmeta::label_selector(selector.value(), &selector.path()));
    let policy = spec.get("unhealthyPodEvictionPolicy");
    if policy.present() && !matches!(policy.text(), "IfHealthyBudget" | "AlwaysAllow") {
        errors.push(policy.not_supported(&["AlwaysAllow", "IfHealthyBudget"]));
    }
    errors
}

/// How many metrics a row shows.
const METRICS_SHOWN: usize = 2;

pub(super) const AUTOSCALERS: Rules = Rules {
    default: |version, o| {
        let Some(spec) = spec(o) else { return };
        default_to(spec, "minReplicas", 1);
        if version == "v1" {
            return;
        }
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let cpu = json!([{"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}}}]);
            spec.insert("metrics".into(), cpu);
        }
        if let Some(behavior) = map_at(spec, "behavior") {
            default_scaling(
                behavior,
                "scaleUp",
                0,
                json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
            default_scaling(
                behavior,
                "scaleDown",
                -1,
                json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
    },
    validate: |o| autoscaler(&At::root(o)),
    validate_update: |context, new, _| match context.subresource {
        "status" => Vec::new(),
        _ => autoscaler(&At::root(new)),
    },
    columns: &[
        ("Name", "string"),
        ("Reference", "string"),
        ("Targets", "string"),
        ("MinPods", "string"),
        ("MaxPods", "integer"),
        ("Replicas", "integer"),
        ("Age", "string"),
    ],
    row: |o, now| {
        let target = |field: &str| str_at(o, &["spec", "scaleTargetRef", field]);
        vec![
            name(o).into(),
            format!("{}/{}", target("kind"), target("name")).into(),
            metrics_text(o).into(),
            int_or_string(o, &["spec", "minReplicas"], "<unset>").into(),
            number(o, &["spec", "maxReplicas"]).into(),
            number(o, &["status", "currentReplicas"]).into(),
            age(o, now),
        ]
    },
    ..DEFAULT
};

/// Rules of one direction; a window below 0 is left to the controller.
fn default_scaling(behavior: &mut apimachinery::Map, direction: &str, window: i64, policies: Value) {
    let Some(rules) = map_or_new(behavior, direction) else { return };
    if window >= 0 {
        default_to(rules, "stabilizationWindowSeconds", window);
    }
    default_to(rules, "selectPolicy", "Max");
    if rules.get("policies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        rules.insert("policies".into(), policies);
    }
}

fn autoscaler(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let (min, max) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if min.int().is_some_and(|n| n < 1) {
        errors.push(min.invalid("must be greater than or equal to 1"));
    }
    if max.int_or_zero() < 1 {
        errors.push(max.invalid_value(max.int_or_zero(), "must be greater than 0"));
    }
    if min.int().is_some_and(|n| max.int_or_zero() < n) {
        errors.push(max.invalid_value(max.int_or_zero(), "must be greater than or equal to `minReplicas`"));
    }
    let target = spec.get("scaleTargetRef");
    for field in ["kind", "name"] {
        let at = target.get(field);
        if at.is_empty() {
            errors.push(at.required(""));
        } else {
            shape(&mut errors, &at, names::path_segment_name(at.text(), false));
        }
    }
    for metric in spec.get("metrics").items() {
        const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
        let kind = metric.get("type");
        if kind.is_empty() {
            errors.push(kind.required("must specify a metric source type"));
        } else if !TYPES.contains(&kind.text()) {
            errors.push(kind.not_supported(&TYPES));
        }
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at(&["behavior", direction]);
        for policy in rules.get("policies").items() {
            if !matches!(policy.get("type").text(), "Pods" | "Percent") {
                errors.push(policy.get("type").not_supported(&["Percent", "Pods"]));
            }
            for field in ["value", "periodSeconds"] {
                if policy.get(field).int_or_zero() <= 0 {
                    errors.push(
                        policy
                            .get(field)
                            .invalid_value(policy.get(field).int_or_zero(), "must be greater than zero"),
                    );
                }
            }
        }
    }
    errors
}

/// `cpu: 10%/80%`, the first two metrics and how many more.
fn metrics_text(object: &Value) -> String {
    let metrics = list(object, &["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".into();
    }
    let texts: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(i, metric)| metric_text(metric, list(object, &["status", "currentMetrics"]).get(i)))
        .collect();
    let shown = texts.iter().take(METRICS_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if texts.len() > METRICS_SHOWN {
        format!("{shown} + {} more...", texts.len() - METRICS_SHOWN)
    } else {
        shown
    }
}

fn metric_text(metric: &Value, current: Option<&Value>) -> String {
    let source = match str_at(metric, &["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".into(),
    };
    let target = &metric[source]["target"];
    let now = |field: &str| {
        let value = current.and_then(|c| at(c, &[source, "current", field])).filter(|v| !v.is_null());
        value.map(|v| v.as_str().map_or_else(|| v.to_string(), Into::into))
    };
    let unknown = || "<unknown>".to_owned();
    let text = if let Some(average) = target["averageValue"].as_str() {
        let suffix = if matches!(source, "external" | "object") { " (avg)" } else { "" };
        format!("{}/{average}{suffix}", now("averageValue").unwrap_or_else(unknown))
    } else if let Some(value) = target["value"].as_str() {
        format!("{}/{value}", now("value").unwrap_or_else(unknown))
    } else {
        let current = now("averageUtilization").map_or_else(unknown, |v| format!("{v}%"));
        let wanted =
            target["averageUtilization"].as_i64().map_or_else(|| "<auto>".into(), |v| format!("{v}%"));
        format!("{current}/{wanted}")
    };
    if matches!(source, "resource" | "containerResource") {
        format!("{}: {text}", str_at(metric, &[source, "name"]))
    } else {
        text
    }
}

/// Highest priority that is not the system's.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;
/// Names of the system's priorities start so.
const SYSTEM_PREFIX: &str = "system-";

pub(super) const PRIORITY_CLASSES: Rules = Rules {
    // The first generation is the only one: changes are not counted.
    prepare_create: |_, o| {
        if let Some(metadata) = metadata_mut(o) {
            metadata.insert("generation".into(), 1.into());
        }
    },
    default: |_, o| {
        if let Some(class) = o.as_object_mut() {
            default_to(class, "preemptionPolicy", "PreemptLowerPriority");
        }
    },
    validate: |o| {
        let (object, mut errors) = (At::root(o), Vec::new());
        let (own, value) = (object.at(&["metadata", "name"]), object.get("value"));
        let system = matches!(own.text(), "system-node-critical" | "system-cluster-critical");
        if own.text().starts_with(SYSTEM_PREFIX) && !system {
            errors.push(own.forbidden(&format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {} is not \
                 a known SystemPriorityClass",
                own.text()
            )));
        }
        if value.int_or_zero() > MAX_USER_PRIORITY && !system {
            errors.push(value.forbidden(&format!(
                "maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}"
            )));
        }
        let policy = object.get("preemptionPolicy");
        if policy.present() && !matches!(policy.text(), "Never" | "PreemptLowerPriority") {
            errors.push(policy.not_supported(&["Never", "PreemptLowerPriority"]));
        }
        errors
    },
    validate_update: |_, new, old| {
        let (new, old, mut errors) = (At::root(new), At::root(old), Vec::new());
        if new.get("value").int_or_zero() != old.get("value").int_or_zero() {
            errors.push(new.get("value").forbidden("may not be changed in an update."));
        }
        crate::cursor::immutable(&mut errors, &new.get("preemptionPolicy"), &old.get("preemptionPolicy"));
        errors
    },
    columns: &[
        ("Name", "string"),
        ("Value", "integer"),
        ("Global-Default", "boolean"),
        ("Age", "string"),
        ("PreemptionPolicy", "string"),
    ],
    row: |o, now| {
        vec![
            name(o).into(),
            number(o, &["value"]).into(),
            (o["globalDefault"] == true).into(),
            age(o, now),
            or(str_at(o, &["preemptionPolicy"]), "<unset>"),
        ]
    },
    ..DEFAULT
};

pub(super) const RUNTIME_CLASSES: Rules = Rules {
    validate: |o| {
        let (object, mut errors) = (At::root(o), Vec::new());
        let handler = object.get("handler");
        if handler.is_empty() {
            errors.push(handler.required(""));
        } else {
            shape(&mut errors, &handler, names::dns1123_label(handler.text(), false));
        }
        for (resource, amount) in object.at(&["overhead", "podFixed"]).entries() {
            super::resources::container_resource_name(&mut errors, &amount, resource);
            super::resources::check_quantity(&mut errors, &amount, resource);
        }
        errors
    },
    validate_update: |_, new, old| {
        let (new, old, mut errors) = (At::root(new), At::root(old), Vec::new());
        crate::cursor::immutable(&mut errors, &new.get("handler"), &old.get("handler"));
        errors
    },
    columns: &[("Name", "string"), ("Handler", "string"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), str_at(o, &["handler"]).into(), age(o, now)],
    ..DEFAULT
};

/// A pod group or workload of the scheduler: what it is made of stays.
pub(super) const POD_GROUPS: Rules = Rules {
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new).get("spec"), At::root(old).get("spec"));
        if context.subresource == "status" || same(new.value(), old.value()) {
            return Vec::new();
        }
        vec![new.invalid("field is immutable")]
    },
    ..DEFAULT
};

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn autoscalers_default_validate_and_print() {
        let mut hpa = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "behavior": {"scaleUp": {}}}});
        (AUTOSCALERS.default)("v2", &mut hpa);
        assert_eq!(hpa["spec"]["minReplicas"], 1);
        assert_eq!(hpa["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"], 0);
        assert_eq!((AUTOSCALERS.validate)(&hpa), []);
        hpa["status"] = json!({"currentMetrics": [{"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": 12}}}], "currentReplicas": 2});
        let row = (AUTOSCALERS.row)(&hpa, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..6],
            [json!("Deployment/web"), json!("cpu: 12%/80%"), json!("1"), json!(3), json!(2)]
        );
        hpa["spec"]["maxReplicas"] = json!(0);
        assert_eq!((AUTOSCALERS.validate)(&hpa).len(), 2);
    }

    #[test]
    fn budgets_say_one_of_two() {
        let both = json!({"spec": {"minAvailable": 1, "maxUnavailable": "10%"}});
        let texts: Vec<String> = budget(&At::root(&both)).iter().map(ToString::to_string).collect();
        assert!(texts[0].ends_with("minAvailable and maxUnavailable cannot be both set"), "{texts:?}");
        let bad = json!({"spec": {"maxUnavailable": "110%"}});
        assert_eq!(
            budget(&At::root(&bad))[0].to_string(),
            "spec.maxUnavailable: Invalid value: \"110%\": must not be greater than 100%"
        );
    }
}
