//! Which nodes a pod template may run on, as far as the daemonset controller has to know: node name, selector, required
//! affinity, taints. Pure.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use kube::ResourceExt;

fn requirement(requirement: &NodeSelectorRequirement, held: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |accept: fn(&i64, &i64) -> bool| match (
        held.and_then(number),
        values.first().and_then(|v| number(v)),
    ) {
        (Some(held), Some(value)) => accept(&held, &value),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => held.is_some_and(|held| values.iter().any(|value| value == held)),
        "NotIn" => !held.is_some_and(|held| values.iter().any(|value| value == held)),
        "Exists" => held.is_some(),
        "DoesNotExist" => held.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

/// A term matches when all its requirements do; one without any matches nothing.
fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    let name = node.name_any();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement(r, node.labels().get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(&name)))
}

/// Whether node name, node selector and required node affinity allow a node.
pub(crate) fn selected(spec: &PodSpec, node: &Node) -> bool {
    if spec.node_name.as_ref().is_some_and(|name| !name.is_empty() && *name != node.name_any()) {
        return false;
    }
    let labels = node.labels();
    if spec.node_selector.iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    match affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
    {
        None => true,
        Some(required) => required.node_selector_terms.iter().any(|t| term(t, node)),
    }
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

/// Whether every taint of these effects is tolerated.
pub(crate) fn tolerated(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_affinity_and_taints_are_read_as_the_scheduler_reads_them() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "size": "5"}},
            "spec": {"taints": [{"key": "only", "value": "db", "effect": "NoSchedule"}]}}))
            .expect("a node");
        let affinity = |expression: serde_json::Value| {
            json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
        };
        let cases = [
            (json!({}), true),
            (json!({"nodeName": "other"}), false),
            (json!({"nodeSelector": {"disk": "ssd"}}), true),
            (json!({"nodeSelector": {"disk": "hdd"}}), false),
            (affinity(json!({"key": "disk", "operator": "In", "values": ["ssd", "nvme"]})), true),
            (affinity(json!({"key": "disk", "operator": "NotIn", "values": ["ssd"]})), false),
            (affinity(json!({"key": "none", "operator": "NotIn", "values": ["x"]})), true),
            (affinity(json!({"key": "size", "operator": "Gt", "values": ["4"]})), true),
            (affinity(json!({"key": "size", "operator": "Lt", "values": ["4"]})), false),
            (affinity(json!({"key": "disk", "operator": "DoesNotExist"})), false),
        ];
        for (spec, expected) in cases {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let parsed: PodSpec = serde_json::from_value(spec.clone()).expect("a spec");
            assert_eq!(selected(&parsed, &node), expected, "{spec}");
        }
        let toleration = |text| serde_json::from_value::<Toleration>(text).expect("a toleration");
        assert!(!tolerated(&[], &node, &["NoSchedule"]));
        assert!(tolerated(&[], &node, &["NoExecute"]));
        assert!(tolerated(&[toleration(json!({"key": "only", "value": "db"}))], &node, &["NoSchedule"]));
        assert!(tolerated(&[toleration(json!({"operator": "Exists"}))], &node, &["NoSchedule"]));
    }
}
