//! What pods, services and claims use of a quota, and which pods its scopes hold. Pure.

use std::collections::BTreeMap;

use apimachinery::amounts::of_containers;
pub(super) use apimachinery::amounts::{Amounts, add};
use apimachinery::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, ResourceQuota, ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::ResourceExt;

use crate::pods;

pub(super) fn whole(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

fn read(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    list.into_iter().flatten().filter_map(|(name, text)| Some((name.clone(), text.0.parse().ok()?))).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Requests,
    Limits,
}

fn asked(container: &Container, kind: Kind) -> Amounts {
    let resources = container.resources.as_ref();
    read(match kind {
        Kind::Requests => resources.and_then(|r| r.requests.as_ref()),
        Kind::Limits => resources.and_then(|r| r.limits.as_ref()),
    })
}

/// What a pod needs: its containers together, or more while it starts, and its overhead; amounts of the pod as a whole
/// count before those of its containers.
fn needed(pod: &Pod, kind: Kind) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let containers = spec.containers.iter().map(|container| asked(container, kind));
    let init = spec.init_containers.iter().flatten();
    let init =
        init.map(|container| (asked(container, kind), container.restart_policy.as_deref() == Some("Always")));
    let mut running = of_containers(containers, init);
    let whole = spec.resources.as_ref();
    running.extend(read(match kind {
        Kind::Requests => whole.and_then(|r| r.requests.as_ref()),
        Kind::Limits => whole.and_then(|r| r.limits.as_ref()),
    }));
    let mut overhead = read(spec.overhead.as_ref());
    if kind == Kind::Limits {
        // a pod without a limit does not get one from its overhead
        overhead.retain(|name, _| running.contains_key(name));
    }
    add(&mut running, &overhead);
    running
}

pub(super) fn of_pod(pod: &Pod) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), whole(1))]);
    if pods::is_finished(pod) {
        return usage;
    }
    usage.insert("pods".into(), whole(1));
    for (name, quantity) in needed(pod, Kind::Requests) {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        usage.insert(format!("requests.{name}"), quantity);
        if plain {
            usage.insert(name, quantity);
        }
    }
    for (name, quantity) in needed(pod, Kind::Limits) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), quantity);
        }
    }
    usage
}

pub(super) fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or(&[]);
    let explicit = ports.iter().filter(|port| port.node_port.is_some_and(|number| number != 0)).count();
    let allocates = spec.and_then(|spec| spec.allocate_load_balancer_node_ports) != Some(false);
    let (node_ports, balancers) = match spec.and_then(|spec| spec.type_.as_deref()) {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") => (if allocates { ports.len() } else { explicit }, 1),
        _ => (0, 0),
    };
    Amounts::from([
        ("count/services".to_owned(), whole(1)),
        ("services".to_owned(), whole(1)),
        ("services.nodeports".to_owned(), whole(node_ports)),
        ("services.loadbalancers".to_owned(), whole(balancers)),
    ])
}

pub(super) fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut usage = Amounts::from([
        ("count/persistentvolumeclaims".to_owned(), whole(1)),
        ("persistentvolumeclaims".to_owned(), whole(1)),
    ]);
    let spec = claim.spec.as_ref();
    let class = claim
        .annotations()
        .get("volume.beta.kubernetes.io/storage-class")
        .or_else(|| spec.and_then(|spec| spec.storage_class_name.as_ref()))
        .filter(|class| !class.is_empty());
    let size = read(spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref())).remove("storage");
    if let Some(class) = class {
        usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), whole(1));
    }
    if let Some(size) = size {
        usage.insert("requests.storage".into(), size);
        if let Some(class) = class {
            usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), size);
        }
    }
    usage
}

/// Whether no container asks for CPU or memory.
fn is_best_effort(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let computes = |amounts: Amounts| {
        amounts
            .iter()
            .any(|(name, quantity)| matches!(name.as_str(), "cpu" | "memory") && !quantity.is_zero())
    };
    let whole = spec.resources.as_ref();
    let pod_asks = computes(read(whole.and_then(|r| r.requests.as_ref())))
        || computes(read(whole.and_then(|r| r.limits.as_ref())));
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    !pod_asks && !containers.any(|c| computes(asked(c, Kind::Requests)) || computes(asked(c, Kind::Limits)))
}

