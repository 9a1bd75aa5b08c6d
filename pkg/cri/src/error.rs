//! What can go wrong when the runtime is asked for something.

use tonic::{Code, Status};

/// Why a call to the container runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is not one that can be spoken to: only unix sockets are.
    #[error("container runtime endpoint {endpoint:?} is not supported: {why}")]
    Endpoint {
        /// The endpoint as configured.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The runtime cannot be reached: the socket is missing, refused, or the connection broke.
    #[error("rpc error: code = Unavailable desc = {message}")]
    Unavailable {
        /// The method that was called.
        method: &'static str,
        /// The transport's text.
        message: String,
    },
    /// The object asked about does not exist.
    #[error("rpc error: code = NotFound desc = {message}")]
    NotFound {
        /// The method that was called.
        method: &'static str,
        /// The runtime's text.
        message: String,
    },
    /// The call took longer than its time limit.
    #[error("rpc error: code = DeadlineExceeded desc = {message}")]
    Timeout {
        /// The method that was called.
        method: &'static str,
        /// The runtime's text or our own.
        message: String,
    },
    /// The runtime is too old or too new for this method.
    #[error("rpc error: code = Unimplemented desc = {message}")]
    Unimplemented {
        /// The method that was called.
        method: &'static str,
        /// The runtime's text.
        message: String,
    },
    /// Any other failure the runtime reports.
    #[error("rpc error: code = {code} desc = {message}")]
    Call {
        /// The method that was called.
        method: &'static str,
        /// The status code's name as gRPC for Go prints it.
        code: &'static str,
        /// The runtime's text.
        message: String,
    },
    /// The runtime answered without a field that the interface requires.
    #[error("runtime answered {method} without {field}")]
    Incomplete {
        /// The method that was called.
        method: &'static str,
        /// The missing field.
        field: &'static str,
    },
}

impl Error {
    pub(crate) fn from_status(method: &'static str, status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unavailable => Self::Unavailable { method, message },
            Code::NotFound => Self::NotFound { method, message },
            Code::DeadlineExceeded | Code::Cancelled => Self::Timeout { method, message },
            Code::Unimplemented => Self::Unimplemented { method, message },
            code => Self::Call { method, code: code_name(code), message },
        }
    }

    /// Whether the object asked about does not exist (which a removal counts as success).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the runtime could not be reached at all.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The runtime's own text, without the code in front.
    pub fn message(&self) -> String {
        match self {
            Self::Unavailable { message, .. }
            | Self::NotFound { message, .. }
            | Self::Timeout { message, .. }
            | Self::Unimplemented { message, .. }
            | Self::Call { message, .. } => message.clone(),
            Self::Endpoint { .. } | Self::Incomplete { .. } => self.to_string(),
        }
    }
}

/// Names of gRPC codes as Go prints them.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_go_prints() {
        let cases = [
            (Status::not_found("no such image"), "rpc error: code = NotFound desc = no such image", true),
            (Status::unknown("boom"), "rpc error: code = Unknown desc = boom", false),
            (Status::invalid_argument("x"), "rpc error: code = InvalidArgument desc = x", false),
            (Status::cancelled("late"), "rpc error: code = DeadlineExceeded desc = late", false),
        ];
        for (status, text, not_found) in cases {
            let error = Error::from_status("M", &status);
            assert_eq!(error.to_string(), text);
            assert_eq!(error.is_not_found(), not_found);
        }
    }
}
