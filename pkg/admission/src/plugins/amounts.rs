//! Resource lists: what containers and pods ask for. Source: `k8s.io/component-helpers/resource` (PodRequests).

use std::collections::BTreeMap;

use apimachinery::Value;
use apimachinery::meta::{at, str_at};
use apimachinery::quantity::Quantity;

use super::items;

/// Amounts by resource name.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// A resource list as the API writes it; what is no quantity is left out, as validation refuses it.
pub(super) fn amounts(list: Option<&Value>) -> Amounts {
    list.and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let quantity = match value {
                Value::String(text) => text.parse().ok()?,
                other => other.to_string().parse().ok()?,
            };
            Some((name.clone(), quantity))
        })
        .collect()
}

/// Adds amounts to others.
pub(super) fn add(to: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        let sum = match to.get(name) {
            // beyond 38 digits the larger of both is as good an answer as any
            Some(have) => have.checked_add(*quantity).unwrap_or(*have.max(quantity)),
            None => *quantity,
        };
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        if to.get(name).is_none_or(|have| have < quantity) {
            to.insert(name.clone(), *quantity);
        }
    }
}

/// What a pod asks for of one kind (`requests` or `limits`): its containers together, or more while it starts, and its
/// overhead; its own list counts before that of its containers.
pub(super) fn of_pod(pod: &Value, kind: &str) -> Amounts {
    let of = |container: &Value| amounts(at(container, &["resources", kind]));
    let mut running = Amounts::new();
    for container in items(pod, &["spec", "containers"]) {
        add(&mut running, &of(container));
    }
    let (mut starting, mut sidecars) = (Amounts::new(), Amounts::new());
    for container in items(pod, &["spec", "initContainers"]) {
        let own = of(container);
        if str_at(container, &["restartPolicy"]) == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            raise(&mut starting, &together);
        }
    }
    raise(&mut running, &starting);
    for (name, quantity) in amounts(at(pod, &["spec", "resources", kind])) {
        running.insert(name, quantity);
    }
    let overhead = amounts(at(pod, &["spec", "overhead"]));
    if kind == "requests" {
        add(&mut running, &overhead);
    } else {
        // a pod without a limit does not get one from its overhead
        let limited: Amounts = overhead.into_iter().filter(|(name, _)| running.contains_key(name)).collect();
        add(&mut running, &limited);
    }
    running
}

/// `cpu=1,memory=2Gi`, sorted.
pub(super) fn print(amounts: &Amounts) -> String {
    let texts: Vec<String> = amounts.iter().map(|(name, quantity)| format!("{name}={quantity}")).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_ask_for_the_most_they_need() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let cases = [
            (json!({"containers": [container("100m"), container("1")]}), "cpu=1100m"),
            (
                json!({"containers": [container("100m")], "initContainers": [container("2"), container("1")]}),
                "cpu=2",
            ),
            (
                json!({"containers": [container("1")], "initContainers": [sidecar, container("1500m")]}),
                "cpu=1600m",
            ),
            (
                json!({"containers": [container("1")], "overhead": {"cpu": "250m", "memory": "1Mi"}}),
                "cpu=1250m,memory=1Mi",
            ),
            (json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}}), "cpu=3"),
            (json!({"containers": [{}]}), ""),
        ];
        for (spec, expected) in cases {
            assert_eq!(print(&of_pod(&json!({"spec": spec}), "requests")), expected, "{spec}");
        }
        let limits = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}], "overhead": {"cpu": "1", "memory": "1Mi"}}});
        assert_eq!(print(&of_pod(&limits, "limits")), "cpu=2");
    }
}
