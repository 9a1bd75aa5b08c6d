//! The cluster role aggregation controller: a ClusterRole with an `aggregationRule` has the rules of those it selects.
//!
//! Behaviour after upstream's `clusterroleaggregation_controller.go`.

use std::sync::Arc;

use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Store, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use kube::core::SelectorExt as _;

use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::owner;
use crate::resources::CLUSTER_ROLES;

struct Controller {
    roles: Store<ClusterRole>,
    rest: Rest,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("ClusterRoleAggregator");
    let roles = context.informer::<ClusterRole>();
    let (adds, all) = (queue.clone(), roles.store());
    roles.on_event(move |_| {
        // any role may be part of any aggregate; there are few of those
        for role in all.list().iter().filter(|role| role.aggregation_rule.is_some()) {
            adds.add(Key::of(&**role));
        }
    });
    let controller =
        Controller { roles: roles.store(), rest: context.rest("clusterrole-aggregation-controller") };
    context.work("clusterrole-aggregation-controller", &queue, 1, Arc::new(controller));
}

/// The rules an aggregate should have: those of the roles its selectors pick, in order of their names, each once.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or(&[]);
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let selector = owner::selector(Some(selector))?;
        for other in all {
            if other.metadata.name == role.metadata.name || !selector.matches(other.labels()) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(role) = self.roles.get("", &key.name) else { return Ok(Next::OnChange) };
        let Some(rules) = aggregate(&role, &self.roles.list()) else { return Ok(Next::OnChange) };
        if role.rules.as_deref().unwrap_or(&[]) == rules {
            return Ok(Next::OnChange);
        }
        let mut changed = (*role).clone();
        changed.rules = Some(rules);
        match self.rest.update(&CLUSTER_ROLES, "", &changed).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Next::OnChange),
        }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(name: &str, label: &str, rule: &str) -> Arc<ClusterRole> {
        let role = json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": [{"verbs": [rule]}]});
        Arc::new(serde_json::from_value(role).expect("a role"))
    }

    #[test]
    fn rules_are_gathered_once_and_in_order() {
        let target: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "all", "labels": {"to": "a"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "a"}}, {"matchLabels": {"to": "b"}}]}}))
        .expect("a role");
        let all = [
            role("all", "a", "self"),
            role("one", "a", "get"),
            role("three", "b", "get"),
            role("two", "a", "list"),
            role("x", "c", "no"),
        ];
        let verbs: Vec<String> =
            aggregate(&target, &all).expect("an aggregate").into_iter().flat_map(|r| r.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
        assert_eq!(aggregate(&all[1], &all), None);
    }
}
