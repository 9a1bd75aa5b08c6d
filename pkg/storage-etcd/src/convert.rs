//! Between etcd's messages and the contract's.

use std::sync::Arc;

use bytes::Bytes;
use etcd::messages::{self, EventType};
use storage::{Error, Event, KeyValue, Revision, TOO_LARGE};

// gRPC codes by number (google.rpc.Code)
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const NOT_FOUND: u32 = 5;
const RESOURCE_EXHAUSTED: u32 = 8;
const OUT_OF_RANGE: u32 = 11;

/// What a failure means. `asked` is the revision of the request, `current` the last one known.
pub(crate) fn error(error: &etcd::Error, asked: Revision, current: Revision) -> Error {
    match error {
        etcd::Error::Status { code, message } => status_error(*code, message, asked, current),
        etcd::Error::Invalid(text) => Error::Invalid(text.clone()),
        other => Error::Unavailable(other.to_string()),
    }
}

/// Etcd has not answered within the time of a request.
pub(crate) fn too_late() -> Error {
    Error::Timeout("etcd does not answer in time".into())
}

fn status_error(code: u32, message: &str, asked: Revision, current: Revision) -> Error {
    let text = || message.to_owned();
    match code {
        OUT_OF_RANGE if message.contains("compacted") => Error::Compacted { compacted: asked },
        OUT_OF_RANGE if message.contains("future revision") => Error::Future { requested: asked, current },
        // what does not even fit a message of etcd's, which is larger than the largest request
        RESOURCE_EXHAUSTED if message.contains("larger than max") => Error::TooLarge(TOO_LARGE.into()),
        RESOURCE_EXHAUSTED if message.contains("space exceeded") => Error::NoSpace(text()),
        INVALID_ARGUMENT if message.contains("too large") || message.contains("too many operations") => {
            Error::TooLarge(text())
        }
        INVALID_ARGUMENT => Error::Invalid(text()),
        NOT_FOUND if message.contains("lease") => Error::LeaseNotFound,
        DEADLINE_EXCEEDED => too_late(),
        _ => Error::Unavailable(text()),
    }
}

/// A key's text; keys of Kubernetes are ASCII.
fn key_text(key: &[u8]) -> Result<Arc<str>, Error> {
    std::str::from_utf8(key)
        .map(Arc::from)
        .map_err(|_| Error::Corrupt(format!("a key is not text: {:?}", String::from_utf8_lossy(key))))
}

/// A key with its value, of which the caller says whether it may stay a part of the message.
fn key_value(kv: messages::KeyValue, value: impl FnOnce(Bytes) -> Bytes) -> Result<KeyValue, Error> {
    Ok(KeyValue {
        key: key_text(&kv.key)?,
        value: value(kv.value),
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
    })
}

/// What a range has. One of many values would keep the memory of all: each gets its own.
pub(crate) fn key_values(kvs: Vec<messages::KeyValue>) -> impl Iterator<Item = Result<KeyValue, Error>> {
    let many = kvs.len() > 1;
    kvs.into_iter().map(move |kv| key_value(kv, |value| own(value, many)))
}

/// A change, of a message with many or with just this one.
pub(crate) fn event(event: messages::Event, many: bool) -> Result<Event, Error> {
    let deleted = event.r#type() == EventType::Delete;
    let kv = event.kv.ok_or_else(|| Error::Corrupt("etcd sent an event without a key".into()))?;
    let mut kv = key_value(kv, |value| own(value, many))?;
    let prev = event.prev_kv.map(|prev| key_value(prev, |value| own(value, true))).transpose()?;
    let prev = prev.map(|prev| KeyValue { key: Arc::clone(&kv.key), ..prev });
    if deleted {
        kv.create_revision = Revision(0);
        kv.value = Bytes::new();
    }
    Ok(Event { kv, prev, deleted })
}

fn own(value: Bytes, shared: bool) -> Bytes {
    if shared { Bytes::copy_from_slice(&value) } else { value }
}

/// Whether a version of etcd answers requests for progress rightly: only after everything before has been sent
/// (etcd issue 15220, fixed in 3.4.25 and 3.5.8; upstream asks for 3.4.31 and 3.5.13).
pub(crate) fn progress_is_reliable(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        (major, minor, _) => (major, minor) > (3, 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart() {
        let (asked, current) = (Revision(5), Revision(9));
        let cases = [
            (11, "etcdserver: mvcc: required revision has been compacted", "Compacted"),
            (11, "etcdserver: mvcc: required revision is a future revision", "Future"),
            (8, "grpc: received message larger than max (4194497 vs. 2097152)", "TooLarge"),
            (8, "etcdserver: mvcc: database space exceeded", "NoSpace"),
            (8, "etcdserver: too many requests", "Unavailable"),
            (3, "etcdserver: request is too large", "TooLarge"),
            (3, "etcdserver: too many operations in txn request", "TooLarge"),
            (3, "etcdserver: duplicate key given in txn request", "Invalid"),
            (5, "etcdserver: requested lease not found", "LeaseNotFound"),
            (14, "etcdserver: no leader", "Unavailable"),
            (4, "Timeout expired", "Timeout"),
        ];
        for (code, message, expected) in cases {
            let error = format!("{:?}", status_error(code, message, asked, current));
            assert!(error.starts_with(expected), "{message}: {error}");
        }
    }

    #[test]
    fn progress_of_old_versions_is_not_trusted() {
        let cases = [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("3.3.99", false),
            ("", false),
        ];
        for (version, expected) in cases {
            assert_eq!(progress_is_reliable(version), expected, "{version}");
        }
    }
}
