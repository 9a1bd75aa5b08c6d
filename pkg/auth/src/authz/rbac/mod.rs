//! Role-based access control. Source: the RBAC reference page, `k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac`.

mod escalation;
mod index;
mod rule;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;

pub use escalation::{EscalationGuard, RoleWrite};
pub use rule::{PolicyRule, missing};

use super::{
    Attributes, Authorization, Authorizer, Decision, NonResourceRule, ResourceRule, RuleResolver, Rules,
};
use crate::object::ObjectReader;
use crate::user::UserInfo;
use index::{Index, generations};

/// Decides by roles and bindings.
pub struct RbacAuthorizer {
    objects: Arc<dyn ObjectReader>,
    index: ArcSwap<Index>,
    rebuilding: Mutex<()>,
}

impl RbacAuthorizer {
    /// Reads roles and bindings through this.
    pub fn new(objects: Arc<dyn ObjectReader>) -> Self {
        Self { objects, index: ArcSwap::default(), rebuilding: Mutex::new(()) }
    }

    fn index(&self) -> Arc<Index> {
        let current = self.index.load_full();
        if current.is_current(&generations(&*self.objects)) {
            return current;
        }
        let _one = self.rebuilding.lock();
        let current = self.index.load_full();
        if current.is_current(&generations(&*self.objects)) {
            return current;
        }
        let fresh = Arc::new(current.rebuild(&*self.objects));
        self.index.store(Arc::clone(&fresh));
        fresh
    }

    /// Whether a role allows it, and by which binding; else what went wrong on the way.
    fn decide(&self, attributes: &Attributes<'_>) -> Result<String, Vec<String>> {
        let index = self.index();
        let mut errors = Vec::new();
        for binding in index.bindings_of(attributes.user, attributes.namespace) {
            match index.rules(&binding.role, attributes.namespace) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                    return Ok(binding.describe(attributes.user));
                }
                Ok(_) => {}
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        Err(errors)
    }

    /// All rules of a user in a namespace (cluster-wide ones alone when it is empty), and what could not be resolved.
    pub fn policy_rules(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let index = self.index();
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for binding in index.bindings_of(user, namespace) {
            match index.rules(&binding.role, namespace) {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(error) => errors.push(error),
            }
        }
        (rules, errors)
    }

    /// The rules of a `ClusterRole` or of a `Role` in a namespace.
    pub fn role_rules(
        &self,
        kind: &str,
        name: &str,
        namespace: &str,
    ) -> Result<Arc<Vec<PolicyRule>>, String> {
        let role = index::RoleRef { kind: kind.to_owned(), name: name.to_owned() };
        self.index().rules(&role, namespace)
    }
}

/// Errors as Go's aggregate prints them.
fn aggregate(errors: &[String]) -> String {
    match errors {
        [] => String::new(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[async_trait]
impl Authorizer for RbacAuthorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Authorization {
        match self.decide(attributes) {
            Ok(by) => Authorization::new(Decision::Allow, format!("RBAC: allowed by {by}")),
            Err(errors) if errors.is_empty() => Authorization::new(Decision::NoOpinion, ""),
            Err(errors) => Authorization::new(Decision::NoOpinion, format!("RBAC: {}", aggregate(&errors))),
        }
    }
}

impl RuleResolver for RbacAuthorizer {
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let (policy, errors) = self.policy_rules(user, namespace);
        let mut rules = Rules { evaluation_error: aggregate(&errors), ..Rules::default() };
        for rule in policy {
            if !rule.resources.is_empty() {
                rules.resource.push(ResourceRule {
                    verbs: rule.verbs.clone(),
                    api_groups: rule.api_groups,
                    resources: rule.resources,
                    resource_names: rule.resource_names,
                });
            }
            if !rule.non_resource_urls.is_empty() {
                rules
                    .non_resource
                    .push(NonResourceRule { verbs: rule.verbs, non_resource_urls: rule.non_resource_urls });
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::testing::{Objects, reader};
    use apimachinery::{Value, json};

    fn objects() -> Arc<Objects> {
        let group = "rbac.authorization.k8s.io";
        let role = |ns: &str, name: &str, resource: &str| {
            json!({"metadata": {"namespace": ns, "name": name},
                   "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})
        };
        let binding = |ns: &str, name: &str, kind: &str, role: &str, subject: Value| json!({"metadata": {"namespace": ns, "name": name}, "roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
        Arc::new(Objects::new([
            (group, "clusterroles", role("", "nodes", "nodes")),
            (group, "clusterroles", role("", "pods", "pods")),
            (group, "roles", role("ns", "secrets", "secrets")),
            (
                group,
                "clusterrolebindings",
                binding("", "b1", "ClusterRole", "nodes", json!({"kind": "Group", "name": "ops"})),
            ),
            (
                group,
                "clusterrolebindings",
                binding("", "b2", "ClusterRole", "gone", json!({"kind": "User", "name": "lost"})),
            ),
            (
                group,
                "rolebindings",
                binding("ns", "b3", "ClusterRole", "pods", json!({"kind": "ServiceAccount", "name": "a"})),
            ),
            (
                group,
                "rolebindings",
                binding("ns", "b4", "Role", "secrets", json!({"kind": "User", "name": "ann"})),
            ),
        ]))
    }

    #[tokio::test]
    async fn decisions_and_reasons() {
        let rbac = RbacAuthorizer::new(reader(&objects()));
        let cases = [
            (
                "ann",
                "ops",
                "nodes",
                "",
                true,
                r#"RBAC: allowed by ClusterRoleBinding "b1" of ClusterRole "nodes" to Group "ops""#,
            ),
            ("ann", "", "nodes", "", false, ""),
            (
                "ann",
                "",
                "secrets",
                "ns",
                true,
                r#"RBAC: allowed by RoleBinding "b4/ns" of Role "secrets" to User "ann""#,
            ),
            ("ann", "", "secrets", "other", false, ""),
            ("ann", "", "secrets", "", false, ""),
            (
                "system:serviceaccount:ns:a",
                "",
                "pods",
                "ns",
                true,
                r#"RBAC: allowed by RoleBinding "b3/ns" of ClusterRole "pods" to ServiceAccount "a/""#,
            ),
            ("system:serviceaccount:other:a", "", "pods", "ns", false, ""),
            (
                "lost",
                "",
                "pods",
                "ns",
                false,
                r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#,
            ),
        ];
        for (name, group, resource, namespace, allowed, reason) in cases {
            let user = UserInfo::new(name, &[group]);
            let answer =
                rbac.authorize(&Attributes::resource(&user, "get", "", resource, namespace, "x")).await;
            assert_eq!((answer.allowed(), answer.reason.as_str()), (allowed, reason), "{name} {resource}");
        }
    }

    #[tokio::test]
    async fn changes_are_seen() {
        let objects = objects();
        let rbac = RbacAuthorizer::new(reader(&objects));
        let user = UserInfo::new("ann", &[]);
        let attributes = Attributes::resource(&user, "get", "", "secrets", "ns", "x");
        assert!(rbac.authorize(&attributes).await.allowed());
        objects.remove("rbac.authorization.k8s.io", "rolebindings", "ns", "b4");
        assert!(!rbac.authorize(&attributes).await.allowed());
    }

    #[test]
    fn rules_are_listed() {
        let rbac = RbacAuthorizer::new(reader(&objects()));
        let rules = rbac.rules_for(&UserInfo::new("ann", &["ops"]), "ns");
        let resources: Vec<&str> = rules.resource.iter().map(|r| r.resources[0].as_str()).collect();
        assert_eq!(resources, ["nodes", "secrets"]);
    }
}
