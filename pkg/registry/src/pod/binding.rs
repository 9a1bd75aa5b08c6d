//! `pods/binding` and `bindings`: a pod gets its node.
//! Source: `k8s.io/kubernetes/pkg/registry/core/pod/storage` (BindingREST).

use admission::Operation;
use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupResource, at, metadata_mut, name, str_at, uid};
use apimachinery::status::{FieldError, Status};
use apiserver::{Call, SubresourceHandler, WriteOptions};
use async_trait::async_trait;
use component::http::Body;
use http::Response;
use jiff::Timestamp;

use crate::names::{core, created};

/// Binds pods, by either of the two paths.
pub(crate) struct Binding;

fn problems(binding: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = str_at(binding, &["target", "kind"]);
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if str_at(binding, &["target", "name"]).is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    errors
}

/// The pod with its node, or why it cannot have it.
fn assign(mut pod: Value, binding: &Value, now: Timestamp) -> Result<Value, String> {
    let pod_name = name(&pod).to_owned();
    let wanted = uid(binding);
    if !wanted.is_empty() && wanted != uid(&pod) {
        return Err(format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {}",
            uid(&pod)
        ));
    }
    if at(&pod, &["metadata", "deletionTimestamp"]).is_some() {
        return Err(format!("pod {pod_name} is being deleted, cannot be assigned to a host"));
    }
    let node = str_at(&pod, &["spec", "nodeName"]);
    if !node.is_empty() {
        return Err(format!("pod {pod_name} is already assigned to node {node:?}"));
    }
    if at(&pod, &["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
        return Err(format!("pod {pod_name} has non-empty .spec.schedulingGates"));
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("nodeName".into(), json!(str_at(binding, &["target", "name"])));
    }
    for field in ["annotations", "labels"] {
        let added = at(binding, &["metadata", field]).and_then(Value::as_object).cloned().unwrap_or_default();
        if added.is_empty() {
            continue;
        }
        if let Some(map) =
            metadata_mut(&mut pod).and_then(|m| m.entry(field).or_insert_with(|| json!({})).as_object_mut())
        {
            map.extend(added);
        }
    }
    scheduled(&mut pod, now);
    Ok(pod)
}

/// Sets the condition that the pod has its place.
fn scheduled(pod: &mut Value, now: Timestamp) {
    let generation = at(pod, &["metadata", "generation"]).cloned();
    let Some(root) = pod.as_object_mut() else { return };
    let Some(status) = root.entry("status").or_insert_with(|| json!({})).as_object_mut() else { return };
    status.remove("nominatedNodeName");
    let Some(conditions) = status.entry("conditions").or_insert_with(|| json!([])).as_array_mut() else {
        return;
    };
    let was_true = conditions
        .iter()
        .find(|c| str_at(c, &["type"]) == "PodScheduled" && str_at(c, &["status"]) == "True")
        .map(|c| c["lastTransitionTime"].clone());
    let since = was_true.unwrap_or_else(|| json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    let mut condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": since});
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation;
    }
    match conditions.iter_mut().find(|c| str_at(c, &["type"]) == "PodScheduled") {
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}

#[async_trait]
impl SubresourceHandler for Binding {
    async fn handle(&self, mut call: Call) -> Result<Response<Body>, Status> {
        let mut binding = call.decode_body().await?;
        let info = call.context.info.clone();
        if info.resource == "pods" && name(&binding) != info.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let errors = problems(&binding);
        if !errors.is_empty() {
            return Err(Status::invalid("", "Binding", name(&binding), &errors));
        }
        let dry_run = call.dry_run()?;
        call.admit(Operation::Create, &mut binding, dry_run).await?;
        let (pod, now) = (name(&binding).to_owned(), call.context.now);
        let bind = |current: Value| {
            assign(current, &binding, now)
                .map_err(|why| Status::conflict(&GroupResource::new("", "pods/binding"), &pod, &why))
        };
        let options = WriteOptions { dry_run, rules: false, ..WriteOptions::default() };
        call.store.update(&call.context, &core("pods"), &info.namespace, &pod, "", &bind, &options).await?;
        Ok(created())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_nodes() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("time");
        let binding = json!({"metadata": {"name": "p", "annotations": {"a": "1"}, "labels": {"zone": "z"}}, "target": {"kind": "Node", "name": "n"}});
        let pod = |spec: Value, metadata: Value| {
            let mut pod = json!({"metadata": {"name": "p", "uid": "u", "generation": 1}, "spec": spec});
            pod["metadata"].as_object_mut().expect("map").extend(metadata.as_object().expect("map").clone());
            pod
        };
        let bound = assign(pod(json!({}), json!({"labels": {"app": "x"}})), &binding, now).expect("bound");
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["metadata"]["labels"], json!({"app": "x", "zone": "z"}));
        assert_eq!(bound["metadata"]["annotations"], json!({"a": "1"}));
        assert_eq!(
            bound["status"]["conditions"],
            json!([{"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                    "lastTransitionTime": "2026-01-02T03:04:05Z", "observedGeneration": 1}])
        );
        let cases = [
            (pod(json!({"nodeName": "m"}), json!({})), "pod p is already assigned to node \"m\""),
            (
                pod(json!({}), json!({"deletionTimestamp": "x"})),
                "pod p is being deleted, cannot be assigned to a host",
            ),
            (
                pod(json!({"schedulingGates": [{"name": "g"}]}), json!({})),
                "pod p has non-empty .spec.schedulingGates",
            ),
        ];
        for (pod, why) in cases {
            assert_eq!(assign(pod, &binding, now), Err(why.to_owned()));
        }
        let other = json!({"metadata": {"name": "p", "uid": "x"}, "target": {"name": "n"}});
        assert!(
            assign(pod(json!({}), json!({})), &other, now)
                .expect_err("uid")
                .starts_with("Precondition failed")
        );
    }

    #[test]
    fn targets_are_nodes() {
        for (target, errors) in
            [(json!({"name": "n"}), 0), (json!({"kind": "Pod", "name": "n"}), 1), (json!({}), 1)]
        {
            assert_eq!(problems(&json!({"target": target})).len(), errors);
        }
    }
}
