//! What requests count as (`k8s.io/apiserver/pkg/endpoints/metrics`).

use component::http::Request;
use http::header;
use indexmap::Equivalent;
use prometheus_client::encoding::EncodeLabelSet;

use crate::context::RequestContext;
use crate::handlers::patch::APPLY;
use crate::requestinfo::RequestInfo;

/// The component that requests are counted for; those of health paths have none.
const COMPONENT: &str = "apiserver";

/// What a request counts as; texts are owned or borrowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Key<T> {
    pub(super) verb: &'static str,
    pub(super) scope: &'static str,
    pub(super) dry_run: &'static str,
    pub(super) long_running: bool,
    pub(super) component: &'static str,
    pub(super) group: T,
    pub(super) version: T,
    pub(super) resource: T,
    pub(super) subresource: T,
}

impl Equivalent<Key<String>> for Key<&str> {
    fn equivalent(&self, other: &Key<String>) -> bool {
        *self
            == Key {
                verb: other.verb,
                scope: other.scope,
                dry_run: other.dry_run,
                long_running: other.long_running,
                component: other.component,
                group: &other.group,
                version: &other.version,
                resource: &other.resource,
                subresource: &other.subresource,
            }
    }
}

impl<'c> Key<&'c str> {
    pub(super) fn of(context: &'c RequestContext, request: &Request, long_running: bool) -> Self {
        let info = &*context.info;
        let subresource = if info.is_resource { &info.subresource } else { counted_path(info).unwrap_or("") };
        Self {
            verb: verb(info, request, long_running),
            scope: info.scope(),
            dry_run: dry_run(context.query.get("dryRun")),
            long_running,
            component: if is_health(subresource) { "" } else { COMPONENT },
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource,
        }
    }

    /// What a request for nothing that is served counts as.
    pub(super) fn unknown(&self) -> Self {
        Self { group: "", version: "", resource: "", subresource: "", ..self.clone() }
    }

    pub(super) fn to_owned(&self) -> Key<String> {
        Key {
            verb: self.verb,
            scope: self.scope,
            dry_run: self.dry_run,
            long_running: self.long_running,
            component: self.component,
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            resource: self.resource.to_owned(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// The path of a request that is about no resource and is counted all the same; it stands where others have the
/// subresource. Versions, documents and metrics are not counted.
pub(super) fn counted_path(info: &RequestInfo) -> Option<&'static str> {
    ["/api", "/apis", "/healthz", "/livez", "/readyz"].into_iter().find(|path| *path == info.path)
}

fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz")
}

/// The method as metrics name it: lists, watches, connections and apply have names of their own.
fn verb(info: &RequestInfo, request: &Request, long_running: bool) -> &'static str {
    match info.verb {
        "watch" => "WATCH",
        "list" => "LIST",
        _ if info.is_resource && long_running => "CONNECT",
        "get" | "head" => "GET",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if is_apply(request) => "APPLY",
        "patch" => "PATCH",
        "delete" | "deletecollection" => "DELETE",
        "connect" => "CONNECT",
        _ => "other",
    }
}

fn is_apply(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(APPLY.as_bytes()))
}

fn dry_run(asked: Option<&str>) -> &'static str {
    match asked {
        None | Some("") => "",
        Some("All") => "All",
        Some(_) => "invalid",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DurationLabels {
    #[prometheus(flatten)]
    labels: Labels,
    dry_run: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TotalLabels {
    #[prometheus(flatten)]
    labels: DurationLabels,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TerminationLabels {
    #[prometheus(flatten)]
    labels: Labels,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BodyLabels {
    group: String,
    resource: String,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SelfLabels {
    verb: &'static str,
    group: String,
    resource: String,
    subresource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    pub(super) request_kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DeprecatedLabels {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) removed_release: String,
}

impl Key<String> {
    pub(super) fn is_read(&self) -> bool {
        matches!(self.verb, "GET" | "LIST")
    }

    /// What bodies count as, of requests that have some.
    pub(super) fn body_labels(&self) -> Option<BodyLabels> {
        let verb = match self.verb {
            "POST" => "create",
            "PUT" => "update",
            "PATCH" | "APPLY" => "patch",
            "DELETE" if self.scope == "resource" => "delete",
            "DELETE" => "delete_collection",
            _ => return None,
        };
        Some(BodyLabels { group: self.group.clone(), resource: self.resource.clone(), verb })
    }

    pub(super) fn labels(&self) -> Labels {
        let Self { verb, group, version, resource, subresource, scope, component, .. } = self.clone();
        Labels { verb, group, version, resource, subresource, scope, component }
    }

    pub(super) fn duration_labels(&self) -> DurationLabels {
        DurationLabels { labels: self.labels(), dry_run: self.dry_run }
    }

    pub(super) fn total_labels(&self, code: u16) -> TotalLabels {
        TotalLabels { labels: self.duration_labels(), code }
    }

    pub(super) fn termination_labels(&self, code: u16) -> TerminationLabels {
        TerminationLabels { labels: self.labels(), code }
    }

    pub(super) fn self_labels(&self) -> SelfLabels {
        let Self { verb, group, resource, subresource, .. } = self.clone();
        SelfLabels { verb, group, resource, subresource }
    }
}
