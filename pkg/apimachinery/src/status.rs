//! `meta/v1` Status: the one form in which a failure reaches a client.
//!
//! Source: API conventions, "Response Status Kind"; reasons and messages are those clients match on
//! (`k8s.io/apimachinery/pkg/api/errors`, `pkg/util/validation/field`).

use std::collections::HashSet;
use std::fmt;

use crate::json;

use crate::json::go_quote;
use crate::meta::GroupResource;
use crate::{Map, Value};

/// Machine-readable reason of a failed request. Prints as upstream's `metav1.StatusReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the documentation: each is a metav1.StatusReason")]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The text in `Status.reason`; [`Reason::Unknown`] is the empty string.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// Kind of a field error. The text form is what `kubectl` prints; the cause type is `StatusCause.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is a field.ErrorType of upstream")]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    InternalError,
    TypeInvalid,
}

impl FieldErrorKind {
    /// `StatusCause.reason`.
    pub const fn cause_type(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::InternalError => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::InternalError => "Internal error",
        }
    }
}

/// One problem with one field, as upstream's `field.Error`.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Path in upstream's notation: `spec.containers[0].ports[1].name`, `metadata.labels[a/b]`.
    pub field: String,
    /// The offending value; [`Value::Null`] where the text shows none (Required, Forbidden, TooLong, InternalError).
    pub value: Value,
    /// Free text after the value, may be empty.
    pub detail: String,
}

impl FieldError {
    /// An error of any kind.
    pub fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        value: Value,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, field: field.into(), value, detail: detail.into() }
    }

    /// `field: Required value[: detail]`.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, Value::Null, detail)
    }

    /// `field: Invalid value: VALUE: detail`.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, field, value.into(), detail)
    }

    /// `field: Forbidden: detail`.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, Value::Null, detail)
    }

    /// `field: Duplicate value: VALUE`.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, value.into(), "")
    }

    /// `field: Not found: VALUE`.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, value.into(), "")
    }

    /// `field: Unsupported value: VALUE: supported values: "A", "B"`, the supported values in the order given.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|v| go_quote(v)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(FieldErrorKind::NotSupported, field, value.into(), detail)
    }

    /// `field: Too long: may not be more than MAX bytes`.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        let bytes = if max == 1 { "byte" } else { "bytes" };
        Self::new(FieldErrorKind::TooLong, field, Value::Null, format!("may not be more than {max} {bytes}"))
    }

    /// `field: Too many: ACTUAL: must have at most MAX items`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(
            FieldErrorKind::TooMany,
            field,
            Value::from(actual),
            format!("must have at most {max} {items}"),
        )
    }

    /// The message without the field path: `StatusCause.message`.
    pub fn body(&self) -> String {
        let mut text = String::from(self.kind.text());
        let shows_value = !matches!(
            self.kind,
            FieldErrorKind::Required
                | FieldErrorKind::Forbidden
                | FieldErrorKind::TooLong
                | FieldErrorKind::InternalError
        );
        if shows_value {
            text.push_str(": ");
            match &self.value {
                Value::String(s) => text.push_str(&go_quote(s)),
                Value::Null => text.push_str("null"),
                other => text.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// One entry of `Status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `reason`, such as `FieldValueInvalid` or `FieldManagerConflict`.
    pub reason: String,
    /// Human-readable text.
    pub message: String,
    /// Field path, may be empty.
    pub field: String,
}

/// `Status.details`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object the failure is about.
    pub name: String,
    /// Group of the resource.
    pub group: String,
    /// The resource (or kind) the failure is about.
    pub kind: String,
    /// UID of the object.
    pub uid: String,
    /// Single problems.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry may succeed; also sent as `Retry-After`.
    pub retry_after_seconds: u32,
}

/// A failed request as a value: implements [`std::error::Error`], turns into the wire form by [`Status::to_value`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: Reason,
    /// Human-readable text; clients match on some of these.
    pub message: String,
    /// Details; boxed, as most code passes `Result<_, Status>` around.
    pub details: Option<Box<Details>>,
    /// A continue token to go on with, only in 410 answers to an expired `continue`.
    pub continue_token: Option<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with code, reason and message, without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        let details = self.details.get_or_insert_with(Box::default);
        details.group.clone_from(&resource.group);
        details.kind.clone_from(&resource.resource);
        name.clone_into(&mut details.name);
        self
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// 401 `Unauthorized`.
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 403 with upstream's `RESOURCE "NAME" is forbidden: WHY`.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Self::new(403, Reason::Forbidden, message).about(resource, name)
    }

    /// 404 `RESOURCE "NAME" not found`.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{resource} {name:?} not found")).about(resource, name)
    }

    /// 404 for a path that nothing serves.
    pub fn path_not_found() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource").with_details(
            Details {
                causes: vec![Cause {
                    reason: "UnexpectedServerResponse".into(),
                    message: "404 page not found".into(),
                    field: String::new(),
                }],
                ..Details::default()
            },
        )
    }

    /// 405 for a verb the resource does not have.
    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            format!("{action} is not supported on resources of kind {:?}", resource.to_string()),
        )
        .about(resource, "")
    }

    /// 406 with the media types that are served.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(
            406,
            Reason::NotAcceptable,
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }

    /// 409 `RESOURCE "NAME" already exists`.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{resource} {name:?} already exists"))
            .about(resource, name)
    }

    /// 409 `Operation cannot be fulfilled on RESOURCE "NAME": WHY`.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        Self::new(
            409,
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"),
        )
        .about(resource, name)
    }

    /// 409 of a write whose resourceVersion is no longer the object's.
    pub fn stale_write(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410 `Expired`: the revision asked for is compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// 413.
    pub fn request_too_large(message: impl Into<String>) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, message)
    }

    /// 415 with the media types that are read.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// 422 `KIND.GROUP "NAME" is invalid: ...` with one cause an error. `kind` is the Kind, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let qualified = GroupResource::new(group, kind);
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.kind.cause_type().into(), message: e.body(), field: e.field.clone() })
            .collect();
        let message = match errors {
            [] => format!("{qualified} {name:?} is invalid"),
            [one] => format!("{qualified} {name:?} is invalid: {one}"),
            many => {
                // upstream prints each distinct message once; there may be as many as a body has items
                let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
                let mut seen = HashSet::new();
                let texts: Vec<&str> =
                    texts.iter().map(String::as_str).filter(|text| seen.insert(*text)).collect();
                if texts.len() == 1 {
                    format!("{qualified} {name:?} is invalid: {}", texts[0])
                } else {
                    format!("{qualified} {name:?} is invalid: [{}]", texts.join(", "))
                }
            }
        };
        Self::new(422, Reason::Invalid, message).with_details(Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes,
            ..Details::default()
        })
    }

    /// 429; `retry_after_seconds` is sent as `Retry-After`.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message)
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }

    /// 500 `Internal error occurred: WHY`.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {why}")).with_details(
            Details {
                causes: vec![Cause { reason: String::new(), message: why.to_string(), field: String::new() }],
                ..Details::default()
            },
        )
    }

    /// 503: the server or something it needs is not there at the moment.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// 504: the request ran out of time.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}"))
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }

    /// 500 `ServerTimeout`: the operation could not be completed in time and may be retried.
    pub fn server_timeout(resource: &GroupResource, operation: &str, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(
            500,
            Reason::ServerTimeout,
            format!("The {operation} operation against {resource} could not be completed at this time, please try again."),
        )
        .about(resource, operation);
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = retry_after_seconds;
        }
        status
    }

    /// Replaces the details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// The wire form: `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",...}`.
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), json!(token));
        }
        let mut out = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata,
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if self.reason != Reason::Unknown {
            out["reason"] = json!(self.reason.as_str());
        }
        if let Some(details) = &self.details {
            out["details"] = details.to_value();
        }
        out
    }
}

