//! Why a read or watch failed, and the Status a client gets.

use apimachinery::status::{Cause, Details, Reason, Status};
use storage::Revision;

/// Why a read or watch of the cache failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The client asked for a revision that the store has not reached (within the time allowed to wait for it).
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLargeResourceVersion {
        /// What was asked for.
        requested: Revision,
        /// What the cache has.
        current: Revision,
    },
    /// The revision asked for is no longer held, or a watcher was too slow.
    #[error("{0}")]
    Expired(String),
    /// The `continue` token is too old for a consistent list; the token in here continues inconsistently.
    #[error("{message}")]
    ContinueExpired {
        /// Text for the client.
        message: String,
        /// For `metadata.continue` of the Status.
        inconsistent_continue: String,
    },
    /// The `continue` token cannot be understood.
    #[error("invalid continue token: {0}")]
    InvalidContinue(String),
    /// The cache has not read the store yet, or has been stopped.
    #[error("storage is (re)initializing")]
    NotReady,
    /// A stored value cannot be decoded.
    #[error("unable to decode {key}: {message}")]
    Undecodable {
        /// Its key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// Seconds a client is told to wait before it asks again.
const RETRY_AFTER_SECONDS: u32 = 1;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::TooLargeResourceVersion { .. } => Status::timeout(message, RETRY_AFTER_SECONDS)
                .with_details(Details {
                    causes: vec![Cause {
                        reason: "ResourceVersionTooLarge".into(),
                        message: "Too large resource version".into(),
                        field: String::new(),
                    }],
                    retry_after_seconds: RETRY_AFTER_SECONDS,
                    ..Details::default()
                }),
            Error::Expired(_) => Status::expired(message),
            Error::ContinueExpired { inconsistent_continue, .. } => {
                let mut status = Status::expired(message);
                status.continue_token = Some(inconsistent_continue);
                status
            }
            Error::InvalidContinue(_) => Status::bad_request(message),
            Error::NotReady => Status::too_many_requests(message, RETRY_AFTER_SECONDS),
            Error::Undecodable { .. } => Status::internal(message),
            Error::Storage(error) => storage_status(&error),
        }
    }
}

/// What a failure of the store is to a client. What upstream passes on from etcd as it is (500 without a reason) is passed
/// on: clients know the texts.
fn storage_status(error: &storage::Error) -> Status {
    match error {
        storage::Error::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        storage::Error::TooLarge(text) | storage::Error::NoSpace(text) => {
            Status::new(500, Reason::Unknown, text.as_str())
        }
        storage::Error::Timeout(why) => {
            Status::timeout(format!("request did not complete within requested timeout - {why}"), 0)
        }
        storage::Error::Unavailable(_) | storage::Error::Closed => {
            Status::service_unavailable(error.to_string())
        }
        _ => Status::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_store_are_what_upstreams_clients_know() {
        let cases = [
            (
                storage::Error::TooLarge(storage::TOO_LARGE.into()),
                500,
                "",
                "etcdserver: request is too large",
            ),
            (
                storage::Error::NoSpace(format!("{}: why", storage::NO_SPACE)),
                500,
                "",
                "etcdserver: mvcc: database space exceeded: why",
            ),
            (
                storage::Error::Timeout("late".into()),
                504,
                "Timeout",
                "Timeout: request did not complete within requested timeout - late",
            ),
            (
                storage::Error::Unavailable("gone".into()),
                503,
                "ServiceUnavailable",
                "storage is unavailable: gone",
            ),
            (
                storage::Error::Compacted { compacted: Revision(5) },
                410,
                "Expired",
                "The resourceVersion for the provided list is too old.",
            ),
        ];
        for (error, code, reason, message) in cases {
            let status = Status::from(Error::Storage(error));
            assert_eq!(
                (status.code, status.reason.as_str(), status.message.as_str()),
                (code, reason, message)
            );
        }
    }
}
