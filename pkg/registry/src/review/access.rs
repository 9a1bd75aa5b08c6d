//! `SubjectAccessReview` and its two kin: may somebody do this?

use std::collections::BTreeMap;
use std::sync::Arc;

use admission::Operation;
use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, namespace, str_at};
use apimachinery::status::{FieldError, Status};
use apiserver::{Call, SubresourceHandler};
use async_trait::async_trait;
use auth::authz::Attributes;
use auth::{Authorization, Authorizer, Decision, UserInfo};
use component::http::Body;
use http::{Response, StatusCode};

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `SubjectAccessReview`: about anybody.
    Anybody,
    /// `LocalSubjectAccessReview`: about anybody, in one namespace.
    Namespace,
    /// `SelfSubjectAccessReview`: about the requester.
    Requester,
}

/// Answers access reviews.
pub(crate) struct AccessReview {
    scope: Scope,
    authorizer: Arc<dyn Authorizer>,
}

impl AccessReview {
    pub(crate) fn new(scope: Scope, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { scope, authorizer }
    }
}

fn is_set(object: &Value, path: &[&str]) -> bool {
    at(object, path).is_some_and(|v| !v.is_null())
}

/// What is wrong with the question; `place` is the namespace of the path.
fn problems(scope: Scope, review: &Value, place: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let resource = is_set(review, &["spec", "resourceAttributes"]);
    let other = is_set(review, &["spec", "nonResourceAttributes"]);
    if resource && other {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            review["spec"]["nonResourceAttributes"].clone(),
            why,
        ));
    }
    if !resource && !other {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid("spec.resourceAttributes", Value::Null, why));
    }
    if scope != Scope::Requester {
        let no_groups = at(review, &["spec", "groups"]).and_then(Value::as_array).is_none_or(Vec::is_empty);
        if str_at(review, &["spec", "user"]).is_empty() && no_groups {
            errors.push(FieldError::invalid(
                "spec.user",
                "",
                "at least one of user or group must be specified",
            ));
        }
    }
    if scope == Scope::Namespace {
        if other {
            errors.push(FieldError::invalid(
                "spec.nonResourceAttributes",
                review["spec"]["nonResourceAttributes"].clone(),
                "disallowed on this kind of request",
            ));
        }
        let asked = str_at(review, &["spec", "resourceAttributes", "namespace"]);
        if resource && asked != place {
            errors.push(FieldError::invalid(
                "spec.resourceAttributes.namespace",
                asked,
                "must match metadata.namespace",
            ));
        }
    }
    errors
}

fn texts(object: &Value, path: &[&str]) -> Vec<String> {
    at(object, path).and_then(|v| apimachinery::from_value(v.clone()).ok()).unwrap_or_default()
}

/// The user a review is about.
fn subject(review: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> = at(review, &["spec", "extra"])
        .and_then(|v| apimachinery::from_value(v.clone()).ok())
        .unwrap_or_default();
    UserInfo {
        name: str_at(review, &["spec", "user"]).to_owned(),
        uid: str_at(review, &["spec", "uid"]).to_owned(),
        groups: texts(review, &["spec", "groups"]),
        extra: extra.into_iter().map(|(key, values)| (key.to_ascii_lowercase(), values)).collect(),
    }
}

/// A review's field selector as text, from either form it may have.
fn field_selector(resource: &Value) -> String {
    let raw = str_at(resource, &["fieldSelector", "rawSelector"]);
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let requirements = at(resource, &["fieldSelector", "requirements"]).and_then(Value::as_array);
    let terms: Vec<String> = requirements
        .into_iter()
        .flatten()
        .filter_map(|r| {
            let values = texts(r, &["values"]);
            match (str_at(r, &["operator"]), values.as_slice()) {
                ("In", [one]) => Some(format!("{}={one}", str_at(r, &["key"]))),
                ("NotIn", [one]) => Some(format!("{}!={one}", str_at(r, &["key"]))),
                _ => None, // wider than one value: limits nothing an authorizer could rely on
            }
        })
        .collect();
    terms.join(",")
}

