//! Authorizers: whether a user may do what a request asks. Source: `k8s.io/apiserver/pkg/authorization`.

pub mod node;
pub mod rbac;
pub mod union;

use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use async_trait::async_trait;

use crate::user::UserInfo;

/// What is asked: verb and resource, or verb and path.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `list`, ... for resources, the lower-case HTTP method for other paths.
    pub verb: &'a str,
    /// Namespace, empty for cluster-wide requests.
    pub namespace: &'a str,
    /// API group.
    pub api_group: &'a str,
    /// API version; `*` asks for any.
    pub api_version: &'a str,
    /// Resource, empty for other paths.
    pub resource: &'a str,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Name of the object, empty for collections and creates.
    pub name: &'a str,
    /// Whether a resource is asked for.
    pub resource_request: bool,
    /// Path of the URL.
    pub path: &'a str,
    /// The request's field selector as sent; the Node authorizer lets a kubelet list what it limits to itself.
    pub field_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A verb on a path that is no resource.
    pub fn non_resource(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self {
            user,
            verb,
            path,
            namespace: "",
            api_group: "",
            api_version: "",
            resource: "",
            subresource: "",
            name: "",
            resource_request: false,
            field_selector: "",
        }
    }

    /// A verb on a resource (`pods`, `pods/exec`), in a namespace and with a name where they are not empty.
    pub fn resource(
        user: &'a UserInfo,
        verb: &'a str,
        api_group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> Self {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Self {
            verb,
            namespace,
            api_group,
            api_version: "*",
            resource,
            subresource,
            name,
            resource_request: true,
            ..Self::non_resource(user, verb, "")
        }
    }

    /// Whether the verb reads only.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
}

/// What an authorizer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes, ask no further.
    Allow,
    /// No, ask no further.
    Deny,
    /// Not known here; the request is refused when everybody says so.
    NoOpinion,
}

/// A decision with the reason clients are told, and what went wrong on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// The decision.
    pub decision: Decision,
    /// Why, may be empty.
    pub reason: String,
    /// Trouble while deciding (`SubjectAccessReview.status.evaluationError`), may be empty.
    pub error: String,
}

impl Authorization {
    /// A decision without trouble.
    pub fn new(decision: Decision, reason: impl Into<String>) -> Self {
        Self { decision, reason: reason.into(), error: String::new() }
    }

    /// Whether the request may go on.
    pub fn allowed(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// Decides on requests.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Decides on one request.
    async fn authorize(&self, attributes: &Attributes<'_>) -> Authorization;
}

/// Verbs on resources, as a `SelfSubjectRulesReview` reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceRule {
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
    /// API groups, `*` for all.
    pub api_groups: Vec<String>,
    /// Resources.
    pub resources: Vec<String>,
    /// Names the rule is limited to; empty is no limit.
    pub resource_names: Vec<String>,
}

/// Verbs on paths, as a `SelfSubjectRulesReview` reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NonResourceRule {
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
    /// Paths; a trailing `*` matches every longer path.
    pub non_resource_urls: Vec<String>,
}

/// What a user may do in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// On resources.
    pub resource: Vec<ResourceRule>,
    /// On paths.
    pub non_resource: Vec<NonResourceRule>,
    /// The lists may lack something.
    pub incomplete: bool,
    /// Why, may be empty.
    pub evaluation_error: String,
}

/// Lists what a user may do, for `SelfSubjectRulesReview`.
pub trait RuleResolver: Send + Sync {
    /// Rules of a user in a namespace.
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules;
}

/// The sentence of a refused request, upstream's words: `User "x" cannot list resource "pods" in API group "" in the
/// namespace "y"`.
pub fn forbidden_message(attributes: &Attributes<'_>, reason: &str) -> String {
    let user = format!("{:?}", attributes.user.name);
    let mut message = if attributes.resource_request {
        let resource = if attributes.subresource.is_empty() {
            attributes.resource.to_owned()
        } else {
            format!("{}/{}", attributes.resource, attributes.subresource)
        };
        let what = format!(
            "User {user} cannot {} resource {resource:?} in API group {:?}",
            attributes.verb, attributes.api_group
        );
        match attributes.namespace {
            "" => format!("{what} at the cluster scope"),
            namespace => format!("{what} in the namespace {namespace:?}"),
        }
    } else {
        format!("User {user} cannot {} path {:?}", attributes.verb, attributes.path)
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    message
}

/// The 403 of a refused request.
pub fn forbidden_status(attributes: &Attributes<'_>, reason: &str) -> Status {
    let resource = GroupResource::new(attributes.api_group, attributes.resource);
    Status::forbidden(&resource, attributes.name, &forbidden_message(attributes, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = UserInfo::new("x", &[]);
        let cases = [
            (
                Attributes::resource(&user, "list", "", "pods", "y", ""),
                "",
                r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#,
            ),
            (
                Attributes::resource(&user, "get", "apps", "deployments/scale", "", "d"),
                "because",
                r#"deployments.apps "d" is forbidden: User "x" cannot get resource "deployments/scale" in API group "apps" at the cluster scope: because"#,
            ),
            (
                Attributes::non_resource(&user, "get", "/metrics"),
                "",
                r#"forbidden: User "x" cannot get path "/metrics""#,
            ),
        ];
        for (attributes, reason, message) in cases {
            let status = forbidden_status(&attributes, reason);
            assert_eq!((status.code, status.message.as_str()), (403, message));
        }
    }
}
