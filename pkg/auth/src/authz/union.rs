//! Authorizers put together, and the simplest ones.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Attributes, Authorization, Authorizer, Decision, NonResourceRule, ResourceRule, RuleResolver, Rules,
};
use crate::user::UserInfo;

/// An authorizer that can also list what it allows.
pub trait AuthorizationMode: Authorizer + RuleResolver {}

impl<T: Authorizer + RuleResolver> AuthorizationMode for T {}

/// Asks authorizers in turn until one has an opinion.
pub struct UnionAuthorizer {
    modes: Vec<Arc<dyn AuthorizationMode>>,
}

impl UnionAuthorizer {
    /// Asks these in this order.
    pub fn new(modes: Vec<Arc<dyn AuthorizationMode>>) -> Self {
        Self { modes }
    }
}

fn join(texts: Vec<String>, separator: &str) -> String {
    texts.into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(separator)
}

#[async_trait]
impl Authorizer for UnionAuthorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Authorization {
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for mode in &self.modes {
            let answer = mode.authorize(attributes).await;
            if answer.decision != Decision::NoOpinion {
                return answer;
            }
            reasons.push(answer.reason);
            errors.push(answer.error);
        }
        Authorization {
            decision: Decision::NoOpinion,
            reason: join(reasons, "\n"),
            error: join(errors, ", "),
        }
    }
}

impl RuleResolver for UnionAuthorizer {
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut all = Rules::default();
        let mut errors = Vec::new();
        for mode in &self.modes {
            let rules = mode.rules_for(user, namespace);
            all.resource.extend(rules.resource);
            all.non_resource.extend(rules.non_resource);
            all.incomplete |= rules.incomplete;
            errors.push(rules.evaluation_error);
        }
        all.evaluation_error = join(errors, ", ");
        all
    }
}

fn everything() -> Rules {
    let all = || vec!["*".to_owned()];
    Rules {
        resource: vec![ResourceRule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            resource_names: vec![],
        }],
        non_resource: vec![NonResourceRule { verbs: all(), non_resource_urls: all() }],
        ..Rules::default()
    }
}

/// Allows everything (`--authorization-mode=AlwaysAllow`).
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Authorization {
        Authorization::new(Decision::Allow, "")
    }
}

impl RuleResolver for AlwaysAllow {
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        everything()
    }
}

/// Refuses everything (`--authorization-mode=AlwaysDeny`).
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Authorization {
        Authorization::new(Decision::NoOpinion, "Everything is forbidden.")
    }
}

impl RuleResolver for AlwaysDeny {
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules::default()
    }
}

/// Allows everything to members of groups; the server puts it first with `system:masters`.
#[derive(Debug, Clone)]
pub struct PrivilegedGroups(Vec<String>);

impl PrivilegedGroups {
    /// Allows everything to these groups.
    pub fn new(groups: &[&str]) -> Self {
        Self(groups.iter().map(|g| (*g).to_owned()).collect())
    }
}

#[async_trait]
impl Authorizer for PrivilegedGroups {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Authorization {
        if self.0.iter().any(|group| attributes.user.in_group(group)) {
            Authorization::new(Decision::Allow, "")
        } else {
            Authorization::new(Decision::NoOpinion, "")
        }
    }
}

impl RuleResolver for PrivilegedGroups {
    /// None: what these groups may is told by RBAC's `cluster-admin`.
    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::SYSTEM_MASTERS;

    #[tokio::test]
    async fn the_first_opinion_counts() {
        let union = UnionAuthorizer::new(vec![
            Arc::new(PrivilegedGroups::new(&[SYSTEM_MASTERS])),
            Arc::new(AlwaysDeny),
        ]);
        let (root, ann) = (UserInfo::new("root", &[SYSTEM_MASTERS]), UserInfo::new("ann", &[]));
        assert!(union.authorize(&Attributes::non_resource(&root, "get", "/x")).await.allowed());
        let answer = union.authorize(&Attributes::non_resource(&ann, "get", "/x")).await;
        assert_eq!(
            (answer.decision, answer.reason.as_str()),
            (Decision::NoOpinion, "Everything is forbidden.")
        );
        assert_eq!(union.rules_for(&root, ""), Rules::default());
        assert_eq!(AlwaysAllow.rules_for(&ann, "").resource.len(), 1);
    }
}
