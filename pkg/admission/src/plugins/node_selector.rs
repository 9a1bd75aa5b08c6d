//! Pods go where their namespace says.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/podnodeselector`.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{at, str_at};
use apimachinery::status::Status;
use async_trait::async_trait;

use super::find;
use crate::{AdmissionRequest, ConfigError, Notes, ObjectSource, Operation, Phase, Plugin};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// Key of the selector for namespaces without one.
const CLUSTER_DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// Adds the namespace's node selector to its pods.
pub(super) struct PodNodeSelector {
    source: Arc<dyn ObjectSource>,
    /// Of namespaces without annotation.
    default: Labels,
    /// What pods of a namespace may select at all.
    allowed: BTreeMap<String, Labels>,
}

/// `a=b,c=d`.
fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("invalid selector: {text}"))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

impl PodNodeSelector {
    pub(super) fn new(source: Arc<dyn ObjectSource>, config: Option<&Value>) -> Result<Self, ConfigError> {
        let (mut default, mut allowed) = (Labels::new(), BTreeMap::new());
        let entries = config.and_then(|c| c.get("podNodeSelectorPluginConfig")).and_then(Value::as_object);
        for (namespace, selector) in entries.into_iter().flatten() {
            let bad = |why: String| ConfigError::Plugin { plugin: "PodNodeSelector".into(), why };
            let text = selector.as_str().ok_or_else(|| bad(format!("{namespace}: not a text")))?;
            let selector = labels(text).map_err(bad)?;
            if namespace == CLUSTER_DEFAULT {
                default = selector;
            } else {
                allowed.insert(namespace.to_string(), selector);
            }
        }
        Ok(Self { source, default, allowed })
    }

    async fn of_namespace(&self, name: &str) -> Result<Labels, Status> {
        let namespace = find(&*self.source, "", "namespaces", "", name).await?;
        let missing = || Status::not_found(&apimachinery::meta::GroupResource::new("", "namespaces"), name);
        match str_at(&namespace.ok_or_else(missing)?, &["metadata", "annotations", ANNOTATION]) {
            "" => Ok(self.default.clone()),
            text => labels(text).map_err(Status::internal),
        }
    }
}

fn selected(pod: &Value) -> Labels {
    let map = at(pod, &["spec", "nodeSelector"]).and_then(Value::as_object);
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    map.into_iter().flatten().map(|(key, value)| (key.to_string(), text(value))).collect()
}

fn conflict(a: &Labels, b: &Labels) -> bool {
    a.iter().any(|(key, value)| b.get(key).is_some_and(|other| other != value))
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate, Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let wanted = self.of_namespace(&request.namespace).await?;
        let own = selected(request.object());
        if conflict(&wanted, &own) {
            return Err(
                request.forbidden("pod node label selector conflicts with its namespace node label selector")
            );
        }
        let merged: Labels = wanted.into_iter().chain(own).collect();
        if merged.is_empty() {
            return Ok(());
        }
        if let Some(spec) =
            request.object.as_mut().and_then(|pod| pod.get_mut("spec")).and_then(Value::as_object_mut)
        {
            let map = merged.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
            spec.insert("nodeSelector".into(), Value::Object(map));
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let own = selected(request.object());
        if conflict(&self.of_namespace(&request.namespace).await?, &own) {
            return Err(
                request.forbidden("pod node label selector conflicts with its namespace node label selector")
            );
        }
        let allowed = self.allowed.get(&request.namespace).filter(|allowed| !allowed.is_empty());
        if allowed.is_some_and(|allowed| own.iter().any(|(key, value)| allowed.get(key) != Some(value))) {
            return Err(
                request.forbidden("pod node label selector labels conflict with its namespace whitelist")
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use apimachinery::json;
    use auth::UserInfo;

    #[tokio::test]
    async fn namespaces_say_where() {
        let source = Source::new([
            (
                "",
                "namespaces",
                json!({"metadata": {"name": "own", "annotations": {ANNOTATION: "env=prod, disk=ssd"}}}),
            ),
            ("", "namespaces", json!({"metadata": {"name": "plain"}})),
        ]);
        let config =
            json!({"podNodeSelectorPluginConfig": {CLUSTER_DEFAULT: "env=dev", "plain": "env=dev,a=b"}});
        let plugin = PodNodeSelector::new(source, Some(&config)).expect("configured");
        let user = UserInfo::default();
        let cases = [
            ("own", json!({}), Ok(json!({"disk": "ssd", "env": "prod"}))),
            ("own", json!({"x": "y"}), Ok(json!({"disk": "ssd", "env": "prod", "x": "y"}))),
            ("own", json!({"env": "dev"}), Err("conflicts with its namespace node label selector")),
            ("plain", json!({"a": "b"}), Ok(json!({"a": "b", "env": "dev"}))),
            ("plain", json!({"a": "c"}), Err("conflict with its namespace whitelist")),
        ];
        for (namespace, selector, expected) in cases {
            let pod = json!({"metadata": {"namespace": namespace, "name": "p"}, "spec": {"nodeSelector": selector}});
            let got = run(&plugin, request(Operation::Create, "/pods", &user, Some(pod), None)).await;
            match (got, expected) {
                (Ok(pod), Ok(expected)) => assert_eq!(pod["spec"]["nodeSelector"], expected),
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{got}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        }
        let bad = json!({"podNodeSelectorPluginConfig": {"x": "a"}});
        assert!(PodNodeSelector::new(Source::new([]), Some(&bad)).is_err());
    }
}
