//! Amounts of resources: what pods ask for and nodes have.
//!
//! Source: "Resource Management for Pods and Containers", KEP-753 (restartable init containers), KEP-2837 (resources of
//! the pod as a whole).

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// CPU that scoring assumes for a container that asks for none, in thousandths of a core.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory that scoring assumes for a container that asks for none, in bytes.
pub const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of `ephemeral-storage`.
    pub ephemeral_storage: i64,
    /// Everything else by name: huge pages, devices.
    pub scalar: BTreeMap<Arc<str>, i64>,
}

type List = BTreeMap<String, Quantity>;

fn amount(quantity: &Quantity) -> Amount {
    // The API server admits no other text; an amount of zero is what upstream's unmarshalling would not get to either.
    quantity.0.parse().unwrap_or(Amount::new(0, apimachinery::quantity::Format::DecimalSi))
}

impl Resources {
    /// From a resource list; `pods` is not an amount and left out.
    pub fn from_list(list: &List) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            let amount = amount(quantity);
            match name.as_str() {
                "cpu" => resources.milli_cpu = amount.milli_value(),
                "memory" => resources.memory = amount.value(),
                "ephemeral-storage" => resources.ephemeral_storage = amount.value(),
                "pods" => {}
                other => drop(resources.scalar.insert(other.into(), amount.value())),
            }
        }
        resources
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let own = self.scalar.entry(name.clone()).or_default();
            *own = with(*own, *amount);
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// The larger of each.
    pub fn maximise(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// Asks for nothing at all.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.values().all(|amount| *amount == 0)
    }
}

/// What a container asks for, with `defaults` for CPU and memory it does not mention.
fn of_container(requirements: Option<&ResourceRequirements>, defaults: (i64, i64)) -> Resources {
    let empty = List::new();
    let requests = requirements.and_then(|r| r.requests.as_ref()).unwrap_or(&empty);
    let mut resources = Resources::from_list(requests);
    if !requests.contains_key("cpu") {
        resources.milli_cpu = defaults.0;
    }
    if !requests.contains_key("memory") {
        resources.memory = defaults.1;
    }
    resources
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod asks for: its containers together, or what its init containers need one after the other if that is more,
/// plus the overhead of its runtime class.
fn of_pod(spec: &PodSpec, defaults: (i64, i64)) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of_container(container.resources.as_ref(), defaults));
    }
    let (mut sidecars, mut init) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of_container(container.resources.as_ref(), defaults);
        if is_sidecar(container) {
            // It goes on running beside everything that starts later.
            total.add(&needs);
            sidecars.add(&needs);
            needs = sidecars.clone();
        } else {
            needs.add(&sidecars);
        }
        init.maximise(&needs);
    }
    total.maximise(&init);
    if let Some(requests) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole = Resources::from_list(requests);
        if requests.contains_key("cpu") {
            total.milli_cpu = whole.milli_cpu;
        }
        if requests.contains_key("memory") {
            total.memory = whole.memory;
        }
        total.scalar.extend(whole.scalar);
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(overhead));
    }
    total
}

/// What a pod asks for.
pub fn requests(spec: &PodSpec) -> Resources {
    of_pod(spec, (0, 0))
}

/// CPU and memory that scoring counts for a pod: containers that ask for none count a little.
pub fn non_zero_requests(spec: &PodSpec) -> (i64, i64) {
    let resources = of_pod(spec, (DEFAULT_MILLI_CPU, DEFAULT_MEMORY));
    (resources.milli_cpu, resources.memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_ask_for_the_larger_of_their_phases() {
        let spec = |value| serde_json::from_value::<PodSpec>(value).expect("a spec");
        let c = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}});
        let sidecar = |cpu: &str| {
            let mut container = c("s", cpu);
            container["restartPolicy"] = json!("Always");
            container
        };
        let cases = [
            (json!({"containers": [c("a", "100m"), c("b", "1")]}), 1100),
            (json!({"containers": [c("a", "100m")], "initContainers": [c("i", "2")]}), 2000),
            (json!({"containers": [c("a", "1")], "initContainers": [sidecar("500m"), c("i", "800m")]}), 1500),
            (
                json!({"containers": [c("a", "100m")], "initContainers": [sidecar("500m"), c("i", "800m")]}),
                1300,
            ),
            (json!({"containers": [c("a", "100m")], "overhead": {"cpu": "50m"}}), 150),
            (json!({"containers": [c("a", "100m")], "resources": {"requests": {"cpu": "3"}}}), 3000),
        ];
        for (value, cpu) in cases {
            assert_eq!(requests(&spec(value.clone())).milli_cpu, cpu, "{value}");
        }
        let none = spec(json!({"containers": [{"name": "a"}]}));
        assert!(requests(&none).is_zero());
        assert_eq!(non_zero_requests(&none), (DEFAULT_MILLI_CPU, DEFAULT_MEMORY));
    }
}
