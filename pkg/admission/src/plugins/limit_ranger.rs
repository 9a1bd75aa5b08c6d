//! LimitRanges: defaults for containers, bounds for containers, pods and claims.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/limitranger`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, at, metadata_mut, str_at};
use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use apimachinery::{Map, json};
use async_trait::async_trait;

use super::amounts::{Amounts, amounts, of_pod};
use super::items;
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Keeps objects within the limits of their namespace.
pub(super) struct LimitRanger {
    source: Arc<dyn ObjectSource>,
}

/// Defaults for one container. Gives the names of what was set.
fn complete(container: &mut Value, kind: &str, defaults: &Map) -> Vec<String> {
    let Some(map) = container.as_object_mut() else { return Vec::new() };
    let resources = map.entry("resources").or_insert_with(|| json!({}));
    let Some(list) =
        resources.as_object_mut().and_then(|r| r.entry(kind).or_insert_with(|| json!({})).as_object_mut())
    else {
        return Vec::new();
    };
    let missing: Vec<String> =
        defaults.keys().filter(|name| !list.contains_key(name)).map(String::from).collect();
    for name in &missing {
        list.insert(name.clone().into(), defaults[name].clone());
    }
    missing
}

fn merged<'a>(limits: impl Iterator<Item = &'a Value>, field: &str) -> Map {
    limits
        .filter(|limit| str_at(limit, &["type"]) == "Container")
        .filter_map(|limit| at(limit, &[field]).and_then(Value::as_object))
        .flat_map(Clone::clone)
        .collect()
}

