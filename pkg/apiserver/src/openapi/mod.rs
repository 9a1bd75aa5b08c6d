//! OpenAPI: `/openapi/v3`, one document for each group version, and `/openapi/v2`, all in one.
//!
//! Made from the descriptors when first asked for and kept compressed, which is how nearly every client takes them.
//! Hashes in URLs and ETags come from what a document is made of (this build and the resources), so that the index costs
//! nothing at start. Source: KEP-2896, `k8s.io/kube-openapi/pkg/{handler,handler3}`.

mod definitions;
mod document;
mod gnostic;
mod nonresource;
mod operations;
mod parameters;

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::descriptor::{Registry, Resources, ServedVersion};
use apimachinery::schema::Schema;
use apimachinery::status::Status;
use apimachinery::{Map, json};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use component::http::{Response, empty};
use component::work;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;

use crate::digest;
use crate::discovery::groups;
use crate::filters::accepts_gzip;
use crate::negotiate;
use crate::query::Query;
use crate::respond;
use definitions::Dialect;
use document::Encoding;

/// Media types of the documents as protobuf, first in the spelling of answers. The other one, with an `@`, is no media
/// type that parsers take, but the one that clients ask for.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];
const V3_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
];
/// What the hashed URLs of version 3 expire at: never, as far as caches are concerned.
const NEVER: &str = "Fri, 31 Dec 2100 23:59:59 GMT";

/// About the time it takes to unpack a byte of a document.
const UNPACKING: Duration = Duration::from_nanos(60);

/// A part of the API with a document of its own in version 3.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Document {
    /// `apis/GROUP/VERSION` or `api/VERSION`.
    Version { group: String, version: String },
    /// `apis/GROUP` or `api`.
    Group { group: String },
    /// `apis`.
    Groups,
    /// `version`.
    Release,
    /// A document of the service account issuer, by its path.
    Issuer { path: String },
}

impl Document {
    fn path(&self) -> String {
        match self {
            Self::Version { group, version } if group.is_empty() => format!("api/{version}"),
            Self::Version { group, version } => format!("apis/{group}/{version}"),
            Self::Group { group } if group.is_empty() => "api".into(),
            Self::Group { group } => format!("apis/{group}"),
            Self::Groups => "apis".into(),
            Self::Release => "version".into(),
            Self::Issuer { path } => path.trim_start_matches('/').to_owned(),
        }
    }
}

/// Names one made document: of one part in version 3, or (`None`) of everything in version 2.
type Key = (Option<Document>, Encoding);

/// All documents of one snapshot of the registry.
struct Documents {
    of: Arc<Resources>,
    index: Bytes,
    /// Of the index, and so of everything.
    hash: String,
    parts: HashMap<String, (Document, String)>,
    /// Compressed documents, each made once.
    made: Mutex<HashMap<Key, Arc<OnceLock<Bytes>>>>,
}

/// Answers OpenAPI requests.
pub(crate) struct OpenApi {
    resources: Arc<Registry>,
    /// Paths served that are no resource.
    paths: Vec<String>,
    current: ArcSwapOption<Documents>,
}

impl OpenApi {
    /// Of a registry, and of paths with handlers of their own.
    pub(crate) fn new(resources: Arc<Registry>, paths: Vec<String>) -> Self {
        Self { resources, paths, current: ArcSwapOption::empty() }
    }

    fn documents(&self) -> Arc<Documents> {
        let snapshot = self.resources.snapshot();
        if let Some(current) = self.current.load_full()
            && Arc::ptr_eq(&current.of, &snapshot)
        {
            return current;
        }
        let made = Arc::new(Documents::new(snapshot, &self.paths));
        self.current.store(Some(Arc::clone(&made)));
        made
    }

