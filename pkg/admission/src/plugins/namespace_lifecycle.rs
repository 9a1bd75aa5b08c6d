//! Nothing is made in a namespace that is not there or is going away, and some namespaces never go.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, str_at};
use apimachinery::status::{Cause, Status};
use async_trait::async_trait;

use super::find;
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Plugin};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Guards what is made in namespaces.
pub(super) struct NamespaceLifecycle {
    source: Arc<dyn ObjectSource>,
}

impl NamespaceLifecycle {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
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
            return Ok(());
        }
        // telling whether a namespace exists to those who ask about their rights in it would give it away
        let review =
            request.is_sub("authorization.k8s.io", "localsubjectaccessreviews", &request.subresource);
        if request.namespace.is_empty() || review || request.operation != Operation::Create {
            return Ok(());
        }
        let namespaces = GroupResource::new("", "namespaces");
        let cached = self.source.get(&namespaces, "", &request.namespace).and_then(|o| o.value());
        // A cache behind the store shows an active namespace that is already going away: look at it once more when it
        // cannot be had from the cache. Deletes of content that slips in are repeated by the namespace controller.
        let namespace = match cached {
            Some(namespace) => namespace,
            None => find(&*self.source, "", "namespaces", "", &request.namespace)
                .await?
                .ok_or_else(|| Status::not_found(&namespaces, &request.namespace))?,
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use auth::UserInfo;
    use serde_json::json;

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