/// Whether affinity reaches into other namespaces.
fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return false };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = near
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let preferred = near
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()))
        .flatten()
        .map(|weighted| &weighted.pod_affinity_term);
    required.chain(preferred).any(|term| {
        term.namespaces.as_ref().is_some_and(|list| !list.is_empty()) || term.namespace_selector.is_some()
    })
}

/// A quota's scopes; it counts only pods that all of them hold.
pub(super) struct Scopes(Vec<ScopedResourceSelectorRequirement>);

impl Scopes {
    pub(super) fn of(quota: &ResourceQuota) -> Self {
        let spec = quota.spec.as_ref();
        let plain = spec.and_then(|spec| spec.scopes.as_ref()).into_iter().flatten().map(|scope| {
            ScopedResourceSelectorRequirement {
                scope_name: scope.clone(),
                operator: "Exists".into(),
                values: None,
            }
        });
        let selected = spec
            .and_then(|spec| spec.scope_selector.as_ref()?.match_expressions.as_ref())
            .into_iter()
            .flatten()
            .cloned();
        Self(plain.chain(selected).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn holds_pod(&self, pod: &Pod) -> bool {
        self.0.iter().all(|scope| {
            let spec = pod.spec.as_ref();
            match scope.scope_name.as_str() {
                "Terminating" => spec.and_then(|s| s.active_deadline_seconds).is_some(),
                "NotTerminating" => spec.and_then(|s| s.active_deadline_seconds).is_none(),
                "BestEffort" => is_best_effort(pod),
                "NotBestEffort" => !is_best_effort(pod),
                "CrossNamespacePodAffinity" => crosses_namespaces(pod),
                "PriorityClass" => {
                    let class =
                        spec.and_then(|s| s.priority_class_name.as_ref()).filter(|class| !class.is_empty());
                    let listed =
                        class.is_some_and(|class| scope.values.iter().flatten().any(|value| value == class));
                    match scope.operator.as_str() {
                        "In" => listed,
                        "NotIn" => !listed,
                        "Exists" => class.is_some(),
                        "DoesNotExist" => class.is_none(),
                        _ => false,
                    }
                }
                _ => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn shown(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, quantity)| format!("{name}={quantity}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn usage_is_counted_under_the_names_quotas_use() {
        let container =
            |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "2"}}});
        let running = pod(
            json!({"containers": [container("500m"), container("1")], "initContainers": [container("2")]}),
        );
        assert_eq!(shown(&of_pod(&running)), "count/pods=1 cpu=2 limits.cpu=4 pods=1 requests.cpu=2");
        let mut done = running;
        done.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status");
        assert_eq!(shown(&of_pod(&done)), "count/pods=1");
        let service: Service = serde_json::from_value(
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}),
        )
        .expect("a service");
        assert_eq!(
            shown(&of_service(&service)),
            "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"
        );
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .expect("a claim");
        assert_eq!(of_claim(&claim).len(), 5);
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |spec: Value| -> ResourceQuota {
            serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec})).expect("a quota")
        };
        let plain = pod(json!({"containers": [{"name": "c"}]}));
        let limited = pod(json!({"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [
            {"name": "c", "resources": {"limits": {"memory": "1Mi"}}}]}));
        let class = |operator: &str| {
            json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}})
        };
        let cases = [
            (json!({}), true, true),
            (json!({"scopes": ["Terminating"]}), false, true),
            (json!({"scopes": ["NotTerminating"]}), true, false),
            (json!({"scopes": ["BestEffort"]}), true, false),
            (json!({"scopes": ["NotBestEffort", "Terminating"]}), false, true),
            (class("In"), false, true),
            (class("NotIn"), true, false),
            (class("DoesNotExist"), true, false),
        ];
        for (spec, holds_plain, holds_limited) in cases {
            let scopes = Scopes::of(&quota(spec.clone()));
            assert_eq!(
                (scopes.holds_pod(&plain), scopes.holds_pod(&limited)),
                (holds_plain, holds_limited),
                "{spec}"
            );
        }
    }
}