    /// Answers a path, `None` when it is none of OpenAPI's.
    pub(crate) fn respond(&self, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response> {
        let rest = path.strip_prefix("/openapi/")?.trim_end_matches('/');
        match rest {
            "v2" => Some(self.v2(headers)),
            "v3" => Some(self.index(headers)),
            _ => self.v3(rest.strip_prefix("v3/")?, headers, query),
        }
    }

    fn index(&self, headers: &HeaderMap) -> Response {
        let documents = self.documents();
        let body = || respond::bytes(StatusCode::OK, negotiate::JSON, documents.index.clone());
        cacheable(headers, &documents.hash, body)
    }

    fn v3(&self, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response> {
        let documents = self.documents();
        let (document, hash) = documents.parts.get(path)?;
        let Some((media, encoding)) = negotiated(headers, &V3_PROTOBUF) else {
            return Some(not_acceptable(&V3_PROTOBUF));
        };
        let asked = query.get("hash").filter(|hash| !hash.is_empty());
        if asked.is_some_and(|asked| asked != hash) {
            let location = format!("/openapi/v3/{path}?hash={hash}");
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
            return Some(response);
        }
        let body = || documents.answer(headers, media, (Some(document.clone()), encoding));
        let mut response = cacheable(headers, &tag_of(hash, encoding), body);
        if asked.is_some() {
            let out = response.headers_mut();
            out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            out.insert(header::EXPIRES, HeaderValue::from_static(NEVER));
        }
        Some(response)
    }

    fn v2(&self, headers: &HeaderMap) -> Response {
        let documents = self.documents();
        let Some((media, encoding)) = negotiated(headers, &V2_PROTOBUF) else {
            return not_acceptable(&V2_PROTOBUF);
        };
        let body = || documents.answer(headers, media, (None, encoding));
        cacheable(headers, &tag_of(&documents.hash, encoding), body)
    }
}

/// The media type and encoding of an answer; JSON when the client does not say.
fn negotiated(headers: &HeaderMap, protobuf: &[&'static str; 2]) -> Option<(&'static str, Encoding)> {
    match negotiate::first_of(headers, &[negotiate::JSON, protobuf[0], protobuf[1]])? {
        0 => Some((negotiate::JSON, Encoding::Json)),
        _ => Some((protobuf[0], Encoding::Protobuf)),
    }
}

fn not_acceptable(protobuf: &[&'static str; 2]) -> Response {
    let served = [negotiate::JSON, protobuf[0], protobuf[1]];
    respond::failure(&Status::not_acceptable(&served), &negotiate::MediaType::JSON)
}

/// The ETag of a document in an encoding: equal tags promise equal bytes.
fn tag_of(hash: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Json => hash.to_owned(),
        Encoding::Protobuf => format!("{hash}-protobuf"),
    }
}

/// A document with its ETag, or 304 when the client has it.
fn cacheable(headers: &HeaderMap, tag: &str, body: impl FnOnce() -> Response) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{tag}\"")).expect("digits and words are a header value");
    let unchanged = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag);
    let mut response = if unchanged {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        body()
    };
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    response
}

impl Documents {
    fn new(of: Arc<Resources>, paths: &[String]) -> Self {
        let mut all = vec![(Document::Groups, String::new()), (Document::Release, String::new())];
        for path in paths.iter().filter(|path| nonresource::issuer(path).is_some()) {
            all.push((Document::Issuer { path: path.clone() }, String::new()));
        }
        for group in groups(&of) {
            all.push((Document::Group { group: group.name.to_owned() }, String::new()));
            for (version, resources) in &group.versions {
                let (group, version) = (group.name.to_owned(), (*version).to_owned());
                let made_of = resources
                    .iter()
                    .map(|(d, v)| format!("{}:{:?}:{}", d.plural, v.verbs, schema_mark(v)))
                    .collect::<Vec<_>>();
                all.push((Document::Version { group, version }, made_of.join(",")));
            }
        }
        all.sort_by_key(|(document, _)| document.path());
        let mut parts = HashMap::new();
        let mut index = Map::new();
        for (document, made_of) in all {
            let path = document.path();
            let hash = digest::hex(format!("{} {path} {made_of}", env!("CARGO_PKG_VERSION")).as_bytes());
            let url = format!("/openapi/v3/{path}?hash={hash}");
            index.insert(path.clone().into(), json!({ "serverRelativeURL": url }));
            parts.insert(path, (document, hash));
        }
        let index = Bytes::from(json!({ "paths": index }).to_string());
        Self { of, hash: digest::hex(&index), index, parts, made: Mutex::default() }
    }

