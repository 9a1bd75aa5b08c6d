//! Owner references can delete and can block: setting them needs rights on both sides.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/gc`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupVersion, at, str_at};
use apimachinery::status::Status;
use async_trait::async_trait;
use auth::Authorizer;
use auth::authz::Attributes;

use super::items;
use crate::{AdmissionRequest, Notes, Operation, Phase, Plugin};

/// Off by default: asks for the right to delete an object whose owner references are changed, and for the right to set
/// the owner's finalizers where it is to be blocked.
pub(super) struct OwnerReferencesPermissionEnforcement {
    authorizer: Arc<dyn Authorizer>,
}

impl OwnerReferencesPermissionEnforcement {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

fn blocks(reference: &Value) -> bool {
    at(reference, &["blockOwnerDeletion"]).and_then(Value::as_bool) == Some(true)
}

/// The resource of a kind, by the rule all built-in and nearly all other kinds follow.
fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    if let Some(stem) = lower.strip_suffix('y') {
        format!("{stem}ies")
    } else if lower == "endpoints" {
        lower
    } else if lower.ends_with('s') {
        format!("{lower}es")
    } else {
        format!("{lower}s")
    }
}

#[async_trait]
impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let new = items(request.object(), &["metadata", "ownerReferences"]);
        let old = items(request.old(), &["metadata", "ownerReferences"]);
        if new == old {
            return Ok(());
        }
        let resource = if request.subresource.is_empty() {
            request.gvr.resource.clone()
        } else {
            format!("{}/{}", request.gvr.resource, request.subresource)
        };
        let group = &request.gvr.group;
        let delete =
            Attributes::resource(request.user, "delete", group, &resource, &request.namespace, &request.name);
        // creating an object with owners takes nothing from anybody
        if request.operation == Operation::Update && !self.authorizer.authorize(&delete).await.allowed() {
            return Err(request.forbidden("cannot set an ownerRef on a resource you can't delete"));
        }
        let was_blocking =
            |r: &Value| old.iter().any(|o| blocks(o) && str_at(o, &["uid"]) == str_at(r, &["uid"]));
        for reference in new.iter().filter(|r| blocks(r) && !was_blocking(r)) {
            let group =
                GroupVersion::parse(str_at(reference, &["apiVersion"])).map_or(String::new(), |gv| gv.group);
            let kind = str_at(reference, &["kind"]);
            let owner = format!("{}/finalizers", plural(kind));
            let namespace = if kind == "Node" { "" } else { &request.namespace };
            let name = str_at(reference, &["name"]);
            let update = Attributes::resource(request.user, "update", &group, &owner, namespace, name);
            if !self.authorizer.authorize(&update).await.allowed() {
                return Err(request.forbidden(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, run};
    use apimachinery::json;
    use auth::UserInfo;
    use auth::authz::union::{AlwaysAllow, AlwaysDeny};

    #[tokio::test]
    async fn owners_need_rights() {
        let user = UserInfo::default();
        let object = |references: Value| json!({"metadata": {"name": "x", "namespace": "ns", "ownerReferences": references}});
        let (none, plain) =
            (object(json!([])), object(json!([{"uid": "1", "kind": "Deployment", "apiVersion": "apps/v1"}])));
        let blocking = object(
            json!([{"uid": "1", "kind": "Deployment", "apiVersion": "apps/v1", "blockOwnerDeletion": true}]),
        );
        let allow = OwnerReferencesPermissionEnforcement::new(Arc::new(AlwaysAllow));
        let deny = OwnerReferencesPermissionEnforcement::new(Arc::new(AlwaysDeny));
        let cases = [
            (&allow, Operation::Update, &blocking, &none, true),
            (&deny, Operation::Update, &plain, &none, false),
            (&deny, Operation::Update, &plain, &plain, true),
            (&deny, Operation::Create, &plain, &none, true),
            (&deny, Operation::Create, &blocking, &none, false),
        ];
        for (plugin, operation, new, old, ok) in cases {
            let got = run(plugin, request(operation, "/pods", &user, Some(new.clone()), Some(old))).await;
            assert_eq!(got.is_ok(), ok, "{operation:?} {new}");
        }
        for (kind, expected) in [
            ("Pod", "pods"),
            ("NetworkPolicy", "networkpolicies"),
            ("Ingress", "ingresses"),
            ("Endpoints", "endpoints"),
        ] {
            assert_eq!(plural(kind), expected);
        }
    }
}
