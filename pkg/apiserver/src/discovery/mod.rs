//! Discovery: which groups, versions, resources and verbs are served.
//!
//! Source: "API concepts", `k8s.io/apiserver/pkg/endpoints/discovery` and KEP-3352 (aggregated discovery). Documents are
//! made once for each snapshot of the registry and sent as bytes.

mod aggregated;
mod legacy;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::descriptor::{Registry, ResourceDescriptor, Resources, ServedVersion};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use component::http::{Body, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::digest;
use crate::negotiate::{self, Format};
use crate::query::Query;
use crate::respond;

/// A discovery document with its ETag, as nearly all are sent; the tree would be half a megabyte of small parts.
struct Document {
    json: Bytes,
    etag: HeaderValue,
}

impl Document {
    fn new(value: &Value) -> Self {
        let json: Bytes = respond::json_text(value, false).into();
        let etag = HeaderValue::from_str(&format!("\"{}\"", digest::hex(&json)))
            .expect("hexadecimal digits in quotes are a header value");
        Self { json, etag }
    }

    /// The document for other formats.
    fn value(&self) -> Value {
        apimachinery::json::parse(&self.json).expect("what was written by this process").value
    }
}

/// Everything discovery says about one snapshot of the registry.
struct Documents {
    of: Arc<Resources>,
    /// Legacy documents by path without a slash at its end.
    legacy: BTreeMap<String, Document>,
    /// Aggregated documents by path (`/api`, `/apis`) and version of `apidiscovery.k8s.io`.
    aggregated: BTreeMap<(&'static str, &'static str), Document>,
}

/// Answers discovery requests.
pub(crate) struct Discovery {
    resources: Arc<Registry>,
    address: String,
    current: ArcSwapOption<Documents>,
}

impl Discovery {
    /// Of a registry; `address` is `HOST:PORT` as `/api` tells clients.
    pub(crate) fn new(resources: Arc<Registry>, address: String) -> Self {
        Self { resources, address, current: ArcSwapOption::empty() }
    }

    fn documents(&self) -> Arc<Documents> {
        let snapshot = self.resources.snapshot();
        if let Some(current) = self.current.load_full()
            && Arc::ptr_eq(&current.of, &snapshot)
        {
            return current;
        }
        let groups = groups(&snapshot);
        let made = Arc::new(Documents {
            legacy: legacy::documents(&groups, &self.address)
                .into_iter()
                .map(|(path, value)| (path, Document::new(&value)))
                .collect(),
            aggregated: aggregated::documents(&groups)
                .into_iter()
                .map(|(key, value)| (key, Document::new(&value)))
                .collect(),
            of: snapshot,
        });
        self.current.store(Some(Arc::clone(&made)));
        made
    }

    /// Paths that discovery answers, for the index at `/`.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.documents().legacy.keys().cloned().collect()
    }

    /// Answers a path, `None` when it is none of discovery's.
    pub(crate) fn respond(&self, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response> {
        let path = path.trim_end_matches('/');
        let documents = self.documents();
        let aggregated_path = match path {
            "/api" => Some("/api"),
            "/apis" => Some("/apis"),
            _ => None,
        };
        if let Some(key) = aggregated_path
            && let Some(version) = aggregated::wanted_version(headers)
        {
            return Some(aggregated_response(&documents, key, version, headers));
        }
        let document = documents.legacy.get(path)?;
        Some(match negotiate::single(headers, query) {
            Err(status) => respond::failure(&status, &negotiate::MediaType::JSON),
            Ok(media) if media.format == Format::Json && !media.pretty => {
                respond::bytes(StatusCode::OK, negotiate::JSON, document.json.clone())
            }
            Ok(media) => crate::codec::discovery(&document.value(), &media),
        })
    }
}

/// The aggregated document, or 304 when the client has it.
fn aggregated_response(
    documents: &Documents,
    path: &'static str,
    version: &'static str,
    headers: &HeaderMap,
) -> Response {
    let Some(document) = documents.aggregated.get(&(path, version)) else {
        return respond::failure(
            &apimachinery::status::Status::not_acceptable(&[negotiate::JSON]),
            &negotiate::MediaType::JSON,
        );
    };
    let unchanged = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == document.etag);
    let mut response: http::Response<Body> = if unchanged {
        let mut response = http::Response::new(component::http::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(StatusCode::OK, aggregated::media_type(version), document.json.clone())
    };
    let out = response.headers_mut();
    out.insert(header::ETAG, document.etag.clone());
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// A group with its versions, most preferred first, and their resources by name.
pub(crate) struct Group<'a> {
    pub(crate) name: &'a str,
    pub(crate) versions: Vec<(&'a str, Vec<(&'a ResourceDescriptor, &'a ServedVersion)>)>,
}

/// The groups of a snapshot in its order.
pub(crate) fn groups(resources: &Resources) -> Vec<Group<'_>> {
    let mut found: Vec<Group<'_>> = Vec::new();
    for descriptor in &resources.all {
        let position = found.iter().position(|g| g.name == descriptor.group).unwrap_or_else(|| {
            found.push(Group { name: &descriptor.group, versions: Vec::new() });
            found.len() - 1
        });
        let group = &mut found[position];
        for version in &descriptor.versions {
            match group.versions.iter_mut().find(|(name, _)| *name == version.version) {
                Some((_, resources)) => resources.push((descriptor, version)),
                None => group.versions.push((&version.version, vec![(descriptor, version)])),
            }
        }
    }
    for group in &mut found {
        group.versions.sort_by_key(|(version, _)| std::cmp::Reverse(version_rank(version)));
        for (_, resources) in &mut group.versions {
            resources.sort_by(|a, b| a.0.plural.cmp(&b.0.plural));
        }
    }
    found
}

/// Order of versions: `v2` over `v1` over `v2beta1` over `v1beta2` over `v1alpha1` over everything else by name
/// (`k8s.io/apimachinery/pkg/version`).
pub(crate) fn version_rank(version: &str) -> (u8, u32, u32, std::cmp::Reverse<String>) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (3, 0),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => (2, minor.parse().ok()?),
                (_, Some(minor)) => (1, minor.parse().ok()?),
                _ => return None,
            },
        };
        Some((stage, major, minor))
    });
    let name = std::cmp::Reverse(version.to_owned());
    parsed.map_or((0, 0, 0, name.clone()), |(stage, major, minor)| (stage, major, minor, name))
}

#[cfg(test)]
mod tests {
    use super::version_rank;

    #[test]
    fn versions_are_ordered_by_stability() {
        let mut versions = ["v1alpha1", "foo", "v1", "v2beta1", "v10", "v1beta2", "v2"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }
}
