//! Taints of new nodes and tolerations of pods.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/{nodetaint,defaulttolerationseconds,extendedresourcetoleration}`.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::str_at;
use apimachinery::status::Status;
use async_trait::async_trait;

use super::{items, list_mut};
use crate::{AdmissionRequest, Notes, Operation, Phase, Plugin};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Seconds a pod stays on a node that is not ready or cannot be reached.
const TOLERATION_SECONDS: i64 = 300;

/// New nodes take no pods until they are ready.
pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "nodes") {
            return Ok(());
        }
        let taints = request.object.as_mut().and_then(|node| list_mut(node, &["spec", "taints"]));
        if let Some(taints) = taints
            && !taints
                .iter()
                .any(|t| str_at(t, &["key"]) == NOT_READY && str_at(t, &["effect"]) == "NoSchedule")
        {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

/// Pods leave failed nodes after five minutes unless they say otherwise.
pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = request.object.as_mut() else { return Ok(()) };
        let tolerates = |pod: &Value, key: &str| {
            items(pod, &["spec", "tolerations"]).iter().any(|t| {
                let (of, effect) = (str_at(t, &["key"]), str_at(t, &["effect"]));
                (of == key || of.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            })
        };
        for key in [NOT_READY, UNREACHABLE] {
            if !tolerates(pod, key)
                && let Some(list) = list_mut(pod, &["spec", "tolerations"])
            {
                list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}));
            }
        }
        Ok(())
    }
}

/// Pods that ask for an extended resource tolerate the taint of the nodes that have it.
pub(super) struct ExtendedResourceToleration;

fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.")
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = request.object.as_mut() else { return Ok(()) };
        let mut wanted = BTreeSet::new();
        for list in ["containers", "initContainers"] {
            for container in items(pod, &["spec", list]) {
                let requests =
                    apimachinery::meta::at(container, &["resources", "requests"]).and_then(Value::as_object);
                wanted.extend(
                    requests
                        .into_iter()
                        .flat_map(apimachinery::Map::keys)
                        .filter(|k| is_extended(k))
                        .cloned(),
                );
            }
        }
        let Some(list) = (!wanted.is_empty()).then(|| list_mut(pod, &["spec", "tolerations"])).flatten()
        else {
            return Ok(());
        };
        for key in wanted {
            let same = |t: &Value| {
                str_at(t, &["key"]) == key
                    && str_at(t, &["operator"]) == "Exists"
                    && str_at(t, &["effect"]).is_empty()
            };
            if !list.iter().any(same) {
                list.push(json!({"key": key, "operator": "Exists"}));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, run};
    use auth::UserInfo;

    async fn tolerations(plugin: &dyn Plugin, pod: Value) -> Vec<String> {
        let user = UserInfo::default();
        let pod = run(plugin, request(Operation::Create, "/pods", &user, Some(pod), None)).await.expect("ok");
        items(&pod, &["spec", "tolerations"]).iter().map(|t| str_at(t, &["key"]).to_owned()).collect()
    }

    #[tokio::test]
    async fn pods_tolerate_for_a_while() {
        let cases = [
            (json!([]), vec![NOT_READY, UNREACHABLE]),
            (json!([{"key": NOT_READY, "effect": "NoExecute"}]), vec![NOT_READY, UNREACHABLE]),
            (json!([{"operator": "Exists"}]), vec![""]),
            (
                json!([{"key": UNREACHABLE, "effect": "NoSchedule"}]),
                vec![UNREACHABLE, NOT_READY, UNREACHABLE],
            ),
        ];
        for (given, expected) in cases {
            let pod = json!({"spec": {"tolerations": given}});
            assert_eq!(tolerations(&DefaultTolerationSeconds, pod).await, expected);
        }
    }

    #[tokio::test]
    async fn extended_resources() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1", "nvidia.com/gpu": "1", "x.kubernetes.io/y": "1"}}}]}});
        assert_eq!(tolerations(&ExtendedResourceToleration, pod).await, ["nvidia.com/gpu"]);
    }

    #[tokio::test]
    async fn new_nodes_are_tainted_once() {
        let user = UserInfo::default();
        for given in [
            json!({"metadata": {"name": "n"}}),
            json!({"spec": {"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]}}),
        ] {
            let node =
                run(&TaintNodesByCondition, request(Operation::Create, "/nodes", &user, Some(given), None))
                    .await
                    .expect("ok");
            assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        }
    }
}
