//! Pods of a RuntimeClass get its overhead and its place. Source: `k8s.io/kubernetes/plugin/pkg/admission/runtimeclass`,
//! KEP-688 (pod overhead), KEP-894 (scheduling).

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{at, str_at};
use apimachinery::status::Status;
use async_trait::async_trait;

use super::{find, items, list_mut};
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

/// Applies runtime classes to pods.
pub(super) struct RuntimeClass {
    source: Arc<dyn ObjectSource>,
}

impl RuntimeClass {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }

    async fn class(&self, request: &AdmissionRequest<'_>) -> Result<Option<Value>, Status> {
        let name = str_at(request.object(), &["spec", "runtimeClassName"]);
        if name.is_empty() {
            return Ok(None);
        }
        match find(&*self.source, "node.k8s.io", "runtimeclasses", "", name).await? {
            Some(class) => Ok(Some(class)),
            None => Err(request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
        }
    }
}

fn is_set(value: Option<&Value>) -> bool {
    value.is_some_and(|v| !v.is_null())
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
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
        let Some(class) = self.class(request).await? else { return Ok(()) };
        let overhead = at(&class, &["overhead", "podFixed"]);
        let given = at(request.object(), &["spec", "overhead"]).cloned();
        if let Some(overhead) = overhead {
            if is_set(given.as_ref()) && given.as_ref() != Some(overhead) {
                return Err(request.forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                ));
            }
            if let Some(spec) =
                request.object.as_mut().and_then(|o| o.get_mut("spec")).and_then(Value::as_object_mut)
            {
                spec.insert("overhead".into(), overhead.clone());
            }
        }
        let selector = at(&class, &["scheduling", "nodeSelector"])
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        for (key, value) in selector {
            let current = str_at(request.object(), &["spec", "nodeSelector", &key]).to_owned();
            if !current.is_empty() && value.as_str() != Some(&current) {
                return Err(request.forbidden(&format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {current}",
                    value.as_str().unwrap_or_default()
                )));
            }
            if let Some(spec) =
                request.object.as_mut().and_then(|o| o.get_mut("spec")).and_then(Value::as_object_mut)
                && let Some(map) = spec
                    .entry("nodeSelector")
                    .or_insert_with(|| Value::Object(apimachinery::Map::new()))
                    .as_object_mut()
            {
                map.insert(key, value);
            }
        }
        let tolerations = items(&class, &["scheduling", "tolerations"]);
        if !tolerations.is_empty()
            && let Some(list) = request.object.as_mut().and_then(|o| list_mut(o, &["spec", "tolerations"]))
        {
            for toleration in tolerations {
                if !list.contains(toleration) {
                    list.push(toleration.clone());
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let overhead = at(request.object(), &["spec", "overhead"]).filter(|v| !v.is_null());
        let class = self.class(request).await?;
        let defined = class.as_ref().and_then(|c| at(c, &["overhead", "podFixed"]));
        match (overhead, defined) {
            (Some(given), Some(defined)) if given != defined => Err(request
                .forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")),
            (Some(_), None) => Err(request.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use apimachinery::json;
    use auth::UserInfo;

    #[tokio::test]
    async fn classes_shape_pods() {
        let plugin = RuntimeClass::new(Source::new([(
            "node.k8s.io",
            "runtimeclasses",
            json!({"metadata": {"name": "kata"}, "overhead": {"podFixed": {"cpu": "250m"}},
                   "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]}}),
        )]));
        let user = UserInfo::default();
        let go = async |spec: Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            run(&plugin, request(Operation::Create, "/pods", &user, Some(pod), None))
                .await
                .map(|p| p["spec"].clone())
        };
        let spec = go(json!({"runtimeClassName": "kata", "tolerations": [{"key": "vm"}]})).await.expect("ok");
        assert_eq!(spec["overhead"], json!({"cpu": "250m"}));
        assert_eq!(spec["nodeSelector"], json!({"vm": "yes"}));
        assert_eq!(spec["tolerations"], json!([{"key": "vm"}]));
        for (spec, why) in [
            (json!({"runtimeClassName": "none"}), "RuntimeClass \"none\" not found"),
            (json!({"runtimeClassName": "kata", "overhead": {"cpu": "1"}}), "doesn't match"),
            (json!({"overhead": {"cpu": "1"}}), "without corresponding RuntimeClass"),
            (
                json!({"runtimeClassName": "kata", "nodeSelector": {"vm": "no"}}),
                "nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
            ),
        ] {
            assert!(go(spec).await.expect_err("refused").contains(why), "{why}");
        }
    }
}
