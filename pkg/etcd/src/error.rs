//! What can go wrong.

/// A request has failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Etcd has answered with an error, by gRPC's number (`google.rpc.Code`) and with etcd's text.
    #[error("{message}")]
    Status {
        /// gRPC's number.
        code: u32,
        /// Etcd's text.
        message: String,
    },
    /// No member can be reached, or the connection broke: a write may have happened.
    #[error("{0}")]
    Unavailable(String),
    /// An answer is not what etcd sends.
    #[error("not an answer of etcd: {0}")]
    Malformed(String),
    /// An address or a setting cannot be used.
    #[error("{0}")]
    Invalid(String),
}

impl From<h2::Error> for Error {
    fn from(error: h2::Error) -> Self {
        Self::Unavailable(format!("the connection to etcd: {error}"))
    }
}
