//! Pod Security: namespaces say by label how much their pods may do.
//! Source: KEP-2579, `k8s.io/pod-security-admission/admission`.

mod checks;
mod metrics;
mod policy;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, at, name, str_at};
use apimachinery::status::Status;
use async_trait::async_trait;
use prometheus_client::registry::Registry;

use super::{find, items};
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};
use checks::{Violation, violations};
use metrics::{Evaluations, Mode};
use policy::{Level, LevelVersion, Policy};

/// Subresources of pods that change nothing a level is about.
const HARMLESS: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// Pods of a namespace that are looked at when its level changes.
const MAX_PODS_CHECKED: usize = 3000;

/// Judges pods by the labels of their namespace.
pub(super) struct PodSecurity {
    source: Arc<dyn ObjectSource>,
    evaluations: Evaluations,
}

fn judge(level: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Violation> {
    if level.level == Level::Privileged {
        return Vec::new();
    }
    violations(level.level, level.minor(), metadata, spec)
}

/// `reason (detail), reason (detail)`.
fn details(violations: &[Violation]) -> String {
    let texts: Vec<String> = violations
        .iter()
        .map(|v| if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) })
        .collect();
    texts.join(", ")
}

/// Whether a request is about a pod or one of its subresources.
fn is_pod(request: &AdmissionRequest<'_>) -> bool {
    request.gvr.group.is_empty() && request.gvr.resource == "pods"
}

/// Where a kind keeps its pod template, `None` for kinds without one.
fn template_path(group: &str, resource: &str) -> Option<&'static [&'static str]> {
    match (group, resource) {
        ("", "podtemplates") => Some(&["template"]),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some(&["spec", "template"]),
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// Whether an update of a pod changes what the levels look at: of what can change at all, images and new containers.
fn is_significant(new: &Value, old: &Value) -> bool {
    if new["spec"].shares(&old["spec"]) {
        return false;
    }
    let images = |pod: &Value, list: &str| -> Vec<String> {
        items(pod, &["spec", list]).iter().map(|c| str_at(c, &["image"]).to_owned()).collect()
    };
    if ["containers", "initContainers"].iter().any(|list| images(new, list) != images(old, list)) {
        return true;
    }
    items(new, &["spec", "ephemeralContainers"]).iter().any(|container| {
        let same = |other: &&Value| str_at(other, &["name"]) == str_at(container, &["name"]);
        let before = items(old, &["spec", "ephemeralContainers"]).iter().find(same);
        before.is_none_or(|b| str_at(b, &["image"]) != str_at(container, &["image"]))
    })
}

/// Warnings about pods that a new level would not have let in: one a kind of violation, with the pods it concerns.
fn warnings_about(namespace: &str, level: LevelVersion, pods: &[Value]) -> Vec<String> {
    // one pod of a controller speaks for all
    let mut controllers = HashSet::new();
    let is_first = |pod: &&Value| {
        let owner = items(pod, &["metadata", "ownerReferences"])
            .iter()
            .find(|o| at(o, &["controller"]).and_then(Value::as_bool) == Some(true));
        owner.is_none_or(|o| controllers.insert(str_at(o, &["uid"]).to_owned()))
    };
    let (mut ordered, rest): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(is_first);
    ordered.extend(rest);
    let checked = ordered.len().min(MAX_PODS_CHECKED);
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in &ordered[..checked] {
        let found = judge(level, &pod["metadata"], &pod["spec"]);
        if !found.is_empty() {
            let reasons: Vec<String> = found.into_iter().map(|v| v.reason).collect();
            by_reason.entry(reasons.join(", ")).or_default().push(name(pod));
        }
    }
    let mut warnings = Vec::new();
    if checked < pods.len() {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {} existing pods",
            pods.len()
        ));
    }
    if by_reason.is_empty() {
        return warnings;
    }
    warnings.push(format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {:?}",
        level.to_string()
    ));
    let mut lines: Vec<String> = by_reason
        .iter()
        .map(|(reason, pods)| {
            let first = pods.iter().min().copied().unwrap_or("");
            match pods.len() {
                1 => format!("{first}: {reason}"),
                2 => format!("{first} (and 1 other pod): {reason}"),
                count => format!("{first} (and {} other pods): {reason}", count - 1),
            }
        })
        .collect();
    lines.sort_unstable();
    warnings.extend(lines);
    warnings
}

