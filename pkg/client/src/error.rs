//! Reading what a failed call to the API server means.

use kube::core::Status;

/// The server's answer inside an error, if the failure was one.
pub fn status_of(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

fn code_and_reason(error: &kube::Error) -> (u16, &str) {
    status_of(error).map_or((0, ""), |status| (status.code, status.reason.as_str()))
}

/// The object (or its resource) does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    code_and_reason(error).0 == 404
}

/// A create met an object of that name.
pub fn is_already_exists(error: &kube::Error) -> bool {
    code_and_reason(error) == (409, "AlreadyExists")
}

/// A write was based on an older version of the object, or a precondition failed.
pub fn is_conflict(error: &kube::Error) -> bool {
    code_and_reason(error) == (409, "Conflict")
}

/// The resource version or continue token asked for is no longer held.
pub fn is_gone(error: &kube::Error) -> bool {
    let (code, reason) = code_and_reason(error);
    code == 410 || reason == "Expired" || reason == "Gone"
}

/// A create was refused because its namespace is being deleted (cause `NamespaceTerminating`).
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    status_of(error)
        .and_then(|status| status.details.as_ref())
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
}
