//! Bodies in: bounded, decoded in the format the client says. And the encodings that are not plain JSON out.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::descriptor::{ResourceDescriptor, Subresource};
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::Status;
use bytes::Bytes;
use component::http::Body;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::context::RequestContext;
use crate::negotiate::MediaType;
use crate::respond;

/// Largest request body, upstream's `MaxRequestBodyBytes`.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Reads a whole body; 413 past [`MAX_BODY_BYTES`].
pub async fn read(body: Body) -> Result<Bytes, Status> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Status::request_too_large(format!("Request entity too large: limit is {MAX_BODY_BYTES}")))
        }
        Err(error) => Err(Status::bad_request(format!("unable to read the request body: {error}"))),
    }
}

/// Reads and decodes a body of the kind a subresource (or a virtual resource) declares.
pub async fn decode_declared(
    _context: &RequestContext,
    _descriptor: &Arc<ResourceDescriptor>,
    _subresource: Option<&Subresource>,
    _headers: &HeaderMap,
    body: Body,
) -> Result<Value, Status> {
    let bytes = read(body).await?;
    serde_json::from_slice(&bytes).map_err(|e| Status::bad_request(e.to_string()))
}

/// YAML text of a tree.
pub fn to_yaml(value: &Value) -> Result<Vec<u8>, Status> {
    Ok(respond::json_text(value, true))
}

/// The protobuf envelope of a tree, `None` where the kind has no protobuf form.
pub fn to_protobuf(_value: &Value, _schema: &Schema, _root: NodeId) -> Option<Vec<u8>> {
    None
}

/// A `Status` in the negotiated format.
pub fn status_object(code: StatusCode, value: &Value, media: &MediaType) -> Response<Body> {
    respond::object(code, value, None, media)
        .unwrap_or_else(|_| respond::bytes(code, crate::negotiate::JSON, respond::json_text(value, false)))
}
