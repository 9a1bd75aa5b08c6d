//! Which nodes a pod template may run on, as far as the daemonset controller has to know: node name, selector, required
//! affinity, taints. Pure; the scheduler judges by the same code.

use k8s_openapi::api::core::v1::{Node, PodSpec, Toleration};
use kube::ResourceExt;
use placement::nodes::{NodeRequirement, untolerated};

/// Whether node name, node selector and required node affinity allow a node.
pub(crate) fn selected(spec: &PodSpec, node: &Node) -> bool {
    let name = node.name_any();
    spec.node_name.as_ref().is_none_or(|wanted| wanted.is_empty() || *wanted == name)
        && NodeRequirement::of_pod(spec).matches(node.labels(), &name)
}

/// Whether every taint of these effects is tolerated.
pub(crate) fn tolerated(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or(&[]);
    untolerated(tolerations, taints, effects).is_none()
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
