//! Content negotiation: in which format a client wants its answer.
//!
//! Source: RFC 9110 12.5.1, API concepts ("Resource representations", "Receiving resources as Tables",
//! "Metadata-only fetches"), `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`.

use apimachinery::status::Status;
use http::{HeaderMap, header};

use crate::query::Query;

/// `application/json`
pub(crate) const JSON: &str = "application/json";
/// `application/yaml`
pub(crate) const YAML: &str = "application/yaml";
/// `application/vnd.kubernetes.protobuf`
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Media types of objects, in the order upstream's errors name them.
pub(crate) const OBJECT_TYPES: [&str; 3] = [JSON, YAML, PROTOBUF];
/// Media types of watches.
pub(crate) const STREAM_TYPES: [&str; 2] = [JSON, PROTOBUF];

/// Most clauses of an `Accept` header that are looked at.
const MAX_CLAUSES: usize = 64;

/// Encoding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf envelope.
    Protobuf,
}

impl Format {
    /// The media type.
    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }

    /// The format of a media type without parameters.
    pub(crate) fn from_media_type(text: &str) -> Option<Self> {
        match text {
            JSON => Some(Self::Json),
            YAML | "application/x-yaml" | "text/yaml" => Some(Self::Yaml),
            PROTOBUF => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// What is shown of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum View {
    /// Objects as they are.
    Object,
    /// A `meta.k8s.io` Table in this version.
    Table(&'static str),
    /// `PartialObjectMetadata`.
    Partial(&'static str),
    /// `PartialObjectMetadataList`.
    PartialList(&'static str),
}

/// How to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MediaType {
    /// Encoding.
    pub(crate) format: Format,
    /// What is shown.
    pub(crate) view: View,
    /// Indented JSON.
    pub(crate) pretty: bool,
}

impl MediaType {
    /// Plain JSON.
    pub(crate) const JSON: Self = Self { format: Format::Json, view: View::Object, pretty: false };
}

struct Clause<'a> {
    media: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = accept
        .split(',')
        .take(MAX_CLAUSES)
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?;
            let mut quality = 1.0;
            let mut parameters = Vec::new();
            for (key, value) in parts.filter_map(|p| p.split_once('=')) {
                let value = value.trim().trim_matches('"');
                if key.trim() == "q" {
                    quality = value.parse().unwrap_or(1.0);
                } else {
                    parameters.push((key.trim(), value));
                }
            }
            Some(Clause { media, quality, parameters })
        })
        .collect();
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

/// `meta.k8s.io` versions that Tables and partial objects exist in.
fn meta_version(version: &str) -> Option<&'static str> {
    match version {
        "" | "v1" => Some("v1"),
        "v1beta1" => Some("v1beta1"),
        _ => None,
    }
}

fn view(parameters: &[(&str, &str)]) -> Option<View> {
    let get = |key: &str| parameters.iter().find(|(k, _)| *k == key).map_or("", |(_, v)| *v);
    match get("as") {
        "" => Some(View::Object),
        _ if get("g") != "meta.k8s.io" => None,
        "Table" => meta_version(get("v")).map(View::Table),
        "PartialObjectMetadata" => meta_version(get("v")).map(View::Partial),
        "PartialObjectMetadataList" => meta_version(get("v")).map(View::PartialList),
        _ => None,
    }
}

/// The `Accept` headers in one text.
fn accepted(headers: &HeaderMap) -> String {
    let mut joined = String::new();
    for value in headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()) {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value);
    }
    joined
}

/// Which of some media types below `application/` the client likes best, the first when it does not say; `None` when it
/// takes none of them.
pub(crate) fn first_of(headers: &HeaderMap, served: &[&str]) -> Option<usize> {
    let accepted = accepted(headers);
    if accepted.trim().is_empty() {
        return Some(0);
    }
    clauses(&accepted).iter().find_map(|clause| match clause.media {
        "*/*" | "application/*" => Some(0),
        media => served.iter().position(|served| *served == media),
    })
}

