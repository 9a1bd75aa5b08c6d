//! What a request is about, read from its method and path alone.
//!
//! The grammar is fixed (API reference, "Resource URIs"; `k8s.io/apiserver/pkg/endpoints/request`):
//! `/api/VERSION/...` and `/apis/GROUP/VERSION/...`, then an optional `watch`, an optional `namespaces/NAME`, and
//! `RESOURCE[/NAME[/SUBRESOURCE[/...]]]`. Authorization, audit and routing read nothing but this.

use percent_encoding::percent_decode_str;

use crate::query::Query;

/// Longest path that is looked at; longer ones are answered with 404 like every path nothing serves.
const MAX_PATH_SEGMENTS: usize = 1024;

/// A request's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// True below `/api/VERSION/` and `/apis/GROUP/VERSION/`.
    pub is_resource: bool,
    /// The path as sent, without query.
    pub path: String,
    /// API verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`), or the HTTP method
    /// in lower case when the request is about no resource.
    pub verb: &'static str,
    /// `api` or `apis`.
    pub prefix: &'static str,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for cluster-wide requests and lists over all namespaces.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, empty for the resource itself.
    pub subresource: String,
    /// Object name; for lists and watches the one a `metadata.name` field selector names.
    pub name: String,
    /// The resource path, decoded: resource, name, subresource and whatever follows.
    pub parts: Vec<String>,
    /// The namespace came from `namespaces/NAME/` in front of the resource.
    pub namespaced_path: bool,
    /// The deprecated `/watch/` form.
    pub watch_path: bool,
}

/// The method in lower case, as non-resource rules name it.
fn method_verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        "CONNECT" => "connect",
        "TRACE" => "trace",
        _ => "unknown",
    }
}

fn resource_verb(method: &http::Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

impl RequestInfo {
    /// Reads method, path and query.
    pub fn of(method: &http::Method, uri: &http::Uri, query: &Query) -> Self {
        let path = uri.path();
        let mut info = Self { path: path.to_owned(), verb: method_verb(method), ..Self::default() };
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).take(MAX_PATH_SEGMENTS).collect();
        let (prefix, rest) = match segments.split_first() {
            Some((&"api", rest)) if rest.len() >= 2 => ("api", rest),
            Some((&"apis", rest)) if rest.len() >= 3 => ("apis", rest),
            _ => return info,
        };
        info.prefix = prefix;
        let mut rest = rest;
        if prefix == "apis" {
            info.group = decode(rest[0]);
            rest = &rest[1..];
        }
        info.version = decode(rest[0]);
        rest = &rest[1..];
        info.is_resource = true;
        info.verb = resource_verb(method);
        if rest[0] == "watch" && rest.len() > 1 {
            info.verb = "watch";
            info.watch_path = true;
            rest = &rest[1..];
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = decode(rest[1]);
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                info.namespaced_path = true;
                rest = &rest[2..];
            }
        }
        info.parts = rest.iter().map(|s| decode(s)).collect();
        info.resource.clone_from(&info.parts[0]);
        info.name = info.parts.get(1).cloned().unwrap_or_default();
        info.subresource = info.parts.get(2).cloned().unwrap_or_default();
        if info.name.is_empty() {
            info.collection_verb(query);
        }
        info
    }

    /// A request without a name is about the collection.
    fn collection_verb(&mut self, query: &Query) {
        match self.verb {
            "get" => {
                self.verb = if query.flag("watch") { "watch" } else { "list" };
                self.name = named_by_selector(query.get("fieldSelector").unwrap_or(""));
            }
            "watch" => self.name = named_by_selector(query.get("fieldSelector").unwrap_or("")),
            "delete" => self.verb = "deletecollection",
            _ => {}
        }
    }

    /// What follows the subresource, as `/proxy/PATH` needs it: decoded segments.
    pub fn rest(&self) -> &[String] {
        self.parts.get(3..).unwrap_or(&[])
    }

    /// Whether the request only reads.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch" | "head" | "options")
    }

    /// The `scope` label of request metrics.
    pub fn scope(&self) -> &'static str {
        if !self.is_resource {
            ""
        } else if !self.name.is_empty() || self.verb == "create" {
            "resource"
        } else if self.namespace.is_empty() {
            "cluster"
        } else {
            "namespace"
        }
    }
}

