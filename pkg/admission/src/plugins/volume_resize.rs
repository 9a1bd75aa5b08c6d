//! Claims grow only where their class lets them.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{at, str_at};
use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use async_trait::async_trait;

use super::find;
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

/// Checks growing claims.
pub(super) struct PersistentVolumeClaimResize {
    source: Arc<dyn ObjectSource>,
}

impl PersistentVolumeClaimResize {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }
}

fn size(claim: &Value) -> Quantity {
    str_at(claim, &["spec", "resources", "requests", "storage"]).parse().unwrap_or_default()
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let (new, old) = (request.object(), request.old());
        if !request.is("", "persistentvolumeclaims") || size(new) <= size(old) {
            return Ok(());
        }
        if str_at(old, &["status", "phase"]) != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let annotated = str_at(old, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
        let class = if annotated.is_empty() { str_at(old, &["spec", "storageClassName"]) } else { annotated };
        let class = if class.is_empty() {
            None
        } else {
            find(&*self.source, "storage.k8s.io", "storageclasses", "", class).await?
        };
        let grows =
            class.is_some_and(|c| at(&c, &["allowVolumeExpansion"]).and_then(Value::as_bool) == Some(true));
        if grows {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use apimachinery::json;
    use auth::UserInfo;

    #[tokio::test]
    async fn growth_needs_a_class() {
        let plugin = PersistentVolumeClaimResize::new(Source::new([
            (
                "storage.k8s.io",
                "storageclasses",
                json!({"metadata": {"name": "grows"}, "allowVolumeExpansion": true}),
            ),
            ("storage.k8s.io", "storageclasses", json!({"metadata": {"name": "fixed"}})),
        ]));
        let user = UserInfo::default();
        let claim = |size: &str, class: &str, phase: &str| json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}});
        for (old, new, class, phase, ok) in [
            ("1Gi", "2Gi", "grows", "Bound", true),
            ("1Gi", "1024Mi", "fixed", "Bound", true),
            ("1Gi", "2Gi", "fixed", "Bound", false),
            ("1Gi", "2Gi", "grows", "Pending", false),
            ("1Gi", "2Gi", "", "Bound", false),
        ] {
            let before = claim(old, class, phase);
            let update = request(
                Operation::Update,
                "/persistentvolumeclaims",
                &user,
                Some(claim(new, class, phase)),
                Some(&before),
            );
            assert_eq!(run(&plugin, update).await.is_ok(), ok, "{old} {new} {class} {phase}");
        }
    }
}
