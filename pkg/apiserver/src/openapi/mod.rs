//! OpenAPI: `/openapi/v3`, one document for each group version, and `/openapi/v2`, all in one.
//!
//! Made from the descriptors when first asked for and kept as bytes. Hashes in URLs and ETags come from what a document
//! is made of (this build and the resources), so that the index costs nothing at start.

mod definitions;
mod gnostic;
mod operations;
mod parameters;
mod v2;
mod v3;

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::descriptor::{Registry, Resources};
use apimachinery::schema::Schema;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use component::http::{Response, empty};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Map, json};

use crate::digest;
use crate::discovery::groups;
use crate::negotiate;
use crate::query::Query;
use crate::respond;

/// Media type of a v2 document as protobuf, in both spellings clients use. Answers are in the second, as upstream's: an
/// `@` is no part of a media type, and old kubectl refuses it.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
/// One v3 document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Document {
    /// `apis/GROUP/VERSION` or `api/VERSION`.
    Version { group: String, version: String },
    /// `apis/GROUP` or `api`.
    Group { group: String },
    /// `apis`.
    Groups,
    /// `version`.
    Version_,
}

impl Document {
    fn path(&self) -> String {
        match self {
            Self::Version { group, version } if group.is_empty() => format!("api/{version}"),
            Self::Version { group, version } => format!("apis/{group}/{version}"),
            Self::Group { group } if group.is_empty() => "api".into(),
            Self::Group { group } => format!("apis/{group}"),
            Self::Groups => "apis".into(),
            Self::Version_ => "version".into(),
        }
    }
}

/// All documents of one snapshot of the registry.
struct Documents {
    of: Arc<Resources>,
    index: Bytes,
    hashes: HashMap<String, (Document, String)>,
    made: Mutex<HashMap<String, Bytes>>,
}

/// Answers OpenAPI requests.
pub(crate) struct OpenApi {
    resources: Arc<Registry>,
    current: ArcSwapOption<Documents>,
}

impl OpenApi {
    /// Of a registry.
    pub(crate) fn new(resources: Arc<Registry>) -> Self {
        Self { resources, current: ArcSwapOption::empty() }
    }

    fn documents(&self) -> Arc<Documents> {
        let snapshot = self.resources.snapshot();
        if let Some(current) = self.current.load_full()
            && Arc::ptr_eq(&current.of, &snapshot)
        {
            return current;
        }
        let made = Arc::new(Documents::new(snapshot));
        self.current.store(Some(Arc::clone(&made)));
        made
    }

    /// Answers a path, `None` when it is none of OpenAPI's.
    pub(crate) fn respond(&self, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response> {
        let rest = path.strip_prefix("/openapi/")?.trim_end_matches('/');
        match rest {
            "v2" => Some(self.v2(headers)),
            "v3" => Some(respond::bytes(StatusCode::OK, negotiate::JSON, self.documents().index.clone())),
            _ => self.v3(rest.strip_prefix("v3/")?, headers, query),
        }
    }

    fn v3(&self, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response> {
        let documents = self.documents();
        let (document, hash) = documents.hashes.get(path)?;
        let asked = query.get("hash");
        if asked.is_some_and(|asked| asked != hash) {
            let location = format!("/openapi/v3/{path}?hash={hash}");
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
            return Some(response);
        }
        let bytes = documents.get(path, || documents.v3(document).to_string().into_bytes());
        let mut response = cacheable(headers, hash, negotiate::JSON, bytes);
        if asked.is_some() {
            let out = response.headers_mut();
            out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            out.insert("expires", HeaderValue::from_static("Fri, 31 Dec 2100 23:59:59 GMT"));
        }
        Some(response)
    }

    fn v2(&self, headers: &HeaderMap) -> Response {
        let documents = self.documents();
        let wants_protobuf = accepts(headers, &V2_PROTOBUF);
        let key = if wants_protobuf { "v2#protobuf" } else { "v2" };
        let bytes = documents.get(key, || {
            let value = documents.v2();
            if wants_protobuf { gnostic::v2(&value) } else { value.to_string().into_bytes() }
        });
        let hash = digest::hex(&documents.index);
        let media = if wants_protobuf { V2_PROTOBUF[1] } else { negotiate::JSON };
        cacheable(headers, &hash, media, bytes)
    }
}

/// Whether the client asks for one of these media types before anything else that is served.
fn accepts(headers: &HeaderMap, types: &[&str]) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|clause| clause.split(';').next().unwrap_or("").trim())
        .find(|media| types.contains(media) || matches!(*media, "application/json" | "*/*"))
        .is_some_and(|media| types.contains(&media))
}

