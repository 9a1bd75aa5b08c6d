//! What the server does to pods before they are kept. Source: `pkg/registry/core/pod/strategy.go`.

use apimachinery::json;
use apimachinery::meta::{at, str_at};
use apimachinery::strategy::WriteContext;
use apimachinery::{Map, Value};

use super::qos;
use crate::edit::{default_text, keep, map_at, maps_in, status};

/// A new pod is pending, has its quality of service, and says so when it may not be scheduled yet.
pub(super) fn create(_context: &WriteContext<'_>, pod: &mut Value) {
    let qos = qos::class(pod);
    let mut new = json!({"phase": "Pending", "qosClass": qos});
    let gated =
        at(pod, &["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|g| !g.is_empty());
    if gated {
        new["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null}]);
    }
    if let Some(map) = pod.as_object_mut() {
        map.insert("status".into(), new);
    }
    merge_label_keys(pod);
}

/// Keys whose values the pod's own labels say become part of the selectors beside them (KEP-3243, KEP-3633).
fn merge_label_keys(pod: &mut Value) {
    let labels = at(pod, &["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for constraint in maps_in(spec, "topologySpreadConstraints") {
        merge_into_selector(constraint, &labels);
    }
    let Some(affinity) = map_at(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = map_at(affinity, kind) else { continue };
        for term in maps_in(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_into_selector(term, &labels);
        }
        for preferred in maps_in(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = map_at(preferred, "podAffinityTerm") {
                merge_into_selector(term, &labels);
            }
        }
    }
}

fn merge_into_selector(term: &mut Map, labels: &Map) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = term.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for (key, value) in keys.filter_map(|key| Some((key, labels.get(key)?))) {
            added.push(json!({"key": key, "operator": operator, "values": [value]}));
        }
    }
    if let Some(selector) = map_at(term, "labelSelector").filter(|_| !added.is_empty())
        && let Some(list) = selector
            .entry("matchExpressions")
            .or_insert_with(|| Value::Array(Vec::new().into()))
            .as_array_mut()
    {
        list.extend(added);
    }
}

/// Each subresource writes its part of a pod and nothing else.
pub(super) fn update(context: &WriteContext<'_>, pod: &mut Value, old: &Value) {
    match context.subresource {
        "status" => {
            // the quality of service is decided once
            let class = str_at(old, &["status", "qosClass"]).to_owned();
            if let Some(status) = status(pod).filter(|_| !class.is_empty()) {
                default_text(status, "qosClass", &class);
            }
        }
        "ephemeralcontainers" => {
            let containers = at(pod, &["spec", "ephemeralContainers"]).cloned();
            keep(pod, old, "spec");
            keep(pod, old, "status");
            if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
                match containers {
                    Some(containers) => spec.insert("ephemeralContainers".into(), containers),
                    None => spec.remove("ephemeralContainers"),
                };
            }
        }
        "resize" => {
            let asked = pod.get("spec").cloned().unwrap_or_default();
            keep(pod, old, "spec");
            keep(pod, old, "status");
            if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
                resize(spec, &asked);
            }
        }
        _ => grace_from_before(pod),
    }
}

/// Takes over what a container asks for, by its name, and what the pod asks for.
fn resize(spec: &mut Map, asked: &Value) {
    let take = |map: &mut Map, from: &Value, field: &str| match from.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.remove(field),
    };
    for list in ["containers", "initContainers"] {
        let wanted = asked.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for container in maps_in(spec, list) {
            if let Some(wanted) = wanted.iter().find(|w| w.get("name") == container.get("name")) {
                take(container, wanted, "resources");
                take(container, wanted, "resizePolicy");
            }
        }
    }
    take(spec, asked, "resources");
}

/// A negative period was allowed once and means one second.
fn grace_from_before(pod: &mut Value) {
    if at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).is_some_and(|s| s < 0)
        && let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert("terminationGracePeriodSeconds".into(), 1.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(subresource: &'static str) -> WriteContext<'static> {
        WriteContext { now: jiff::Timestamp::UNIX_EPOCH, user: "u", groups: &[], subresource, group: "" }
    }

    #[test]
    fn a_new_pod_is_pending() {
        let mut pod = json!({"spec": {"containers": [{"name": "c"}], "schedulingGates": [{"name": "g"}]}});
        create(&context(""), &mut pod);
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(pod["status"]["qosClass"], "BestEffort");
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn label_keys_become_part_of_selectors() {
        let mut pod = json!({"metadata": {"labels": {"hash": "1"}}, "spec": {
            "topologySpreadConstraints": [{"matchLabelKeys": ["hash", "none"], "labelSelector": {}}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"mismatchLabelKeys": ["hash"], "labelSelector": {"matchLabels": {"a": "b"}}}]}}}});
        merge_label_keys(&mut pod);
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"],
            json!({"matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]})
        );
        let term =
            "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector";
        assert_eq!(
            pod.pointer(term),
            Some(&json!({"matchLabels": {"a": "b"},
                "matchExpressions": [{"key": "hash", "operator": "NotIn", "values": ["1"]}]}))
        );
    }

    #[test]
    fn subresources_write_their_part_alone() {
        let old = json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}, "status": {"a": 1}});
        let new = json!({"spec": {"nodeName": "x", "containers": [{"name": "c", "image": "j",
            "resources": {"limits": {"cpu": "1"}}}], "ephemeralContainers": [{"name": "e"}]}, "status": {}});
        for (subresource, expected) in [
            (
                "ephemeralcontainers",
                json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}],
                    "ephemeralContainers": [{"name": "e"}]}, "status": {"a": 1}}),
            ),
            (
                "resize",
                json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i",
                    "resources": {"limits": {"cpu": "1"}}}]}, "status": {"a": 1}}),
            ),
        ] {
            let mut pod = new.clone();
            update(&context(subresource), &mut pod, &old);
            assert_eq!(pod, expected, "{subresource}");
        }
    }
}