/// The name in a field selector `metadata.name=NAME` that requires exactly one, else empty.
fn named_by_selector(selector: &str) -> String {
    let exact = selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value).to_owned())
    });
    match exact {
        // a value that could not be a path segment is no name
        Some(name) if !name.contains('/') && name != "." && name != ".." => name,
        _ => String::new(),
    }
}

fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        let uri: http::Uri = uri.parse().expect("uri");
        let query = Query::parse(uri.query().unwrap_or(""));
        RequestInfo::of(&method.parse().expect("method"), &uri, &query)
    }

    #[test]
    fn resource_paths() {
        // method, uri, verb, prefix, group, version, namespace, resource, subresource, name
        let cases = [
            ("GET", "/api/v1/namespaces", ["list", "api", "", "v1", "", "namespaces", "", ""]),
            ("GET", "/api/v1/namespaces/other", ["get", "api", "", "v1", "other", "namespaces", "", "other"]),
            (
                "PUT",
                "/api/v1/namespaces/other/finalize",
                ["update", "api", "", "v1", "other", "namespaces", "finalize", "other"],
            ),
            ("GET", "/api/v1/namespaces/other/pods", ["list", "api", "", "v1", "other", "pods", "", ""]),
            (
                "GET",
                "/api/v1/namespaces/other/pods/foo",
                ["get", "api", "", "v1", "other", "pods", "", "foo"],
            ),
            (
                "HEAD",
                "/api/v1/namespaces/other/pods/foo",
                ["get", "api", "", "v1", "other", "pods", "", "foo"],
            ),
            ("GET", "/api/v1/pods", ["list", "api", "", "v1", "", "pods", "", ""]),
            ("GET", "/api/v1/pods?watch=true", ["watch", "api", "", "v1", "", "pods", "", ""]),
            ("GET", "/api/v1/pods?watch=false", ["list", "api", "", "v1", "", "pods", "", ""]),
            ("GET", "/api/v1/watch/pods", ["watch", "api", "", "v1", "", "pods", "", ""]),
            ("GET", "/api/v1/watch/namespaces/a/pods/b", ["watch", "api", "", "v1", "a", "pods", "", "b"]),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name%3Dfoo",
                ["list", "api", "", "v1", "", "pods", "", "foo"],
            ),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods",
                ["deletecollection", "api", "", "v1", "a", "pods", "", ""],
            ),
            ("DELETE", "/api/v1/namespaces/a/pods/b", ["delete", "api", "", "v1", "a", "pods", "", "b"]),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/eviction",
                ["create", "api", "", "v1", "a", "pods", "eviction", "b"],
            ),
            (
                "POST",
                "/apis/apps/v1/namespaces/a/deployments",
                ["create", "apis", "apps", "v1", "a", "deployments", "", ""],
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                ["patch", "apis", "apps", "v1", "a", "deployments", "scale", "d"],
            ),
            (
                "GET",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                ["get", "apis", "rbac.authorization.k8s.io", "v1", "", "clusterroles", "", "system:node"],
            ),
            ("GET", "/api/v1/nodes/n/proxy/logs/x", ["get", "api", "", "v1", "", "nodes", "proxy", "n"]),
        ];
        for (method, uri, [verb, prefix, group, version, namespace, resource, subresource, name]) in cases {
            let got = info(method, uri);
            assert!(got.is_resource, "{uri}");
            assert_eq!(
                [
                    got.verb,
                    got.prefix,
                    &got.group,
                    &got.version,
                    &got.namespace,
                    &got.resource,
                    &got.subresource,
                    &got.name
                ],
                [verb, prefix, group, version, namespace, resource, subresource, name],
                "{method} {uri}"
            );
        }
    }

    #[test]
    fn other_paths_are_no_resources() {
        for uri in [
            "/",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/version",
        ] {
            let got = info("GET", uri);
            assert!(!got.is_resource, "{uri}");
            assert_eq!(got.verb, "get");
        }
        assert_eq!(info("POST", "/healthz").verb, "post");
    }

    #[test]
    fn rest_of_a_proxied_path() {
        assert_eq!(info("GET", "/api/v1/namespaces/a/pods/b/proxy/x/y%20z").rest(), ["x", "y z"]);
    }
}
