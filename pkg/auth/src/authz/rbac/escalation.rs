//! Nobody may grant what they do not have. Source: the RBAC reference, "Privilege escalation prevention",
//! `k8s.io/kubernetes/pkg/registry/rbac/*/policybased`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, at, str_at};
use apimachinery::status::Status;

use super::index::GROUP;
use super::rule::{PolicyRule, go_list, missing};
use super::{RbacAuthorizer, aggregate};
use crate::authz::{Attributes, Authorizer};
use crate::user::{SYSTEM_MASTERS, UserInfo};

/// A write of a role or binding.
#[derive(Debug, Clone, Copy)]
pub struct RoleWrite<'a> {
    /// Who writes.
    pub user: &'a UserInfo,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`.
    pub resource: &'a str,
    /// Namespace, empty for the cluster-wide kinds.
    pub namespace: &'a str,
    /// The object as it is to be.
    pub object: &'a Value,
    /// The object as it is, on update.
    pub old: Option<&'a Value>,
}

/// Checks writes of roles and bindings.
pub struct EscalationGuard {
    authorizer: Arc<dyn Authorizer>,
    rbac: Arc<RbacAuthorizer>,
}

/// Whether an update changes nothing but what the garbage collector and its finalizers need.
fn only_gc_fields(old: &Value, new: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = apimachinery::meta::metadata_mut(&mut object) {
            for key in ["ownerReferences", "finalizers", "managedFields"] {
                metadata.remove(key);
            }
        }
        object
    };
    strip(old) == strip(new)
}

fn rules_of(object: &Value) -> Vec<PolicyRule> {
    at(object, &["rules"]).and_then(|rules| apimachinery::from_value(rules.clone()).ok()).unwrap_or_default()
}

fn aggregates(object: &Value) -> bool {
    at(object, &["aggregationRule", "clusterRoleSelectors"])
        .and_then(Value::as_array)
        .is_some_and(|selectors| !selectors.is_empty())
}