impl PodSecurity {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source, evaluations: Evaluations::default() }
    }

    fn namespace_changed(&self, request: &AdmissionRequest<'_>, notes: &mut Notes) -> Result<(), Status> {
        let namespace = request.object();
        let (new, problems) = Policy::of(namespace);
        let invalid = |problems: &[_]| Status::invalid("", "Namespace", name(namespace), problems);
        if request.operation == Operation::Create {
            return if problems.is_empty() { Ok(()) } else { Err(invalid(&problems)) };
        }
        let (old, old_problems) = Policy::of(request.old());
        if !problems.is_empty() && problems != old_problems {
            return Err(invalid(&problems));
        }
        let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
        if new.enforce == old.enforce || new.enforce.level == Level::Privileged || relaxed {
            return Ok(());
        }
        let pods: Vec<Value> = self
            .source
            .list(&GroupResource::new("", "pods"), Some(name(namespace)))
            .iter()
            .filter_map(auth::CachedObject::value)
            .collect();
        notes.warnings.extend(warnings_about(name(namespace), new.enforce, &pods));
        Ok(())
    }

    /// The policy of the request's namespace.
    async fn policy(&self, request: &AdmissionRequest<'_>) -> Result<Policy, Status> {
        match find(&*self.source, "", "namespaces", "", &request.namespace).await? {
            Some(namespace) => Ok(Policy::of(&namespace).0),
            None => Err(Status::internal(format!("failed to lookup namespace {:?}", request.namespace))),
        }
    }

    fn evaluate(
        &self,
        policy: Policy,
        request: &AdmissionRequest<'_>,
        pod: &Value,
        enforce: bool,
        notes: &mut Notes,
    ) -> Result<(), Status> {
        let judged = |level| judge(level, &pod["metadata"], &pod["spec"]);
        let annotations = &mut notes.audit_annotations;
        let audit = judged(policy.audit);
        self.evaluations.count(request, Mode::Audit, policy.audit, audit.is_empty());
        if !audit.is_empty() {
            annotations.insert(
                "pod-security.kubernetes.io/audit-violations".into(),
                format!("would violate PodSecurity {:?}: {}", policy.audit.to_string(), details(&audit)),
            );
        }
        if enforce {
            annotations
                .insert("pod-security.kubernetes.io/enforce-policy".into(), policy.enforce.to_string());
            let found = judged(policy.enforce);
            self.evaluations.count(request, Mode::Enforce, policy.enforce, found.is_empty());
            if !found.is_empty() {
                let level = policy.enforce.to_string();
                return Err(
                    request.forbidden(&format!("violates PodSecurity {level:?}: {}", details(&found)))
                );
            }
        }
        let warn = judged(policy.warn);
        self.evaluations.count(request, Mode::Warn, policy.warn, warn.is_empty());
        if !warn.is_empty() {
            let level = policy.warn.to_string();
            notes.warnings.push(format!("would violate PodSecurity {level:?}: {}", details(&warn)));
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn register(&self, registry: &mut Registry) {
        self.evaluations.register(registry);
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, notes: &mut Notes) -> Result<(), Status> {
        if request.is("", "namespaces") {
            return self.namespace_changed(request, notes);
        }
        if is_pod(request) {
            let is_unchanged =
                || request.operation == Operation::Update && !is_significant(request.object(), request.old());
            if HARMLESS.contains(&request.subresource.as_str()) || is_unchanged() {
                return Ok(());
            }
            let policy = self.policy(request).await?;
            if policy.is_privileged() {
                self.evaluations.count(request, Mode::Enforce, policy.enforce, true);
                return Ok(());
            }
            return self.evaluate(policy, request, request.object(), true, notes);
        }
        let Some(path) = template_path(&request.gvr.group, &request.gvr.resource) else { return Ok(()) };
        let Some(template) = at(request.object(), path).filter(|t| t.is_object()) else { return Ok(()) };
        if !request.subresource.is_empty() {
            return Ok(());
        }
        // a controller is never refused for its pods: they will be
        let Ok(policy) = self.policy(request).await else { return Ok(()) };
        self.evaluate(policy, request, template, false, notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request};
    use apimachinery::json;
    use auth::UserInfo;

    fn plugin() -> PodSecurity {
        let namespace = |name: &str, level: &str| json!({"metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}}});
        let pod = |name: &str| json!({"metadata": {"namespace": "loose", "name": name}, "spec": {"hostNetwork": true}});
        PodSecurity::new(Source::new([
            ("", "namespaces", namespace("strict", "baseline")),
            ("", "namespaces", json!({"metadata": {"name": "loose"}})),
            ("", "pods", pod("b")),
            ("", "pods", pod("a")),
        ]))
    }

    async fn go(request: AdmissionRequest<'_>) -> (Result<(), String>, Vec<String>) {
        let mut notes = Notes::default();
        let result = plugin().validate(&request, &mut notes).await.map_err(|s| s.message);
        (result, notes.warnings)
    }

    #[tokio::test]
    async fn pods_are_judged_and_controllers_warned() {
        let user = UserInfo::default();
        let pod = |ns: &str| json!({"metadata": {"namespace": ns, "name": "p"}, "spec": {"hostNetwork": true, "containers": [{"image": "a"}]}});
        let (result, _) = go(request(Operation::Create, "/pods", &user, Some(pod("strict")), None)).await;
        assert_eq!(
            result,
            Err("pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)".into())
        );
        assert!(go(request(Operation::Create, "/pods", &user, Some(pod("loose")), None)).await.0.is_ok());
        let old = pod("strict");
        assert!(
            go(request(Operation::Update, "/pods", &user, Some(pod("strict")), Some(&old))).await.0.is_ok()
        );
        let mut changed = pod("strict");
        changed["spec"]["containers"][0]["image"] = json!("b");
        assert!(go(request(Operation::Update, "/pods", &user, Some(changed), Some(&old))).await.0.is_err());
        assert!(
            go(request(Operation::Create, "/pods/binding", &user, Some(pod("strict")), None)).await.0.is_ok()
        );

        let deployment = json!({"metadata": {"namespace": "strict", "name": "d"}, "spec": {"template": {"spec": {"hostPID": true}}}});
        let (result, warnings) =
            go(request(Operation::Create, "apps/deployments", &user, Some(deployment), None)).await;
        assert!(result.is_ok());
        assert_eq!(
            warnings,
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]
        );
    }

    #[tokio::test]
    async fn new_levels_are_checked_against_pods() {
        let user = UserInfo::default();
        let namespace = |level: &str| json!({"metadata": {"name": "loose", "labels": {"pod-security.kubernetes.io/enforce": level}}});
        let old = json!({"metadata": {"name": "loose"}});
        let update =
            request(Operation::Update, "/namespaces", &user, Some(namespace("baseline")), Some(&old));
        assert_eq!(
            go(update).await.1,
            [
                "existing pods in namespace \"loose\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
            ]
        );
        let bad = request(Operation::Update, "/namespaces", &user, Some(namespace("x")), Some(&old));
        assert!(
            go(bad).await.0.expect_err("invalid").contains("must be one of privileged, baseline, restricted")
        );
        let same = namespace("x");
        assert!(
            go(request(Operation::Update, "/namespaces", &user, Some(namespace("x")), Some(&same)))
                .await
                .0
                .is_ok()
        );
    }
}
