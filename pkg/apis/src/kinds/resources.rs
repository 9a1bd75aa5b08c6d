//! Names and amounts of resources. Source: `pkg/apis/core/helper`, `pkg/apis/core/validation`.

use apimachinery::quantity::Quantity;

use crate::cursor::{At, Errors};
use crate::names;

const STANDARD_QUOTA: [&str; 17] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
];
const STANDARD_MORE: [&str; 3] = ["services.nodeports", "services.loadbalancers", "storage"];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_standard(name: &str) -> bool {
    STANDARD_QUOTA.contains(&name)
        || STANDARD_MORE.contains(&name)
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-")
}

/// A resource a container may ask for without a domain.
fn is_container_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

/// A resource of the project itself: without a domain, or under its own.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that nodes or drivers advertise under their domain.
pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::label_key(&format!("requests.{name}")).is_empty()
}

/// More may be promised than there is.
pub(super) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Counted in whole units.
fn is_whole(name: &str) -> bool {
    matches!(
        name,
        "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || is_extended(name)
}

fn qualified(errors: &mut Errors, at: &At<'_>, name: &str) {
    errors.extend(names::label_key(name).into_iter().map(|p| at.invalid_value(name, p)));
}

/// Checks the name of a resource.
pub(super) fn resource_name(errors: &mut Errors, at: &At<'_>, name: &str) {
    qualified(errors, at, name);
    if !name.contains('/') && !is_standard(name) {
        errors.push(at.invalid_value(name, "must be a standard resource type or fully qualified"));
    }
}

/// Checks the name of a resource of a quota.
pub(super) fn quota_resource_name(errors: &mut Errors, at: &At<'_>, name: &str) {
    qualified(errors, at, name);
    if !name.contains('/') && !is_standard(name) {
        errors.push(at.invalid_value(name, "must be a standard resource for quota"));
    }
}

/// Checks the name of a resource of a container.
pub(super) fn container_resource_name(errors: &mut Errors, at: &At<'_>, name: &str) {
    qualified(errors, at, name);
    if !name.contains('/') {
        if !is_container_standard(name) {
            errors.push(at.invalid_value(name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(at.invalid_value(name, "doesn't follow extended resource name standard"));
    }
}

/// The amount at a place, if it is one.
pub(super) fn quantity(at: &At<'_>) -> Option<Quantity> {
    at.text().parse().ok()
}

/// Checks an amount: not negative, and whole where it is counted.
pub(super) fn check_quantity(errors: &mut Errors, at: &At<'_>, name: &str) {
    let Some(quantity) = quantity(at) else { return };
    if quantity.sign() < 0 {
        errors.push(at.invalid("must be greater than or equal to 0"));
    }
    if is_whole(name) && quantity.milli_value() % 1000 != 0 {
        errors.push(at.invalid("must be an integer"));
    }
}

/// Requests and limits of a container (or pod), in upstream's order.
pub(super) fn requirements(errors: &mut Errors, resources: &At<'_>) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    let asks_for = |name: &str, huge: &mut bool, other: &mut bool| {
        *huge |= is_huge_page(name);
        *other |= matches!(name, "cpu" | "memory");
    };
    let (mut huge, mut other) = (false, false);
    for (name, amount) in limits.entries() {
        container_resource_name(errors, &amount, name);
        check_quantity(errors, &amount, name);
        asks_for(name, &mut huge, &mut other);
    }
    for (name, amount) in requests.entries() {
        container_resource_name(errors, &amount, name);
        check_quantity(errors, &amount, name);
        asks_for(name, &mut huge, &mut other);
        let limit = limits.key(name);
        let (Some(request), limited) = (quantity(&amount), quantity(&limit)) else { continue };
        match limited {
            Some(limit) if !may_overcommit(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(requests.invalid_value(amount.text(), detail));
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(requests.invalid_value(amount.text(), detail));
            }
            None if !may_overcommit(name) => {
                errors.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
    if huge && !other {
        errors.push(resources.forbidden("HugePages require cpu or memory"));
    }
}

/// A limit range's `min <= defaultRequest <= default <= max`, by resource.
pub(super) fn ordered_limits(errors: &mut Errors, limit: &At<'_>) {
    const ORDER: [(&str, &str, &str); 5] = [
        ("min", "max", "min value"),
        ("min", "defaultRequest", "min value"),
        ("defaultRequest", "max", "default request value"),
        ("defaultRequest", "default", "default request value"),
        ("default", "max", "default value"),
    ];
    for (low, high, text) in ORDER {
        for (name, amount) in limit.get(low).entries() {
            let other = limit.get(high).key(name);
            let (Some(a), Some(b)) = (quantity(&amount), quantity(&other)) else { continue };
            if a > b {
                let high_text = match high {
                    "max" => "max value",
                    "default" => "default limit value",
                    _ => "default request value",
                };
                let at = if low == "min" && high == "defaultRequest" { &other } else { &amount };
                let detail = if low == "min" && high == "defaultRequest" {
                    format!("min value {a} is greater than default request value {b}")
                } else {
                    format!("{text} {a} is greater than {high_text} {b}")
                };
                errors.push(at.invalid(detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn requests_stay_within_limits() {
        for (resources, expected) in [
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}), vec![]),
            (
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}),
                vec!["requests: Invalid value: \"2\": must be less than or equal to cpu limit of 500m"],
            ),
            (
                json!({"requests": {"example.com/a": "1"}}),
                vec!["limits: Required value: Limit must be set for non overcommitable resources"],
            ),
            (
                json!({"limits": {"gpu": "1"}}),
                vec!["limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers"],
            ),
            (
                json!({"limits": {"cpu": "-1"}}),
                vec!["limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
        ] {
            let mut errors = Vec::new();
            requirements(&mut errors, &At::root(&resources));
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{resources}");
        }
    }
}
