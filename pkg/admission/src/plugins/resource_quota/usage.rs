//! What an object uses of a quota, and which quotas it is about.
//! Source: `k8s.io/kubernetes/pkg/quota/v1/evaluator/core`, `k8s.io/apiserver/pkg/quota/v1/generic`.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Value;
use apimachinery::meta::{GroupResource, at, str_at};
use apimachinery::quantity::Quantity;

use super::super::amounts::{Amounts, amounts, of_pod};
use super::super::items;
use crate::{AdmissionRequest, Operation};

/// Core resources that quotas also know by their plain name.
const PLAIN_NAMES: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// Resources that are counted by nobody: they come and go in numbers, or are not kept.
const IGNORED: [(&str, &str); 8] = [
    ("", "events"),
    ("events.k8s.io", "events"),
    ("", "bindings"),
    ("", "componentstatuses"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
];

fn one() -> Quantity {
    count(1)
}

fn count(number: usize) -> Quantity {
    number.to_string().parse().unwrap_or_default()
}

/// Whether quotas are about this request at all.
pub(super) fn concerns(request: &AdmissionRequest<'_>) -> bool {
    let (group, resource) = (request.gvr.group.as_str(), request.gvr.resource.as_str());
    if request.namespace.is_empty()
        || IGNORED.contains(&(group, resource))
        || (group, resource) == ("", "namespaces")
    {
        return false;
    }
    match (group, resource, request.subresource.as_str()) {
        ("", "pods", "resize") => request.operation == Operation::Update,
        ("", "services" | "persistentvolumeclaims", "") => {
            matches!(request.operation, Operation::Create | Operation::Update)
        }
        (_, _, "") => request.operation == Operation::Create,
        _ => false,
    }
}

/// The name under which objects of a resource are counted.
fn count_name(resource: &GroupResource) -> String {
    format!("count/{resource}")
}

/// Whether a pod no longer uses anything.
fn is_over(pod: &Value) -> bool {
    matches!(str_at(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

fn pod_usage(pod: &Value) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), one())]);
    if is_over(pod) {
        return usage;
    }
    usage.insert("pods".into(), one());
    for (name, quantity) in of_pod(pod, "requests") {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        usage.insert(format!("requests.{name}"), quantity);
        if plain {
            usage.insert(name, quantity);
        }
    }
    for (name, quantity) in of_pod(pod, "limits") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), quantity);
        }
    }
    usage
}

fn service_usage(service: &Value) -> Amounts {
    let kind = str_at(service, &["spec", "type"]);
    let ports = items(service, &["spec", "ports"]);
    let explicit =
        ports.iter().filter(|p| at(p, &["nodePort"]).and_then(Value::as_i64).is_some_and(|n| n != 0));
    let allocates =
        at(service, &["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) != Some(false);
    let (node_ports, balancers) = match kind {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if allocates => (ports.len(), 1),
        "LoadBalancer" => (explicit.count(), 1),
        _ => (0, 0),
    };
    Amounts::from([
        ("count/services".to_owned(), one()),
        ("services".to_owned(), one()),
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(balancers)),
    ])
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([
        ("count/persistentvolumeclaims".to_owned(), one()),
        ("persistentvolumeclaims".to_owned(), one()),
    ]);
    let annotated = str_at(claim, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    let class = if annotated.is_empty() { str_at(claim, &["spec", "storageClassName"]) } else { annotated };
    let size = amounts(at(claim, &["spec", "resources", "requests"])).remove("storage");
    if !class.is_empty() {
        usage.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
    }
    if let Some(size) = size {
        usage.insert("requests.storage".into(), size);
        if !class.is_empty() {
            usage.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), size);
        }
    }
    usage
}

/// What an object uses.
pub(super) fn usage(resource: &GroupResource, object: &Value) -> Amounts {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => pod_usage(object),
        ("", "services") => service_usage(object),
        ("", "persistentvolumeclaims") => claim_usage(object),
        (group, plural) => {
            let mut usage = Amounts::from([(count_name(resource), one())]);
            if group.is_empty() && PLAIN_NAMES.contains(&plural) {
                usage.insert(plural.to_owned(), one());
            }
            usage
        }
    }
}

/// Whether a name in a quota is about a resource.
pub(super) fn is_about(resource: &GroupResource, name: &str) -> bool {
    if name == count_name(resource) {
        return true;
    }
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "pods") => {
            let compute = [
                "cpu",
                "memory",
                "ephemeral-storage",
                "pods",
                "limits.cpu",
                "limits.memory",
                "limits.ephemeral-storage",
            ];
            compute.contains(&name)
                || name.starts_with("hugepages-")
                || (name.starts_with("requests.") && name != "requests.storage")
        }
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            matches!(name, "persistentvolumeclaims" | "requests.storage")
                || name.ends_with(".storageclass.storage.k8s.io/requests.storage")
                || name.ends_with(".storageclass.storage.k8s.io/persistentvolumeclaims")
        }
        ("", plural) => PLAIN_NAMES.contains(&plural) && name == plural,
        _ => false,
    }
}

/// What a pod must say because a quota counts it: upstream's sentence, `None` when it says it all.
pub(super) fn unsaid(pod: &Value, counted: &BTreeSet<String>) -> Option<String> {
    const REQUIRED: [(&str, &str, &str); 6] = [
        ("cpu", "requests", "cpu"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
    ];
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, kind, resource) in REQUIRED.into_iter().filter(|(name, _, _)| counted.contains(*name)) {
        if at(pod, &["spec", "resources", kind, resource]).is_some() {
            continue;
        }
        for list in ["containers", "initContainers"] {
            for container in items(pod, &["spec", list]) {
                if at(container, &["resources", kind, resource]).is_none() {
                    missing.entry(name).or_default().insert(str_at(container, &["name"]));
                }
            }
        }
    }
    if missing.is_empty() {
        return None;
    }
    let texts: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    Some(format!("must specify {}", texts.join("; ")))
}