fn status(answer: &Authorization) -> Value {
    let mut status = json!({"allowed": answer.allowed()});
    if answer.decision == Decision::Deny {
        status["denied"] = json!(true);
    }
    for (key, text) in [("reason", &answer.reason), ("evaluationError", &answer.error)] {
        if !text.is_empty() {
            status[key] = json!(text);
        }
    }
    status
}

impl AccessReview {
    async fn answer(&self, review: &Value, requester: &UserInfo) -> Authorization {
        let named = subject(review);
        let user = if self.scope == Scope::Requester { requester } else { &named };
        if is_set(review, &["spec", "resourceAttributes"]) {
            let resource = &review["spec"]["resourceAttributes"];
            let text = |key: &str| str_at(resource, &[key]);
            let selector = field_selector(resource);
            let mut attributes =
                Attributes::resource(user, text("verb"), text("group"), "", text("namespace"), text("name"));
            attributes.resource = text("resource");
            attributes.subresource = text("subresource");
            attributes.api_version = if text("version").is_empty() { "*" } else { text("version") };
            attributes.field_selector = &selector;
            return self.authorizer.authorize(&attributes).await;
        }
        let other = &review["spec"]["nonResourceAttributes"];
        let attributes = Attributes::non_resource(user, str_at(other, &["verb"]), str_at(other, &["path"]));
        self.authorizer.authorize(&attributes).await
    }
}

#[async_trait]
impl SubresourceHandler for AccessReview {
    async fn handle(&self, mut call: Call) -> Result<Response<Body>, Status> {
        let mut review = call.decode_body().await?;
        let place = call.context.info.namespace.clone();
        if self.scope == Scope::Namespace && !namespace(&review).is_empty() && namespace(&review) != place {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let errors = problems(self.scope, &review, &place);
        if !errors.is_empty() {
            return Err(Status::invalid(&call.descriptor.group, &call.descriptor.kind, "", &errors));
        }
        let dry_run = call.dry_run()?;
        call.admit(Operation::Create, &mut review, dry_run).await?;
        let answer = self.answer(&review, &call.context.user).await;
        review["status"] = status(&answer);
        call.respond(StatusCode::CREATED, &review)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_checked() {
        let resource = json!({"namespace": "a", "verb": "get", "resource": "pods"});
        let cases = [
            (Scope::Requester, json!({"resourceAttributes": resource}), vec![]),
            (Scope::Requester, json!({}), vec!["spec.resourceAttributes"]),
            (Scope::Anybody, json!({"resourceAttributes": resource}), vec!["spec.user"]),
            (Scope::Anybody, json!({"user": "u", "nonResourceAttributes": {"path": "/x"}}), vec![]),
            (
                Scope::Anybody,
                json!({"groups": ["g"], "nonResourceAttributes": {}, "resourceAttributes": resource}),
                vec!["spec.nonResourceAttributes"],
            ),
            (Scope::Namespace, json!({"user": "u", "resourceAttributes": resource}), vec![]),
            (
                Scope::Namespace,
                json!({"user": "u", "resourceAttributes": {"namespace": "b"}}),
                vec!["spec.resourceAttributes.namespace"],
            ),
            (
                Scope::Namespace,
                json!({"user": "u", "nonResourceAttributes": {}}),
                vec!["spec.nonResourceAttributes"],
            ),
        ];
        for (scope, spec, expected) in cases {
            let errors = problems(scope, &json!({"spec": spec}), "a");
            let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
            assert_eq!(fields, expected, "{scope:?} {spec}");
        }
    }

    #[test]
    fn selectors_and_answers_are_told() {
        let selector = |s: Value| field_selector(&json!({"fieldSelector": s}));
        assert_eq!(selector(json!({"rawSelector": "a=b"})), "a=b");
        let requirement = json!({"key": "spec.nodeName", "operator": "In", "values": ["n"]});
        assert_eq!(
            selector(json!({"requirements": [requirement, {"key": "x", "operator": "Exists"}]})),
            "spec.nodeName=n"
        );
        assert_eq!(
            status(&Authorization::new(Decision::Allow, "because")),
            json!({"allowed": true, "reason": "because"})
        );
        assert_eq!(
            status(&Authorization::new(Decision::Deny, "")),
            json!({"allowed": false, "denied": true})
        );
        assert_eq!(status(&Authorization::new(Decision::NoOpinion, "")), json!({"allowed": false}));
    }
}