    /// A document as the client takes it.
    fn answer(&self, headers: &HeaderMap, media: &'static str, key: Key) -> Response {
        let made = Arc::clone(self.made.lock().entry(key.clone()).or_default());
        let compressed = match made.get() {
            Some(made) => made,
            // this takes long for who makes it, and for who waits until it is made
            None => work::taking(work::LONG, || made.get_or_init(|| self.make(&key).into())),
        };
        if accepts_gzip(headers) {
            let mut response = respond::bytes(StatusCode::OK, media, compressed.clone());
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return response;
        }
        let mut plain = Vec::new();
        let mut unpacked = flate2::read::GzDecoder::new(&**compressed);
        work::taking(UNPACKING * compressed.len() as u32, || unpacked.read_to_end(&mut plain))
            .expect("what was compressed here can be read");
        respond::bytes(StatusCode::OK, media, plain)
    }

    fn make(&self, (document, encoding): &Key) -> Vec<u8> {
        let groups = groups(&self.of);
        match document {
            Some(document) => {
                let items = operations::paths(document, &groups);
                document::compressed(Dialect::V3, *encoding, &self.schema(document), &items)
            }
            None => {
                let parts = self.parts.values();
                let mut items: Vec<_> =
                    parts.flat_map(|(part, _)| operations::paths(part, &groups)).collect();
                items.sort_by(|a, b| a.path.cmp(&b.path));
                document::compressed(Dialect::V2, *encoding, &apis::schema(), &items)
            }
        }
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
}

/// What tells one schema of a resource from another: the built-in ones are the build's, others are looked at.
fn schema_mark(version: &ServedVersion) -> String {
    if Arc::ptr_eq(&version.schema, &apis::schema()) {
        return String::new();
    }
    let nodes: Vec<_> = version.schema.iter().collect();
    digest::hex(format!("{nodes:?}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("header"));
        headers
    }

    #[test]
    fn protobuf_is_sent_to_those_who_like_it_best() {
        let (json, protobuf) =
            (Some((negotiate::JSON, Encoding::Json)), Some((V2_PROTOBUF[0], Encoding::Protobuf)));
        for (accept, expected) in [
            (V2_PROTOBUF[0], protobuf),
            (V2_PROTOBUF[1], protobuf),
            ("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", json),
            ("application/json;q=0.1,application/com.github.proto-openapi.spec.v2@v1.0+protobuf", protobuf),
            ("*/*", json),
            ("application/*", json),
            ("", json),
            ("text/html", None),
            (V3_PROTOBUF[0], None),
        ] {
            assert_eq!(negotiated(&header(header::ACCEPT, accept), &V2_PROTOBUF), expected, "{accept}");
        }
        assert_eq!(negotiated(&HeaderMap::new(), &V2_PROTOBUF), json);
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let ask = |given: &str| {
            let body = || respond::bytes(StatusCode::OK, negotiate::JSON, "{}");
            cacheable(&header(header::IF_NONE_MATCH, given), "AB", body).status()
        };
        for (given, status) in [
            ("\"AB\"", 304),
            ("W/\"AB\"", 304),
            ("\"x\", \"AB\"", 304),
            ("*", 304),
            ("\"ABC\"", 200),
            ("AB", 200),
        ] {
            assert_eq!(ask(given).as_u16(), status, "{given}");
        }
    }

    #[test]
    fn each_document_is_made_once_and_for_either_client() {
        let registry = Registry::new(apis::resources(&apis::ServedVersions::default()));
        let api = OpenApi::new(Arc::new(registry), vec!["/openid/v1/jwks".into(), "/metrics".into()]);
        let documents = api.documents();
        assert!(documents.parts.contains_key("openid/v1/jwks") && !documents.parts.contains_key("metrics"));
        let key = (Some(Document::Release), Encoding::Json);
        let compressed =
            documents.answer(&header(header::ACCEPT_ENCODING, "gzip"), negotiate::JSON, key.clone());
        assert_eq!(compressed.headers()[header::CONTENT_ENCODING], "gzip");
        let plain = documents.answer(&HeaderMap::new(), negotiate::JSON, key);
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(documents.made.lock().len(), 1);
    }
}