/// Whether no container of a pod asks for CPU or memory.
fn is_best_effort(pod: &Value) -> bool {
    let computes = |list: Option<&Value>| {
        amounts(list)
            .iter()
            .any(|(name, q)| matches!(name.as_str(), "cpu" | "memory") && *q != Quantity::default())
    };
    let asks = |owner: &Value, path: &[&str]| {
        ["requests", "limits"].iter().any(|kind| computes(at(owner, path).and_then(|r| at(r, &[kind]))))
    };
    let containers = ["containers", "initContainers"].iter().flat_map(|list| items(pod, &["spec", list]));
    !asks(pod, &["spec", "resources"]) && !containers.into_iter().any(|c| asks(c, &["resources"]))
}

/// Whether a pod's affinity reaches into other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    let reaches = |term: &Value| {
        !items(term, &["namespaces"]).is_empty()
            || at(term, &["namespaceSelector"]).is_some_and(|s| !s.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let path = |list| ["spec", "affinity", *kind, list];
        items(pod, &path("requiredDuringSchedulingIgnoredDuringExecution")).iter().any(reaches)
            || items(pod, &path("preferredDuringSchedulingIgnoredDuringExecution"))
                .iter()
                .any(|weighted| reaches(&weighted["podAffinityTerm"]))
    })
}

/// Whether an object is in one scope of a quota.
fn in_scope(resource: &GroupResource, object: &Value, requirement: &Value) -> bool {
    let name = str_at(requirement, &["scopeName"]);
    let is = |plural: &str| resource.group.is_empty() && resource.resource == plural;
    if name == "VolumeAttributesClass" && is("persistentvolumeclaims") {
        let class = str_at(object, &["spec", "volumeAttributesClassName"]);
        return named(requirement, class);
    }
    if !is("pods") {
        return false;
    }
    let terminating = at(object, &["spec", "activeDeadlineSeconds"])
        .and_then(Value::as_i64)
        .is_some_and(|seconds| seconds >= 0);
    match name {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(object),
        "NotBestEffort" => !is_best_effort(object),
        "PriorityClass" => named(requirement, str_at(object, &["spec", "priorityClassName"])),
        "CrossNamespacePodAffinity" => crosses_namespaces(object),
        _ => false,
    }
}

/// Whether a class is one a scope's operator and values are about.
fn named(requirement: &Value, class: &str) -> bool {
    let listed = items(requirement, &["values"]).iter().any(|v| v == class);
    match str_at(requirement, &["operator"]) {
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// Whether an object is in all scopes of a quota.
pub(super) fn in_scopes(resource: &GroupResource, object: &Value, quota: &Value) -> bool {
    let plain = items(quota, &["spec", "scopes"])
        .iter()
        .map(|scope| apimachinery::json!({"scopeName": scope, "operator": "Exists"}));
    let selected = items(quota, &["spec", "scopeSelector", "matchExpressions"]).iter().cloned();
    plain.chain(selected).all(|requirement| in_scope(resource, object, &requirement))
}

#[cfg(test)]
mod tests {
    use super::super::super::amounts::print;
    use super::*;
    use apimachinery::json;

    fn resource(text: &str) -> GroupResource {
        let (plural, group) = text.split_once('.').unwrap_or((text, ""));
        GroupResource::new(group, plural)
    }

    #[test]
    fn objects_use() {
        let cases = [
            ("secrets", json!({}), "count/secrets=1,secrets=1"),
            ("deployments.apps", json!({}), "count/deployments.apps=1"),
            (
                "services",
                json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
                "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
            ),
            (
                "services",
                json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"nodePort": 1}, {}]}}),
                "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1",
            ),
            (
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
                "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
            ),
            (
                "pods",
                json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1", "example.com/x": "2"}, "limits": {"memory": "1Gi"}}}]}}),
                "count/pods=1,cpu=1,limits.memory=1Gi,pods=1,requests.cpu=1,requests.example.com/x=2",
            ),
            ("pods", json!({"status": {"phase": "Failed"}, "spec": {}}), "count/pods=1"),
        ];
        for (name, object, expected) in cases {
            assert_eq!(print(&usage(&resource(name), &object)), expected);
        }
    }

    #[test]
    fn scopes() {
        let pods = resource("pods");
        let best_effort = json!({"spec": {"containers": [{}]}});
        let burstable = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let scope = |name: &str| json!({"spec": {"scopes": [name]}});
        let class = |operator: &str| json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}}});
        for (quota, first, second) in [
            (scope("BestEffort"), true, false),
            (scope("NotBestEffort"), false, true),
            (scope("Terminating"), false, true),
            (scope("NotTerminating"), true, false),
            (class("In"), false, true),
            (class("NotIn"), true, false),
            (class("Exists"), false, true),
            (json!({"spec": {}}), true, true),
        ] {
            assert_eq!(
                (in_scopes(&pods, &best_effort, &quota), in_scopes(&pods, &burstable, &quota)),
                (first, second),
                "{quota}"
            );
        }
        assert!(!in_scopes(&resource("secrets"), &json!({}), &scope("BestEffort")));
    }

    #[test]
    fn what_is_counted_must_be_said() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1"}}}]}});
        let counted = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(
            unsaid(&pod, &counted(&["limits.cpu", "memory"])).as_deref(),
            Some("must specify limits.cpu for: a; memory for: a,b")
        );
        assert_eq!(unsaid(&pod, &counted(&["pods"])), None);
    }
}
