//! Making responses: objects and failures in the negotiated format.

use apimachinery::Value;
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::Status;
use bytes::Bytes;
use component::http::{Body, full};
use http::{HeaderValue, Response, StatusCode, header};

use crate::codec;
use crate::negotiate::{Format, MediaType};

/// A response of these bytes.
pub(crate) fn bytes(code: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = body.into();
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// JSON text of a tree, ended by a newline as Go's encoder does.
pub(crate) fn json_text(value: &Value, pretty: bool) -> Vec<u8> {
    let mut out = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) }
        .expect("a tree has text keys only, which is all that can fail");
    out.push(b'\n');
    out
}

/// An object in the negotiated format. The schema is needed for protobuf only; a kind without one is answered as JSON.
pub(crate) fn object(
    code: StatusCode,
    object: &Value,
    schema: Option<(&Schema, NodeId)>,
    media: &MediaType,
) -> Response<Body> {
    match media.format {
        Format::Json => bytes(code, Format::Json.media_type(), json_text(object, media.pretty)),
        Format::Yaml => bytes(code, Format::Yaml.media_type(), codec::to_yaml(object)),
        Format::Protobuf => match codec::to_protobuf(object, schema) {
            Some(encoded) => bytes(code, Format::Protobuf.media_type(), encoded),
            None => bytes(code, Format::Json.media_type(), json_text(object, false)),
        },
    }
}

/// A failure as upstream's clients expect it, in the format they accept (JSON when none of theirs is served).
pub(crate) fn failure(status: &Status, media: &MediaType) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = status.to_value();
    let mut response = object(code, &value, None, media);
    if let Some(details) = &status.details
        && details.retry_after_seconds > 0
    {
        response.headers_mut().insert(header::RETRY_AFTER, details.retry_after_seconds.into());
    }
    response
}
