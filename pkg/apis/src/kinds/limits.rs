//! Limit ranges and resource quotas. Source: `pkg/apis/core/validation`.

use std::collections::BTreeSet;

use apimachinery::{Map, Value};
use jiff::Timestamp;

use super::print::{age, map, name, str_at};
use super::resources::{check_quantity, quota_resource_name, resource_name};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, immutable, shape};
use crate::edit::{map_at, map_or_new, maps_in, text};
use crate::names;

pub(super) const LIMIT_RANGES: Rules = Rules {
    default: |_, o| {
        if let Some(spec) = o.get_mut("spec").and_then(Value::as_object_mut) {
            maps_in(spec, "limits").for_each(default_limit);
        }
    },
    validate: |o| limit_range(&At::root(o)),
    validate_update: |_, new, _| limit_range(&At::root(new)),
    create_on_update: true,
    columns: &[("Name", "string"), ("Created At", "date")],
    row: |o, _| vec![name(o).into(), str_at(o, &["metadata", "creationTimestamp"]).into()],
    ..DEFAULT
};

/// A container's limit is its maximum, and its request the limit or the minimum, where nothing is said.
fn default_limit(item: &mut Map) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(values) = map_at(item, from).cloned() else { continue };
        if let Some(target) = map_or_new(item, to) {
            for (resource, value) in values {
                target.entry(resource).or_insert(value);
            }
        }
    }
}

fn limit_range(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for limit in object.at(&["spec", "limits"]).items() {
        let kind = limit.get("type");
        shape(&mut errors, &kind, names::label_key(kind.text()));
        if !kind.text().contains('/') && !matches!(kind.text(), "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.push(kind.invalid("must be a standard limit type or fully qualified"));
        }
        if seen.contains(&kind.text()) {
            errors.push(kind.duplicate());
        }
        seen.insert(kind.text());
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (resource, quantity) in limit.get(field).entries() {
                resource_name(&mut errors, &quantity, resource);
                check_quantity(&mut errors, &quantity, resource);
            }
        }
        if kind.text() == "Pod" {
            for field in ["default", "defaultRequest"] {
                if !limit.get(field).is_empty() {
                    let detail = "may not be specified when `type` is 'Pod'";
                    errors.push(limit.get(field).forbidden(detail));
                }
            }
        }
        super::resources::ordered_limits(&mut errors, &limit);
    }
    errors
}

pub(super) const RESOURCE_QUOTAS: Rules = Rules {
    validate: |o| resource_quota(&At::root(o)),
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        if context.subresource == "status" {
            return quota_status(&new);
        }
        let mut errors = resource_quota(&new);
        immutable(&mut errors, &new.at(&["spec", "scopes"]), &old.at(&["spec", "scopes"]));
        errors
    },
    columns: &[("Name", "string"), ("Request", "string"), ("Limit", "string"), ("Age", "string")],
    row: quota_row,
    ..DEFAULT
};

fn resource_quota(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    for (resource, quantity) in object.at(&["spec", "hard"]).entries() {
        quota_resource_name(&mut errors, &quantity, resource);
        check_quantity(&mut errors, &quantity, resource);
    }
    const SCOPES: [&str; 7] = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    let scopes = object.at(&["spec", "scopes"]);
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.push(scopes.invalid("unsupported scope"));
        }
    }
    let all: Vec<&str> = scopes.items().map(|s| s.text()).collect();
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if all.contains(&a) && all.contains(&b) {
            errors.push(scopes.invalid("conflicting scopes"));
        }
    }
    errors
}

fn quota_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let status = object.get("status");
    if !status.get("hard").present() {
        errors.push(status.get("hard").required(""));
    }
    for field in ["hard", "used"] {
        for (resource, quantity) in status.get(field).entries() {
            quota_resource_name(&mut errors, &quantity, resource);
            check_quantity(&mut errors, &quantity, resource);
        }
    }
    errors
}

fn quota_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in map(object, &["status", "hard"]).into_iter().flatten() {
        let used = str_at(object, &["status", "used", resource]);
        let used = if used.is_empty() { "0" } else { used };
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(object).into(), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn limits_default_from_each_other() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        (LIMIT_RANGES.default)("v1", &mut range);
        let item = &range["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    }
}
