//! Node selectors: `core/v1` NodeSelector terms (affinity, volumes, DaemonSets).
//!
//! Source: `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`: terms are alternatives, an empty term matches
//! nothing, and a term that cannot be read matches nothing.

use super::LabelSet;
use super::labels::{Operator, Requirement, strings};
use crate::Value;
use crate::meta::str_at;

/// Whether a node meets a `NodeSelector`; one that is absent or null is met by every node.
pub fn matches<L: LabelSet + ?Sized>(selector: Option<&Value>, labels: &L, node_name: &str) -> bool {
    let Some(selector) = selector.filter(|s| !s.is_null()) else {
        return true;
    };
    let terms = selector.get("nodeSelectorTerms").and_then(Value::as_array);
    terms.into_iter().flatten().any(|term| term_matches(term, labels, node_name))
}

/// Whether a node meets one `NodeSelectorTerm`.
pub fn term_matches<L: LabelSet + ?Sized>(term: &Value, labels: &L, node_name: &str) -> bool {
    let list = |key| term.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (expressions, fields) = (list("matchExpressions"), list("matchFields"));
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|e| requirement(e).is_some_and(|r| r.matches(labels)))
        && fields.iter().all(|field| field_matches(field, node_name))
}

/// A `NodeSelectorRequirement` on a label, `None` where it is not a valid one.
pub fn requirement(expression: &Value) -> Option<Requirement> {
    let operator = match str_at(expression, &["operator"]) {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Requirement::new(str_at(expression, &["key"]), operator, &strings(expression.get("values"))).ok()
}

/// Fields of nodes that can be matched: the name, with one value.
fn field_matches(field: &Value, node_name: &str) -> bool {
    let values = strings(field.get("values"));
    let ([value], "metadata.name") = (values.as_slice(), str_at(field, &["key"])) else {
        return false;
    };
    match str_at(field, &["operator"]) {
        "In" => *value == node_name,
        "NotIn" => *value != node_name,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn terms_are_alternatives_and_their_parts_are_not() {
        let labels = json!({"zone": "a", "cores": "8"});
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        for (terms, matched) in [
            (json!([]), false),
            (json!([{}]), false),
            (json!([{"matchExpressions": [expression("zone", "In", &["a", "b"])]}]), true),
            (
                json!([{"matchExpressions": [expression("zone", "In", &["b"])]}, {"matchExpressions": [expression("cores", "Gt", &["4"])]}]),
                true,
            ),
            (
                json!([{"matchExpressions": [expression("zone", "In", &["a"]), expression("cores", "Lt", &["4"])]}]),
                false,
            ),
            (json!([{"matchExpressions": [expression("zone", "Near", &["a"])]}]), false),
            (json!([{"matchFields": [expression("metadata.name", "In", &["n1"])]}]), true),
            (json!([{"matchFields": [expression("metadata.name", "NotIn", &["n1"])]}]), false),
            (json!([{"matchFields": [expression("spec.x", "In", &["n1"])]}]), false),
        ] {
            let selector = json!({"nodeSelectorTerms": terms});
            assert_eq!(matches(Some(&selector), &labels, "n1"), matched, "{selector}");
        }
        assert!(matches(None, &labels, "n1"));
    }
}
