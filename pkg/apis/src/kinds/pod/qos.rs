//! Quality of service. Source: `pkg/apis/core/v1/helper/qos`: it follows from the requests and limits for CPU and
//! memory of all containers, or of the pod itself where it has any (KEP-2837).

use std::collections::BTreeMap;

use apimachinery::Value;
use apimachinery::quantity::Quantity;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    if spec
        .get("resources")
        .is_some_and(|r| !quantities(r, "requests").is_empty() || !quantities(r, "limits").is_empty())
    {
        return of(std::iter::once(&spec["resources"]));
    }
    let containers = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| spec.get(list).and_then(Value::as_array))
        .flatten()
        .map(|container| &container["resources"]);
    of(containers)
}

fn of<'a>(all: impl Iterator<Item = &'a Value>) -> &'static str {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    for resources in all {
        sum(&mut requests, quantities(resources, "requests"));
        let own = quantities(resources, "limits");
        guaranteed &= own.contains_key("cpu") && own.contains_key("memory");
        sum(&mut limits, own);
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.iter().all(|(name, request)| limits.get(name) == Some(request));
    if guaranteed && equal && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

fn quantities<'a>(resources: &'a Value, kind: &str) -> BTreeMap<&'a str, Quantity> {
    let map = resources.get(kind).and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?.parse::<Quantity>().ok()?)))
        .filter(|(_, quantity)| quantity.sign() > 0)
        .collect()
}

fn sum<'a>(total: &mut BTreeMap<&'a str, Quantity>, more: BTreeMap<&'a str, Quantity>) {
    for (name, quantity) in more {
        let entry = total.entry(name).or_default();
        *entry = entry.checked_add(quantity).unwrap_or(*entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn classes() {
        let full =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1024Mi"}});
        for (containers, expected) in [
            (json!([{"resources": full}]), "Guaranteed"),
            (json!([{"resources": full}, {}]), "Burstable"),
            (json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            (json!([{"resources": {"requests": {"nvidia.com/gpu": "1"}}}]), "BestEffort"),
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
        ] {
            assert_eq!(class(&json!({"spec": {"containers": containers}})), expected, "{containers}");
        }
    }
}
