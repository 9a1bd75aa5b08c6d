//! Nodes. Source: `ValidateNode` in `pkg/apis/core/validation`, `pkg/registry/core/node`.

use std::collections::BTreeSet;

use apimachinery::Value;
use jiff::Timestamp;

use super::print::{age, condition, list, map, name, or, str_at};
use super::resources::{check_quantity, resource_name};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, shape};
use crate::edit::unset;
use crate::names;

pub(super) const NODES: Rules = Rules {
    default: |_, o| {
        if let Some(status) = o.get_mut("status").and_then(Value::as_object_mut)
            && unset(status, "allocatable")
            && let Some(capacity) = status.get("capacity").cloned()
        {
            status.insert("allocatable".into(), capacity);
        }
    },
    keeps_status: true,
    validate: |o| node(&At::root(o)),
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        let mut errors = status(&new);
        if context.subresource != "status" {
            errors.extend(node(&new));
            errors.extend(update(&new, &old));
        }
        errors
    },
    columns: &[
        ("Name", "string"),
        ("Status", "string"),
        ("Roles", "string"),
        ("Age", "string"),
        ("Version", "string"),
        ("+Internal-IP", "string"),
        ("+External-IP", "string"),
        ("+OS-Image", "string"),
        ("+Kernel-Version", "string"),
        ("+Container-Runtime", "string"),
    ],
    row,
    ..DEFAULT
};

fn node(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    taints(&mut errors, &spec.get("taints"));
    let ranges = spec.get("podCIDRs");
    for range in ranges.items() {
        shape(&mut errors, &range, names::cidr(range.text()));
    }
    if ranges.len() > 2 {
        errors.push(ranges.invalid("may specify no more than one CIDR for each IP family"));
    }
    errors
}

fn taints(errors: &mut Errors, list: &At<'_>) {
    let mut seen = BTreeSet::new();
    for taint in list.items() {
        let (key, effect) = (taint.get("key"), taint.get("effect"));
        shape(errors, &key, names::label_key(key.text()));
        let value = taint.get("value");
        shape(errors, &value, names::label_value(value.text()));
        if effect.is_empty() {
            errors.push(effect.required(""));
        } else if !matches!(effect.text(), "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            errors.push(effect.not_supported(&["NoSchedule", "PreferNoSchedule", "NoExecute"]));
        }
        let identity = (key.text(), effect.text());
        if seen.contains(&identity) {
            errors.push(taint.invalid("taints must be unique by key and effect pair"));
        }
        seen.insert(identity);
    }
}

fn status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let status = object.get("status");
    let mut seen = BTreeSet::new();
    for address in status.get("addresses").items() {
        let identity = (address.get("type").text(), address.get("address").text());
        if seen.contains(&identity) {
            errors.push(address.duplicate());
        }
        seen.insert(identity);
    }
    for field in ["capacity", "allocatable"] {
        for (resource, quantity) in status.get(field).entries() {
            resource_name(&mut errors, &quantity, resource);
            check_quantity(&mut errors, &quantity, resource);
        }
    }
    errors
}

/// The pod range and the provider's id are given once.
fn update(new: &At<'_>, old: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    for (field, text) in [
        ("podCIDRs", "node updates may not change podCIDR except from \"\" to valid"),
        ("providerID", "node updates may not change providerID except from \"\" to valid"),
    ] {
        let (new, old) = (new.at(&["spec", field]), old.at(&["spec", field]));
        if !old.is_empty() && !crate::cursor::same(new.value(), old.value()) {
            errors.push(new.forbidden(text));
        }
    }
    errors
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in map(node, &["metadata", "labels"]).into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()) {
            roles.push(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|v| !v.is_empty()));
        }
    }
    roles.sort_unstable();
    roles.dedup();
    roles.join(",")
}

fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(node, "Ready").map(|c| str_at(c, &["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = list(node, &["status", "addresses"]).iter().find(|a| a["type"] == kind);
        or(found.map_or("", |a| str_at(a, &["address"])), "<none>")
    };
    let info = |field: &str| or(str_at(node, &["status", "nodeInfo", field]), "<unknown>");
    vec![
        name(node).into(),
        status.into(),
        or(&roles(node), "<none>"),
        age(node, now),
        str_at(node, &["status", "nodeInfo", "kubeletVersion"]).into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn a_node_says_its_state_and_roles() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}}});
        let cells = row(&node, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1], "Ready,SchedulingDisabled");
        assert_eq!(cells[2], "control-plane");
        assert_eq!(cells[5], "10.0.0.1");
        assert_eq!(cells[7], "<unknown>");
    }

    #[test]
    fn taints_are_unique_and_complete() {
        let node = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"},
            {"key": "b"}]}});
        let texts: Vec<String> = super::node(&At::root(&node)).iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].contains("taints must be unique by key and effect pair"));
        assert_eq!(texts[1], "spec.taints[2].effect: Required value");
    }
}
