//! Reviews: questions about identity and rights, answered and not stored.
//! Source: `k8s.io/kubernetes/pkg/registry/{authentication,authorization}`.

mod access;
mod token;

use std::sync::Arc;

use admission::Operation;
use apimachinery::json;
use apimachinery::meta::str_at;
use apimachinery::status::Status;
use apiserver::{Call, SubresourceHandler};
use async_trait::async_trait;
use auth::authz::RuleResolver;
use component::http::Body;
use http::{Response, StatusCode};

pub(crate) use access::{AccessReview, Scope};
pub(crate) use token::TokenReview;

/// `SelfSubjectReview`: who am I?
pub(crate) struct SelfSubjectReview;

#[async_trait]
impl SubresourceHandler for SelfSubjectReview {
    async fn handle(&self, mut call: Call) -> Result<Response<Body>, Status> {
        let mut review = call.decode_body().await?;
        let dry_run = call.dry_run()?;
        call.admit(Operation::Create, &mut review, dry_run).await?;
        review["status"] = json!({"userInfo": call.context.user.to_value()});
        call.respond(StatusCode::CREATED, &review)
    }
}

/// `SelfSubjectRulesReview`: what may I do in a namespace?
pub(crate) struct RulesReview {
    resolver: Arc<dyn RuleResolver>,
}

impl RulesReview {
    pub(crate) fn new(resolver: Arc<dyn RuleResolver>) -> Self {
        Self { resolver }
    }
}

#[async_trait]
impl SubresourceHandler for RulesReview {
    async fn handle(&self, mut call: Call) -> Result<Response<Body>, Status> {
        let mut review = call.decode_body().await?;
        let namespace = str_at(&review, &["spec", "namespace"]).to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let dry_run = call.dry_run()?;
        call.admit(Operation::Create, &mut review, dry_run).await?;
        let rules = self.resolver.rules_for(&call.context.user, &namespace);
        let resource: Vec<_> = rules
            .resource
            .iter()
            .map(|rule| {
                let mut out =
                    json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                if !rule.resource_names.is_empty() {
                    out["resourceNames"] = json!(rule.resource_names);
                }
                out
            })
            .collect();
        let other: Vec<_> = rules
            .non_resource
            .iter()
            .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}))
            .collect();
        review["status"] =
            json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": rules.incomplete});
        if !rules.evaluation_error.is_empty() {
            review["status"]["evaluationError"] = json!(rules.evaluation_error);
        }
        call.respond(StatusCode::CREATED, &review)
    }
}