/// Fills in what containers do not say, and notes it on the pod.
fn default_pod(pod: &mut Value, range: &Value) {
    let limits = items(range, &["spec", "limits"]);
    let (requests, bounds) = (merged(limits.iter(), "defaultRequest"), merged(limits.iter(), "default"));
    if requests.is_empty() && bounds.is_empty() {
        return;
    }
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = str_at(container, &["name"]).to_owned();
            for (kind, defaults, word) in [("requests", &requests, "request"), ("limits", &bounds, "limit")] {
                if defaults.is_empty() {
                    continue;
                }
                let set = complete(container, kind, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    if let Some(metadata) = metadata_mut(pod)
        && let Some(map) = metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
    {
        map.insert(ANNOTATION.into(), json!(format!("LimitRanger plugin set: {}", notes.join("; "))));
    }
}

/// What is asked for and where it ends.
struct Asked {
    requests: Amounts,
    limits: Amounts,
}

/// Problems of what is asked for under one limit.
fn problems(limit: &Value, asked: &Asked) -> Vec<String> {
    let kind = str_at(limit, &["type"]);
    let mut found = Vec::new();
    for (name, least) in amounts(at(limit, &["min"])) {
        let start = format!("minimum {name} usage per {kind} is {least}");
        let (request, bound) = (asked.requests.get(&name), asked.limits.get(&name));
        match request {
            None => found.push(format!("{start}.  No request is specified")),
            Some(request) if *request < least => found.push(format!("{start}, but request is {request}")),
            Some(_) => {
                if let Some(bound) = bound.filter(|b| **b < least) {
                    found.push(format!("{start}, but limit is {bound}"));
                }
            }
        }
    }
    for (name, most) in amounts(at(limit, &["max"])) {
        let start = format!("maximum {name} usage per {kind} is {most}");
        let (request, bound) = (asked.requests.get(&name), asked.limits.get(&name));
        match bound {
            None => found.push(format!("{start}.  No limit is specified")),
            Some(bound) if *bound > most => found.push(format!("{start}, but limit is {bound}")),
            Some(_) => {
                if let Some(request) = request.filter(|r| **r > most) {
                    found.push(format!("{start}, but request is {request}"));
                }
            }
        }
    }
    for (name, ratio) in amounts(at(limit, &["maxLimitRequestRatio"])) {
        found.extend(ratio_problem(&name, kind, ratio, asked));
    }
    found
}

fn ratio_problem(name: &str, kind: &str, most: Quantity, asked: &Asked) -> Option<String> {
    let start = format!("{name} max limit to request ratio per {kind} is {most}");
    let value = |list: &Amounts| list.get(name).map(|q| q.to_f64()).filter(|v| *v != 0.0);
    let Some(request) = value(&asked.requests) else {
        return Some(format!("{start}, but no request is specified or request is 0"));
    };
    let Some(bound) = value(&asked.limits) else {
        return Some(format!("{start}, but no limit is specified or limit is 0"));
    };
    let ratio = bound / request;
    (ratio > most.to_f64()).then(|| format!("{start}, but provided ratio is {ratio:.6}"))
}

fn pod_problems(pod: &Value, range: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for limit in items(range, &["spec", "limits"]) {
        match str_at(limit, &["type"]) {
            "Container" => {
                for list in ["containers", "initContainers"] {
                    for container in items(pod, &["spec", list]) {
                        let asked = Asked {
                            requests: amounts(at(container, &["resources", "requests"])),
                            limits: amounts(at(container, &["resources", "limits"])),
                        };
                        found.extend(problems(limit, &asked));
                    }
                }
            }
            "Pod" => {
                let asked = Asked { requests: of_pod(pod, "requests"), limits: of_pod(pod, "limits") };
                found.extend(problems(limit, &asked));
            }
            _ => {}
        }
    }
    found
}

/// A claim has requests only, and those are its size.
fn claim_problems(claim: &Value, range: &Value) -> Vec<String> {
    let requests = amounts(at(claim, &["spec", "resources", "requests"]));
    let asked = Asked { limits: requests.clone(), requests };
    items(range, &["spec", "limits"])
        .iter()
        .filter(|limit| str_at(limit, &["type"]) == "PersistentVolumeClaim")
        .flat_map(|limit| problems(limit, &asked))
        .collect()
}

impl LimitRanger {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }

    fn ranges(&self, namespace: &str) -> Vec<Value> {
        let ranges = self.source.list(&GroupResource::new("", "limitranges"), Some(namespace));
        ranges.iter().filter_map(auth::CachedObject::value).collect()
    }
}

/// Whether limits are about this request: new pods, resized ones, and claims.
fn concerns(request: &AdmissionRequest<'_>) -> bool {
    let deleting = at(request.object(), &["metadata", "deletionTimestamp"]).is_some();
    let pod = request.is("", "pods") && request.operation == Operation::Create
        || request.is_sub("", "pods", "resize");
    !deleting && (pod || request.is("", "persistentvolumeclaims"))
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate, Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if concerns(request) && request.is("", "pods") {
            for range in self.ranges(&request.namespace) {
                if let Some(pod) = request.object.as_mut() {
                    default_pod(pod, &range);
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !concerns(request) {
            return Ok(());
        }
        for range in self.ranges(&request.namespace) {
            let mut found = if request.gvr.resource == "pods" {
                pod_problems(request.object(), &range)
            } else {
                claim_problems(request.object(), &range)
            };
            found.dedup();
            match found.as_slice() {
                [] => {}
                [one] => return Err(request.forbidden(one)),
                many => return Err(request.forbidden(&format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use auth::UserInfo;

    fn plugin(limits: Value) -> LimitRanger {
        let range = json!({"metadata": {"namespace": "ns", "name": "r"}, "spec": {"limits": limits}});
        LimitRanger::new(Source::new([("", "limitranges", range)]))
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[tokio::test]
    async fn containers_get_defaults() {
        let limits = json!([{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]);
        let user = UserInfo::default();
        let create =
            request(Operation::Create, "/pods", &user, Some(pod(json!({"limits": {"cpu": "2"}}))), None);
        let made = run(&plugin(limits), create).await.expect("ok");
        assert_eq!(
            made["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            made["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[tokio::test]
    async fn bounds_are_kept() {
        let user = UserInfo::default();
        let cases = [
            (
                json!([{"type": "Container", "min": {"cpu": "100m"}}]),
                json!({"requests": {"cpu": "50m"}}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!([{"type": "Container", "min": {"cpu": "100m"}}]),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!([{"type": "Container", "max": {"memory": "1Gi"}}]),
                json!({"limits": {"memory": "2Gi"}}),
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            ),
            (
                json!([{"type": "Container", "max": {"memory": "1Gi"}}]),
                json!({"limits": {"memory": "1024Mi"}}),
                "",
            ),
            (
                json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}]),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                json!([{"type": "Pod", "max": {"cpu": "1"}}]),
                json!({"limits": {"cpu": "2"}}),
                "maximum cpu usage per Pod is 1, but limit is 2",
            ),
            (
                json!([{"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}}]),
                json!({}),
                "[maximum cpu usage per Container is 1.  No limit is specified, maximum memory usage per Container is 1Gi.  No limit is specified]",
            ),
        ];
        for (limits, resources, expected) in cases {
            let create = request(Operation::Create, "/pods", &user, Some(pod(resources)), None);
            let message = run(&plugin(limits), create).await.err().unwrap_or_default();
            assert_eq!(message.strip_prefix("pods \"p\" is forbidden: ").unwrap_or(""), expected);
        }
        let claim = json!({"metadata": {"namespace": "ns", "name": "c"}, "spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let limits = json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]);
        let create = request(Operation::Create, "/persistentvolumeclaims", &user, Some(claim), None);
        let message = run(&plugin(limits), create).await.expect_err("too big");
        assert!(
            message.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but limit is 5Gi"),
            "{message}"
        );
    }
}