impl Details {
    /// The wire form, empty fields left out.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                out.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let mut entry = Map::new();
                for (key, text) in
                    [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)]
                {
                    if !text.is_empty() {
                        entry.insert(key.into(), json!(text));
                    }
                }
                Value::Object(entry)
            });
            out.insert("causes".into(), causes.collect());
        }
        if self.retry_after_seconds > 0 {
            out.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        Value::Object(out)
    }
}

/// The `Status` of a success, as deletes and some subresources answer.
pub fn success(details: Option<&Details>) -> Value {
    let mut out = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        out["details"] = details.to_value();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let pods = GroupResource::new("", "pods");
        let deployments = GroupResource::new("apps", "deployments");
        let cases = [
            (Status::not_found(&pods, "a"), r#"pods "a" not found"#),
            (Status::already_exists(&deployments, "a"), r#"deployments.apps "a" already exists"#),
            (
                Status::forbidden(&pods, "", "User \"x\" cannot list resource \"pods\""),
                "pods is forbidden: User \"x\" cannot list resource \"pods\"",
            ),
            (
                Status::invalid("apps", "Deployment", "d", &[FieldError::required("spec.selector", "")]),
                r#"Deployment.apps "d" is invalid: spec.selector: Required value"#,
            ),
            (
                Status::invalid(
                    "",
                    "Pod",
                    "p",
                    &[
                        FieldError::invalid("metadata.name", "P", "must be lower case"),
                        FieldError::not_supported("spec.restartPolicy", "x", &["Always", "Never"]),
                    ],
                ),
                "Pod \"p\" is invalid: [metadata.name: Invalid value: \"P\": must be lower case, \
                 spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"Never\"]",
            ),
        ];
        for (status, message) in cases {
            assert_eq!(status.message, message);
        }
    }

    #[test]
    fn wire_form_leaves_out_what_is_empty() {
        let value = Status::not_found(&GroupResource::new("", "pods"), "a").to_value();
        assert_eq!(
            value,
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"a\" not found",
                   "reason":"NotFound","details":{"name":"a","kind":"pods"},"code":404})
        );
    }
}
