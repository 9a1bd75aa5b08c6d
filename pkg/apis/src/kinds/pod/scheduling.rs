//! Validation of what steers scheduling: affinity, tolerations, spread. Source: `pkg/apis/core/validation`.

use std::collections::BTreeSet;

use apimachinery::objectmeta;

use crate::cursor::{At, Errors, shape};
use crate::names;

/// Validates tolerations.
pub(super) fn tolerations(errors: &mut Errors, list: &At<'_>) {
    for toleration in list.items() {
        let (key, operator, value) =
            (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
        let effect = toleration.get("effect");
        if !key.is_empty() {
            shape(errors, &key, names::label_key(key.text()));
        }
        if key.is_empty() && operator.text() != "Exists" {
            errors.push(operator.invalid_text(
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if toleration.get("tolerationSeconds").present() && effect.text() != "NoExecute" {
            errors.push(effect.invalid_text("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator.text() {
            "" | "Equal" => {
                let problems = names::label_value(value.text());
                if !problems.is_empty() {
                    errors.push(operator.invalid_value(value.text(), problems.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.push(operator.invalid_value(
                        toleration.to_value(),
                        "value must be empty when `operator` is 'Exists'",
                    ));
                }
            }
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if !effect.is_empty() && !matches!(effect.text(), "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            errors.push(effect.not_supported(&["NoSchedule", "PreferNoSchedule", "NoExecute"]));
        }
    }
}

/// Validates an affinity.
pub(super) fn affinity(errors: &mut Errors, affinity: &At<'_>) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.present() {
        node_selector(errors, &required);
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(errors, &preferred.get("weight"));
        node_term(errors, &preferred.get("preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = affinity.get(kind);
        for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(errors, &term);
        }
        for preferred in affinity.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(errors, &preferred.get("weight"));
            pod_term(errors, &preferred.get("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut Errors, at: &At<'_>) {
    if !(1..=100).contains(&at.int_or_zero()) {
        errors.push(at.invalid_value(at.int_or_zero(), "must be in the range 1-100"));
    }
}

/// Validates a node selector, which volumes have as well.
pub(crate) fn node_selector(errors: &mut Errors, selector: &At<'_>) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(terms.required("must have at least one node selector term"));
    }
    terms.items().for_each(|term| node_term(errors, &term));
}

fn node_term(errors: &mut Errors, term: &At<'_>) {
    for (list, by_label) in [("matchExpressions", true), ("matchFields", false)] {
        for requirement in term.get(list).items() {
            let (key, operator, values) =
                (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
            match operator.text() {
                "In" | "NotIn" => {
                    if values.is_empty() {
                        errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
                    } else if !by_label && values.len() != 1 {
                        errors.push(values.required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector"));
                    }
                }
                "Exists" | "DoesNotExist" if by_label => {
                    if !values.is_empty() {
                        errors.push(
                            values.forbidden(
                                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                            ),
                        );
                    }
                }
                "Gt" | "Lt" if by_label => {
                    if values.len() != 1 {
                        errors.push(
                            values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"),
                        );
                    }
                }
                _ => errors.push(operator.invalid_text("not a valid selector operator")),
            }
            if by_label {
                shape(errors, &key, names::label_key(key.text()));
            } else if key.text() != "metadata.name" {
                errors.push(key.invalid_text("not a valid field selector key"));
            } else {
                for value in values.items() {
                    shape(errors, &value, names::dns1123_subdomain(value.text(), false));
                }
            }
        }
    }
}

fn topology_key(errors: &mut Errors, key: &At<'_>) {
    if key.is_empty() {
        errors.push(key.required("can not be empty"));
    } else {
        shape(errors, key, names::label_key(key.text()));
    }
}

fn pod_term(errors: &mut Errors, term: &At<'_>) {
    for field in ["labelSelector", "namespaceSelector"] {
        let selector = term.get(field);
        errors.extend(objectmeta::label_selector(selector.value(), &selector.path()));
    }
    for namespace in term.get("namespaces").items() {
        let problems = names::dns1123_label(namespace.text(), false);
        // upstream names the list, not the item
        let list = term.get("namespace");
        errors.extend(problems.into_iter().map(|p| list.invalid_value(namespace.text(), p)));
    }
    topology_key(errors, &term.get("topologyKey"));
}

/// Validates topology spread constraints.
pub(super) fn spread(errors: &mut Errors, constraints: &At<'_>) {
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let skew = constraint.get("maxSkew");
        if skew.int_or_zero() <= 0 {
            errors.push(skew.invalid_value(skew.int_or_zero(), "must be greater than zero"));
        }
        topology_key(errors, &constraint.get("topologyKey"));
        let when = constraint.get("whenUnsatisfiable");
        if !matches!(when.text(), "DoNotSchedule" | "ScheduleAnyway") {
            errors.push(when.not_supported(&["DoNotSchedule", "ScheduleAnyway"]));
        }
        let pair = (constraint.get("topologyKey").text(), when.text());
        if seen.contains(&pair) {
            errors.push(apimachinery::status::FieldError::duplicate(
                constraint.get("{topologyKey, whenUnsatisfiable}").path(),
                format!("{{{}, {}}}", pair.0, pair.1),
            ));
        }
        seen.insert(pair);
        let domains = constraint.get("minDomains");
        if domains.present() {
            if domains.int_or_zero() <= 0 {
                errors.push(domains.invalid("must be greater than zero"));
            }
            if when.text() != "DoNotSchedule" {
                errors.push(domains.invalid(format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {:?}",
                    when.text()
                )));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint.get(field);
            if policy.present() && !matches!(policy.text(), "Honor" | "Ignore") {
                errors.push(policy.not_supported(&["Honor", "Ignore"]));
            }
        }
        let selector = constraint.get("labelSelector");
        errors.extend(objectmeta::label_selector(selector.value(), &selector.path()));
        for key in constraint.get("matchLabelKeys").items() {
            shape(errors, &key, names::label_key(key.text()));
            if !selector.present() {
                errors.push(
                    constraint
                        .get("matchLabelKeys")
                        .forbidden("must not be specified when labelSelector is not set"),
                );
            }
        }
    }
}
