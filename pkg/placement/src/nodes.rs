//! Which nodes a selector or toleration is about.
//!
//! Source: "Assigning Pods to Nodes", "Taints and Tolerations", `k8s.io/component-helpers/scheduling/corev1`.

use std::collections::BTreeMap;

use apimachinery::selectors::{LabelSet, Operator, Requirement};
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The one field selectors of nodes know.
const NAME: &str = "metadata.name";

/// One term of a node selector: all of it must hold.
#[derive(Debug, Clone, Default)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    names: Vec<Requirement>,
    /// Empty or malformed terms match nothing.
    impossible: bool,
}

struct NodeName<'a>(&'a str);

impl LabelSet for NodeName<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        (key == NAME).then_some(self.0)
    }
}

fn requirement(requirement: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    let values: Vec<&str> = requirement.values.iter().flatten().map(String::as_str).collect();
    Requirement::new(&requirement.key, operator, &values).ok()
}

impl NodeTerm {
    /// Parses a term.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let parse = |list: &Option<Vec<NodeSelectorRequirement>>| -> Option<Vec<Requirement>> {
            list.iter().flatten().map(requirement).collect()
        };
        match (parse(&term.match_expressions), parse(&term.match_fields)) {
            (Some(labels), Some(names)) if !(labels.is_empty() && names.is_empty()) => {
                Self { labels, names, impossible: false }
            }
            _ => Self { impossible: true, ..Self::default() },
        }
    }

    /// Whether the node satisfies the term.
    pub fn matches(&self, labels: &Labels, name: &str) -> bool {
        !self.impossible
            && self.labels.iter().all(|r| r.matches(labels))
            && self.names.iter().all(|r| r.matches(&NodeName(name)))
    }

    /// Names of nodes the term is limited to, if it names any.
    fn only_names(&self) -> Option<Vec<&str>> {
        let named = self.names.iter().find(|r| r.key() == NAME && r.operator() == Operator::In)?;
        Some(named.values().collect())
    }
}

/// Which nodes a pod may run on, or a volume can be used on: a map of labels, and any of some terms.
#[derive(Debug, Clone, Default)]
pub struct NodeRequirement {
    selector: Labels,
    /// Any of these; `None` without a node selector.
    terms: Option<Vec<NodeTerm>>,
}

impl NodeRequirement {
    /// `spec.nodeSelector` and required node affinity of a pod.
    pub fn of_pod(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            selector: spec.node_selector.clone().unwrap_or_default(),
            terms: required.map(|selector| selector.node_selector_terms.iter().map(NodeTerm::new).collect()),
        }
    }

    /// A node selector alone, as volumes have it.
    pub fn of_selector(selector: &NodeSelector) -> Self {
        let terms = selector.node_selector_terms.iter().map(NodeTerm::new).collect();
        Self { selector: Labels::new(), terms: Some(terms) }
    }

    /// Whether the node is one of them.
    pub fn matches(&self, labels: &Labels, name: &str) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(labels, name)))
    }

    /// Holds for every node.
    pub fn is_everything(&self) -> bool {
        self.selector.is_empty() && self.terms.is_none()
    }

    /// Names of the only nodes that can match, if the terms say so (DaemonSet pods do).
    pub fn only_names(&self) -> Option<Vec<&str>> {
        let terms = self.terms.as_ref().filter(|terms| !terms.is_empty())?;
        let mut names = Vec::new();
        for term in terms {
            names.extend(term.only_names()?);
        }
        Some(names)
    }
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &'_ Option<String>| -> String { field.clone().unwrap_or_default() };
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

/// The first of the taints with one of these effects that no toleration covers.
pub fn untolerated<'a>(
    tolerations: &[Toleration],
    taints: &'a [Taint],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn requirement_of(value: Value) -> NodeRequirement {
        let spec: PodSpec = serde_json::from_value(value).expect("a spec");
        NodeRequirement::of_pod(&spec)
    }

    fn required(terms: Value) -> Value {
        json!({"containers": [], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn nodes_are_selected_by_labels_terms_and_name() {
        let labels = Labels::from([("zone".into(), "a".into()), ("cores".into(), "8".into())]);
        let expression = |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
        let terms = |list: Value| required(json!([{"matchExpressions": list}]));
        let cases = [
            (json!({"containers": []}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "a"}}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "b"}}), false),
            (terms(json!([expression("zone", "In", json!(["a", "b"]))])), true),
            (terms(json!([expression("zone", "NotIn", json!(["a"]))])), false),
            (terms(json!([expression("disk", "DoesNotExist", json!(null))])), true),
            (terms(json!([expression("cores", "Gt", json!(["4"]))])), true),
            (terms(json!([expression("cores", "Lt", json!(["4"]))])), false),
            (required(json!([])), false),
            (required(json!([{}])), false),
            (required(json!([{"matchFields": [expression(NAME, "In", json!(["n1"]))]}])), true),
            (required(json!([{"matchFields": [expression(NAME, "In", json!(["n2"]))]}])), false),
        ];
        for (spec, expected) in cases {
            assert_eq!(requirement_of(spec.clone()).matches(&labels, "n1"), expected, "{spec}");
        }
        let named =
            requirement_of(required(json!([{"matchFields": [expression(NAME, "In", json!(["n1"]))]}])));
        assert_eq!(named.only_names(), Some(vec!["n1"]));
        assert_eq!(requirement_of(json!({"containers": []})).only_names(), None);
    }

    #[test]
    fn tolerations_cover_taints() {
        let toleration = |value: Value| serde_json::from_value::<Toleration>(value).expect("a toleration");
        let taint =
            Taint { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into(), time_added: None };
        let cases = [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "x", "operator": "Exists"}), false),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true),
        ];
        for (value, expected) in cases {
            assert_eq!(tolerates(&toleration(value.clone()), &taint), expected, "{value}");
        }
        let taints = [taint];
        assert!(untolerated(&[], &taints, &["NoExecute"]).is_none());
        assert_eq!(untolerated(&[], &taints, &["NoSchedule"]), taints.first());
    }
}
