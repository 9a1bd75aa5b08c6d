//! Resource lists: what pods ask for, read from the tree.

use apimachinery::Value;
use apimachinery::amounts::of_containers;
pub(super) use apimachinery::amounts::{Amounts, add};
use apimachinery::meta::{at, str_at};

use super::items;

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
            Some((name.to_string(), quantity))
        })
        .collect()
}

/// What a pod asks for of one kind (`requests` or `limits`): its containers together, or more while it starts, and its
/// overhead; its own list counts before that of its containers.
pub(super) fn of_pod(pod: &Value, kind: &str) -> Amounts {
    let of = |container: &Value| amounts(at(container, &["resources", kind]));
    let containers = items(pod, &["spec", "containers"]).iter().map(of);
    let init = items(pod, &["spec", "initContainers"]).iter();
    let init = init.map(|container| (of(container), str_at(container, &["restartPolicy"]) == "Always"));
    let mut running = of_containers(containers, init);
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
    use apimachinery::json;

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
