//! Names of resources this crate reads and writes, and answers that every handler gives alike.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::GroupVersionResource;
use apimachinery::status::Status;
use apiserver::RequestContext;
use auth::UserInfo;
use component::http::{Body, full};
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;

/// A resource of the core group.
pub(crate) fn core(resource: &str) -> GroupVersionResource {
    GroupVersionResource::new("", "v1", resource)
}

/// A resource of a group's v1.
pub(crate) fn v1(group: &str, resource: &str) -> GroupVersionResource {
    GroupVersionResource::new(group, "v1", resource)
}

/// The context of the server's own reads and writes.
pub(crate) fn internal() -> RequestContext {
    RequestContext::internal(Arc::new(UserInfo::apiserver()), Timestamp::now())
}

/// Whether a failure says the object is not there.
pub(crate) fn is_not_found(status: &Status) -> bool {
    status.code == 404
}

/// Whether a failure says somebody else was there first.
pub(crate) fn is_conflict(status: &Status) -> bool {
    status.code == 409
}

/// A JSON answer; for kinds that have no protobuf form of their own here (`Status`).
pub(crate) fn json(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(format!("{value}\n")));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The `Status` of a creation that has nothing else to say.
pub(crate) fn created() -> Response<Body> {
    json(StatusCode::CREATED, &apimachinery::status::success(None))
}