/// A document with its ETag, or 304 when the client has it.
fn cacheable(headers: &HeaderMap, hash: &str, media: &'static str, bytes: Bytes) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal digits are a header value");
    let unchanged = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| *tag == etag);
    let mut response = if unchanged {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(StatusCode::OK, media, bytes)
    };
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

impl Documents {
    fn new(of: Arc<Resources>) -> Self {
        let mut all = vec![Document::Groups, Document::Version_];
        let mut descriptions: HashMap<String, String> = HashMap::new();
        for group in groups(&of) {
            all.push(Document::Group { group: group.name.to_owned() });
            for (version, resources) in &group.versions {
                let document =
                    Document::Version { group: group.name.to_owned(), version: (*version).to_owned() };
                let names: Vec<String> = resources
                    .iter()
                    .map(|(d, v)| format!("{}:{:?}:{}", d.plural, v.verbs, v.schema.len()))
                    .collect();
                descriptions.insert(document.path(), names.join(","));
                all.push(document);
            }
        }
        let mut hashes = HashMap::new();
        let mut index = Map::new();
        all.sort_by_key(Document::path);
        for document in all {
            let path = document.path();
            let made_of = format!(
                "{} {path} {}",
                env!("CARGO_PKG_VERSION"),
                descriptions.get(&path).map_or("", String::as_str)
            );
            let hash = digest::hex(made_of.as_bytes());
            index.insert(
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}),
            );
            hashes.insert(path, (document, hash));
        }
        let index = Bytes::from(json!({ "paths": index }).to_string());
        Self { of, index, hashes, made: Mutex::default() }
    }

    fn get(&self, key: &str, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        if let Some(bytes) = self.made.lock().get(key) {
            return bytes.clone();
        }
        let bytes = Bytes::from(make());
        self.made.lock().insert(key.to_owned(), bytes.clone());
        bytes
    }

    /// The arena of a group version's types; every version of a group shares one.
    fn schema(&self, document: &Document) -> Arc<Schema> {
        let wanted = match document {
            Document::Version { group, version } => self
                .of
                .all
                .iter()
                .filter(|d| d.group == *group)
                .find_map(|d| d.version(version))
                .map(|v| Arc::clone(&v.schema)),
            _ => None,
        };
        wanted.unwrap_or_else(apis::schema)
    }

    fn v3(&self, document: &Document) -> Value {
        v3::document(&self.schema(document), &operations::paths(document, &groups(&self.of)))
    }

    fn v2(&self) -> Value {
        let groups = groups(&self.of);
        let mut documents: Vec<&Document> = self.hashes.values().map(|(d, _)| d).collect();
        documents.sort_by_key(|d| d.path());
        let items: Vec<_> = documents.iter().flat_map(|d| operations::paths(d, &groups)).collect();
        v2::document(&apis::schema(), &items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_is_sent_to_those_who_ask_for_it_first() {
        for (accept, expected) in [
            (V2_PROTOBUF[0], true),
            ("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", false),
            ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf,application/json;q=0.1", true),
            ("*/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("header"));
            assert_eq!(accepts(&headers, &V2_PROTOBUF), expected, "{accept}");
        }
    }
}