fn negotiate(headers: &HeaderMap, pretty: bool, served: &[&str], views: bool) -> Result<MediaType, Status> {
    let joined = accepted(headers);
    if joined.trim().is_empty() {
        return Ok(MediaType { pretty, ..MediaType::JSON });
    }
    for clause in clauses(&joined) {
        let format = match clause.media {
            "*/*" | "application/*" => Some(Format::Json),
            media => served.contains(&media).then(|| Format::from_media_type(media)).flatten(),
        };
        let Some(format) = format else { continue };
        let Some(view) = view(&clause.parameters) else { continue };
        if view != View::Object && !views {
            continue;
        }
        // Tables have no protobuf form
        if format == Format::Protobuf && matches!(view, View::Table(_)) {
            continue;
        }
        return Ok(MediaType { format, view, pretty: pretty && format == Format::Json });
    }
    Err(Status::not_acceptable(served))
}

/// Browsers and command line clients get indented JSON unless they say otherwise.
fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    query.flag_opt("pretty").unwrap_or_else(|| {
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
    })
}

/// The media type of an answer that is one object without other views (discovery, subresources, statuses).
pub(crate) fn single(headers: &HeaderMap, query: &Query) -> Result<MediaType, Status> {
    negotiate(headers, wants_pretty(headers, query), &OBJECT_TYPES, false)
}

/// The media type of a resource's object or list.
pub(crate) fn resource(headers: &HeaderMap, query: &Query) -> Result<MediaType, Status> {
    negotiate(headers, wants_pretty(headers, query), &OBJECT_TYPES, true)
}

/// The media type of a watch.
pub(crate) fn stream(headers: &HeaderMap) -> Result<MediaType, Status> {
    negotiate(headers, false, &STREAM_TYPES, true)
}

/// The format of a request body; JSON when the client does not say.
pub(crate) fn body_format(headers: &HeaderMap) -> Result<Format, Status> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Format::Json) };
    let text = value.to_str().unwrap_or("?");
    let media = text.split(';').next().unwrap_or("").trim();
    if media.is_empty() {
        return Ok(Format::Json);
    }
    Format::from_media_type(&media.to_ascii_lowercase())
        .ok_or_else(|| Status::unsupported_media_type(&OBJECT_TYPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str) -> Result<(Format, View), u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("header"));
        resource(&headers, &Query::default()).map(|m| (m.format, m.view)).map_err(|e| e.code)
    }

    #[test]
    fn formats_and_views() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            ("*/*", Ok((Format::Json, View::Object))),
            ("application/json", Ok((Format::Json, View::Object))),
            ("application/yaml", Ok((Format::Yaml, View::Object))),
            ("application/vnd.kubernetes.protobuf, */*", Ok((Format::Protobuf, View::Object))),
            (table, Ok((Format::Json, View::Table("v1")))),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
                Ok((Format::Json, View::Object)),
            ),
            ("application/json;as=Table;v=v1;g=x", Err(406)),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Ok((Format::Protobuf, View::PartialList("v1"))),
            ),
            ("application/yaml;q=0.5, application/json;q=0.9", Ok((Format::Json, View::Object))),
            ("text/html", Err(406)),
            ("application/cbor", Err(406)),
        ];
        for (accept, expected) in cases {
            assert_eq!(ask(accept), expected, "{accept}");
        }
    }

    #[test]
    fn watches_are_not_yaml() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "application/yaml".parse().expect("header"));
        assert_eq!(stream(&headers).map_err(|e| e.code), Err(406));
    }

    #[test]
    fn curl_gets_pretty_json() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "curl/8.0".parse().expect("header"));
        assert!(single(&headers, &Query::default()).expect("json").pretty);
        assert!(!single(&headers, &Query::parse("pretty=false")).expect("json").pretty);
    }
}
