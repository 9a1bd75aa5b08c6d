//! Nothing is made in a namespace that is not there or is going away, and some namespaces never go.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::Value;
use apimachinery::meta::{GroupResource, str_at};
use apimachinery::status::{Cause, Status};
use async_trait::async_trait;
use parking_lot::Mutex;

use super::find;
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// How long after a namespace's deletion the cache is not believed when it says the namespace lives.
const DISTRUST: Duration = Duration::from_secs(30);
/// Deleted namespaces that are remembered; beyond it the oldest are forgotten.
const MAX_REMEMBERED: usize = 100;

/// Guards what is made in namespaces.
pub(super) struct NamespaceLifecycle {
    source: Arc<dyn ObjectSource>,
    /// Names of namespaces deleted lately, the oldest first.
    deleted: Mutex<VecDeque<(String, Instant)>>,
}

impl NamespaceLifecycle {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source, deleted: Mutex::default() }
    }

    fn remember(&self, name: &str) {
        let mut deleted = self.deleted.lock();
        deleted.push_back((name.to_owned(), Instant::now()));
        if deleted.len() > MAX_REMEMBERED {
            deleted.pop_front();
        }
    }

    fn was_deleted(&self, name: &str) -> bool {
        self.deleted.lock().iter().any(|(n, at)| n == name && at.elapsed() < DISTRUST)
    }

    /// The namespace as the cache has it, or as the store has it where the cache cannot be believed.
    async fn namespace(&self, name: &str) -> Result<Option<Value>, Status> {
        let found = find(&*self.source, "", "namespaces", "", name).await?;
        let lives = found.as_ref().is_some_and(|n| str_at(n, &["status", "phase"]) == "Active");
        if lives && self.was_deleted(name) {
            let live = self.source.get_live(&GroupResource::new("", "namespaces"), "", name).await?;
            return Ok(live.and_then(|o| o.value()));
        }
        Ok(found)
    }
}

fn is_namespace(request: &AdmissionRequest<'_>) -> bool {
    request.gvk.group.is_empty() && request.gvk.kind == "Namespace"
}

fn terminating(request: &AdmissionRequest<'_>) -> Status {
    let namespace = &request.namespace;
    let mut status = request.forbidden(&format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    ));
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    status
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if is_namespace(request) {
            if request.operation == Operation::Delete && IMMORTAL.contains(&request.name.as_str()) {
                return Err(Status::forbidden(
                    &request.group_resource(),
                    &request.name,
                    "this namespace may not be deleted",
                ));
            }
            if request.operation == Operation::Delete {
                self.remember(&request.name);
            }
            return Ok(());
        }
        // telling whether a namespace exists to those who ask about their rights in it would give it away
        let review =
            request.is_sub("authorization.k8s.io", "localsubjectaccessreviews", &request.subresource);
        if request.namespace.is_empty() || review || request.operation != Operation::Create {
            return Ok(());
        }
        let missing = || Status::not_found(&GroupResource::new("", "namespaces"), &request.namespace);
        let namespace = self.namespace(&request.namespace).await?.ok_or_else(missing)?;
        if str_at(&namespace, &["status", "phase"]) == "Terminating" {
            return Err(terminating(request));
        }
        Ok(())
    }
}

/// Refuses anything in a namespace that does not exist.
pub(super) struct NamespaceExists {
    source: Arc<dyn ObjectSource>,
}

impl NamespaceExists {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if request.namespace.is_empty() || is_namespace(request) {
            return Ok(());
        }
        let found: Option<Value> = find(&*self.source, "", "namespaces", "", &request.namespace).await?;
        match found {
            Some(_) => Ok(()),
            None => Err(Status::not_found(&GroupResource::new("", "namespaces"), &request.namespace)),
        }
    }
}

/// Makes the namespace of whatever is made in one that does not exist.
pub(super) struct NamespaceAutoProvision {
    source: Arc<dyn ObjectSource>,
}

impl NamespaceAutoProvision {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if request.dry_run || request.namespace.is_empty() || is_namespace(request) {
            return Ok(());
        }
        if find(&*self.source, "", "namespaces", "", &request.namespace).await?.is_some() {
            return Ok(());
        }
        let namespace = apimachinery::json!({"metadata": {"name": request.namespace}});
        match self.source.create(&GroupResource::new("", "namespaces"), namespace).await {
            Err(status) if status.code != 409 => Err(status),
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
    async fn missing_namespaces_are_made() {
        let source = Source::new([("", "namespaces", json!({"metadata": {"name": "live"}}))]);
        let plugin = NamespaceAutoProvision::new(source.clone());
        let user = UserInfo::default();
        for (namespace, made) in [("live", 0), ("none", 1), ("none", 1)] {
            let object = json!({"metadata": {"namespace": namespace, "name": "x"}});
            run(&plugin, request(Operation::Create, "/pods", &user, Some(object), None))
                .await
                .expect("admitted");
            assert_eq!(source.written.lock().len(), made, "{namespace}");
        }
    }

    #[tokio::test]
    async fn content_needs_a_living_namespace() {
        let plugin = NamespaceLifecycle::new(Source::new([
            ("", "namespaces", json!({"metadata": {"name": "live"}, "status": {"phase": "Active"}})),
            ("", "namespaces", json!({"metadata": {"name": "dying"}, "status": {"phase": "Terminating"}})),
        ]));
        let user = UserInfo::default();
        let cases = [
            (Operation::Create, "/pods", "live", None),
            (Operation::Create, "/pods", "none", Some("namespaces \"none\" not found")),
            (
                Operation::Create,
                "/pods",
                "dying",
                Some(
                    "pods \"x\" is forbidden: unable to create new content in namespace dying because it is being terminated",
                ),
            ),
            (Operation::Update, "/pods", "dying", None),
            (Operation::Delete, "/pods", "none", None),
            (Operation::Create, "authorization.k8s.io/localsubjectaccessreviews", "none", None),
            (Operation::Create, "/nodes", "", None),
        ];
        for (operation, resource, namespace, refusal) in cases {
            let object = json!({"metadata": {"namespace": namespace, "name": "x"}});
            let got = run(&plugin, request(operation, resource, &user, Some(object), None)).await;
            assert_eq!(got.err().as_deref(), refusal, "{operation:?} {resource} {namespace}");
        }
        for (name, refusal) in [
            ("default", Some("namespaces \"default\" is forbidden: this namespace may not be deleted")),
            ("live", None),
        ] {
            let object = json!({"kind": "Namespace", "metadata": {"name": name}});
            let got =
                run(&plugin, request(Operation::Delete, "/namespaces", &user, None, Some(&object))).await;
            assert_eq!(got.err().as_deref(), refusal);
        }
    }
}