fn everything() -> Vec<PolicyRule> {
    let all = || vec!["*".to_owned()];
    vec![
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}

impl EscalationGuard {
    /// Asks `authorizer` about the verbs `escalate` and `bind`, and RBAC about the user's rules.
    pub fn new(authorizer: Arc<dyn Authorizer>, rbac: Arc<RbacAuthorizer>) -> Self {
        Self { authorizer, rbac }
    }

    /// Refuses a write that grants more than its writer has.
    pub async fn check(&self, write: RoleWrite<'_>) -> Result<(), Status> {
        if write.user.in_group(SYSTEM_MASTERS)
            || write.old.is_some_and(|old| only_gc_fields(old, write.object))
        {
            return Ok(());
        }
        let refusal = match write.resource {
            "roles" | "clusterroles" => self.role(write).await,
            _ => self.binding(write).await,
        };
        match refusal {
            None => Ok(()),
            Some(why) => {
                let resource = GroupResource::new(GROUP, write.resource);
                Err(Status::forbidden(&resource, apimachinery::meta::name(write.object), &why))
            }
        }
    }

    async fn role(&self, write: RoleWrite<'_>) -> Option<String> {
        let name = write.old.map_or("", apimachinery::meta::name);
        let escalate =
            Attributes::resource(write.user, "escalate", GROUP, write.resource, write.namespace, name);
        if self.authorizer.authorize(&escalate).await.allowed() {
            return None;
        }
        // an aggregation rule gathers anything there will ever be
        if write.resource == "clusterroles"
            && (aggregates(write.object) || write.old.is_some_and(aggregates))
            && self.lacking(write.user, "", &everything()).is_some()
        {
            return Some("must have cluster-admin privileges to use an aggregationRule".into());
        }
        self.lacking(write.user, write.namespace, &rules_of(write.object))
    }

    async fn binding(&self, write: RoleWrite<'_>) -> Option<String> {
        let kind = str_at(write.object, &["roleRef", "kind"]);
        let name = str_at(write.object, &["roleRef", "name"]);
        let resource = match kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            _ => return None, // validation refuses it
        };
        let bind = Attributes::resource(write.user, "bind", GROUP, resource, write.namespace, name);
        if self.authorizer.authorize(&bind).await.allowed() {
            return None;
        }
        match self.rbac.role_rules(kind, name, write.namespace) {
            Ok(rules) => self.lacking(write.user, write.namespace, &rules),
            Err(error) => Some(error),
        }
    }

    /// Upstream's sentence about what a user does not have of some rules.
    fn lacking(&self, user: &UserInfo, namespace: &str, rules: &[PolicyRule]) -> Option<String> {
        let (owned, errors) = self.rbac.policy_rules(user, namespace);
        let lacking = missing(&owned, rules);
        if lacking.is_empty() {
            return None;
        }
        let lines: Vec<String> = lacking.iter().map(PolicyRule::compact).collect();
        let mut message = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            go_list(&user.groups),
            lines.join("\n")
        );
        if !errors.is_empty() {
            message.push_str("; resolution errors: ");
            message.push_str(&aggregate(&errors));
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::testing::{Objects, reader};
    use apimachinery::json;

    #[tokio::test]
    async fn grants_need_what_they_grant() {
        let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
        let bind = |name: &str, role: &str, user: &str| {
            json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
                   "subjects": [{"kind": "User", "name": user}]})
        };
        let get_pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]);
        let powers =
            json!([{"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["bind", "escalate"]}]);
        let objects = Arc::new(Objects::new([
            (GROUP, "clusterroles", role("reader", get_pods.clone())),
            (GROUP, "clusterroles", role("all", all.clone())),
            (GROUP, "clusterroles", role("powers", powers)),
            (GROUP, "clusterrolebindings", bind("1", "reader", "ann")),
            (GROUP, "clusterrolebindings", bind("2", "all", "root")),
            (GROUP, "clusterrolebindings", bind("3", "powers", "binder")),
        ]));
        let rbac = Arc::new(RbacAuthorizer::new(reader(&objects)));
        let guard = EscalationGuard::new(rbac.clone(), rbac);
        let aggregate = json!({"metadata": {"name": "x"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
        let held = r#"user "ann" (groups=[]) is attempting to grant RBAC permissions not currently held:"#;
        let cases = [
            ("ann", "clusterroles", role("x", get_pods.clone()), ""),
            ("ann", "clusterroles", role("x", all.clone()), held),
            ("binder", "clusterroles", role("x", all.clone()), ""),
            (
                "ann",
                "clusterroles",
                aggregate.clone(),
                "must have cluster-admin privileges to use an aggregationRule",
            ),
            ("root", "clusterroles", aggregate, ""),
            ("ann", "clusterrolebindings", bind("x", "reader", "bob"), ""),
            ("ann", "clusterrolebindings", bind("x", "all", "bob"), held),
            (
                "ann",
                "clusterrolebindings",
                bind("x", "gone", "bob"),
                "clusterrole.rbac.authorization.k8s.io \"gone\" not found",
            ),
            ("binder", "clusterrolebindings", bind("x", "all", "bob"), ""),
        ];
        for (name, resource, object, expected) in cases {
            let user = UserInfo::new(name, &[]);
            let write = RoleWrite { user: &user, resource, namespace: "", object: &object, old: None };
            let message = guard.check(write).await.err().map_or(String::new(), |s| s.message);
            let prefix = if expected.is_empty() {
                String::new()
            } else {
                format!("{resource}.{GROUP} \"x\" is forbidden: {expected}")
            };
            assert!(
                message.starts_with(&prefix) && (message.is_empty() == expected.is_empty()),
                "{name}: {message}"
            );
        }
        let user = UserInfo::new("ann", &[]);
        let (old, mut new) = (role("x", all.clone()), role("x", all));
        new["metadata"]["finalizers"] = json!(["a"]);
        let write =
            RoleWrite { user: &user, resource: "clusterroles", namespace: "", object: &new, old: Some(&old) };
        assert!(guard.check(write).await.is_ok());
    }
}
