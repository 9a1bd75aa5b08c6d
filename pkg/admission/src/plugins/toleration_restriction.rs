//! What pods of a namespace tolerate by default, and what they may tolerate at all.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/podtolerationrestriction`, `pkg/util/tolerations`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, str_at};
use apimachinery::status::{Reason, Status};
use async_trait::async_trait;

use super::{find, items, list_mut};
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// Merges default tolerations into pods and refuses what is not allowed.
pub(super) struct PodTolerationRestriction {
    source: Arc<dyn ObjectSource>,
    /// For namespaces that say nothing.
    default: Vec<Value>,
    allowed: Vec<Value>,
}

/// Whether everything the second tolerates is tolerated by the first.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let text = |t: &'_ Value, key: &str| str_at(t, &[key]).to_owned();
    let operator = text(wide, "operator");
    let every_key = text(wide, "key").is_empty() && operator == "Exists";
    if text(narrow, "key") != text(wide, "key") && !every_key {
        return false;
    }
    let effect = text(wide, "effect");
    if text(narrow, "effect") != effect && !effect.is_empty() {
        return false;
    }
    let seconds = |t: &Value| t.get("tolerationSeconds").and_then(Value::as_i64);
    if effect == "NoExecute"
        && let Some(most) = seconds(wide)
        && seconds(narrow).is_none_or(|asked| asked > most)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value"),
        "Exists" => true,
        _ => false,
    }
}

/// Both lists, without what another one covers.
fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let covered = merged.iter().any(|wide| covers(wide, toleration))
            || all[index + 1..].iter().any(|wide| wide != toleration && covers(wide, toleration));
        if !covered {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether a pod asks for or is limited in anything: then its node may run short of memory under it.
fn has_resources(pod: &Value) -> bool {
    ["containers", "initContainers"].iter().flat_map(|list| items(pod, &["spec", list])).any(|container| {
        ["requests", "limits"].iter().any(|kind| {
            let amounts = at(container, &["resources", kind]).and_then(Value::as_object);
            amounts.is_some_and(|a| a.contains_key("cpu") || a.contains_key("memory"))
        })
    })
}

impl PodTolerationRestriction {
    pub(super) fn new(source: Arc<dyn ObjectSource>, config: Option<&Value>) -> Self {
        let list = |key: &str| config.map(|c| items(c, &[key]).to_vec()).unwrap_or_default();
        Self { source, default: list("default"), allowed: list("whitelist") }
    }

    /// The tolerations a namespace's annotation holds, `None` without it.
    async fn annotated(&self, namespace: &str, key: &str) -> Result<Option<Vec<Value>>, Status> {
        let found = find(&*self.source, "", "namespaces", "", namespace).await?;
        let missing =
            || Status::not_found(&apimachinery::meta::GroupResource::new("", "namespaces"), namespace);
        let namespace = found.ok_or_else(missing)?;
        match str_at(&namespace, &["metadata", "annotations", key]) {
            "" => Ok(None),
            text => serde_json::from_str(text).map(Some).map_err(Status::internal),
        }
    }
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate, Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        let mut tolerations = items(request.object(), &["spec", "tolerations"]).to_vec();
        if request.operation == Operation::Create {
            let defaults = self.annotated(&request.namespace, DEFAULTS).await?;
            let defaults = defaults.as_deref().unwrap_or(&self.default);
            if !defaults.is_empty() {
                tolerations = merge(defaults, &tolerations);
            }
        }
        if has_resources(request.object()) {
            let pressure = json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"});
            tolerations = merge(&tolerations, &[pressure]);
        }
        if tolerations.is_empty() {
            return Ok(());
        }
        if let Some(list) = request.object.as_mut().and_then(|pod| list_mut(pod, &["spec", "tolerations"])) {
            *list = tolerations;
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let tolerations = items(request.object(), &["spec", "tolerations"]);
        if !request.is("", "pods") || tolerations.is_empty() {
            return Ok(());
        }
        let own = self.annotated(&request.namespace, ALLOWED).await?;
        let (scope, allowed) = match &own {
            Some(own) => ("namespace", own.as_slice()),
            None => ("cluster", self.allowed.as_slice()),
        };
        let covered = |t: &Value| allowed.iter().any(|wide| covers(wide, t));
        if allowed.is_empty() || tolerations.iter().all(covered) {
            return Ok(());
        }
        let why = format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        );
        Err(Status::new(500, Reason::Unknown, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use auth::UserInfo;

    #[test]
    fn wide_tolerations_cover_narrow_ones() {
        let exists = json!({"key": "a", "operator": "Exists"});
        let all = json!({"operator": "Exists"});
        let equal = json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"});
        let short = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 10});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20});
        for (wide, narrow, expected) in [
            (&exists, &equal, true),
            (&equal, &exists, false),
            (&all, &exists, true),
            (&exists, &all, false),
            (&long, &short, true),
            (&short, &long, false),
            (&exists, &short, true),
        ] {
            assert_eq!(covers(wide, narrow), expected, "{wide} {narrow}");
        }
        assert_eq!(merge(&[equal.clone(), exists.clone()], &[short, exists.clone()]), [exists]);
    }

    #[tokio::test]
    async fn namespaces_give_and_limit() {
        let annotations = json!({
            DEFAULTS: r#"[{"key": "a", "operator": "Exists"}]"#, ALLOWED: r#"[{"key": "a", "operator": "Exists"}]"#});
        let source = Source::new([
            ("", "namespaces", json!({"metadata": {"name": "own", "annotations": annotations}})),
            ("", "namespaces", json!({"metadata": {"name": "plain"}})),
        ]);
        let config = json!({"default": [{"key": "c", "operator": "Exists"}]});
        let plugin = PodTolerationRestriction::new(source, Some(&config));
        let user = UserInfo::default();
        let pod = |namespace: &str, tolerations: Value, resources: Value| {
            json!({"metadata": {"namespace": namespace, "name": "p"},
                "spec": {"tolerations": tolerations, "containers": [{"name": "c", "resources": resources}]}})
        };
        let keys = |pod: Value| -> Vec<String> {
            items(&pod, &["spec", "tolerations"]).iter().map(|t| str_at(t, &["key"]).to_owned()).collect()
        };
        let create = |pod| run(&plugin, request(Operation::Create, "/pods", &user, Some(pod), None));
        assert_eq!(create(pod("own", json!([]), json!({}))).await.map(keys), Ok(vec!["a".to_owned()]));
        let refused = create(pod("own", json!([{"key": "b", "operator": "Exists"}]), json!({}))).await;
        assert!(refused.is_err_and(|why| why.contains("its namespace whitelist")));
        let burstable = create(pod("plain", json!([]), json!({"requests": {"cpu": "1"}}))).await;
        assert_eq!(
            burstable.map(keys),
            Ok(vec!["c".to_owned(), "node.kubernetes.io/memory-pressure".to_owned()])
        );
    }
}
