//! Creations and deletions a controller has asked for and its informer has not shown yet.
//!
//! Without them a controller that looks at its cache right after a write would write again. Upstream's
//! `UIDTrackingControllerExpectations`: expectations that do not come true are dropped after five minutes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::context::Key;

/// After this the controller trusts its cache again.
const EXPIRES: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Expected {
    creations: i64,
    /// Uids of objects being deleted: the same deletion may be seen twice (marked, then gone).
    deletions: HashSet<String>,
    since: Instant,
}

/// Expectations of one controller, by the key of the owner.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    owners: Mutex<HashMap<Key, Expected>>,
}

impl Expectations {
    /// Whether the owner's cache can be trusted: everything expected was seen, or never will be.
    pub(crate) fn satisfied(&self, owner: &Key) -> bool {
        self.owners.lock().get(owner).is_none_or(|expected| {
            (expected.creations <= 0 && expected.deletions.is_empty()) || expected.since.elapsed() > EXPIRES
        })
    }

    /// Sets what to expect next, replacing what was expected before.
    pub(crate) fn expect(&self, owner: &Key, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let expected = Expected {
            creations: i64::try_from(creations).unwrap_or(i64::MAX),
            deletions: deletions.into_iter().collect(),
            since: Instant::now(),
        };
        self.owners.lock().insert(owner.clone(), expected);
    }

    /// A creation was seen, or failed.
    pub(crate) fn created(&self, owner: &Key) {
        if let Some(expected) = self.owners.lock().get_mut(owner) {
            expected.creations -= 1;
        }
    }

    /// A deletion was seen, or failed.
    pub(crate) fn deleted(&self, owner: &Key, uid: &str) {
        if let Some(expected) = self.owners.lock().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &Key) {
        self.owners.lock().remove(owner);
    }
}

/// The resource versions this process wrote last. A run on an older version would undo, or do again, what the write
/// did; the informer brings the newer one in a moment and wakes the key then.
#[derive(Debug, Default)]
pub(crate) struct Written {
    versions: Mutex<HashMap<Key, u64>>,
}

impl Written {
    /// Notes the object a write answered.
    pub(crate) fn note(&self, key: &Key, answer: &serde_json::Value) {
        let version = answer.pointer("/metadata/resourceVersion").and_then(serde_json::Value::as_str);
        if let Some(version) = version.and_then(|text| text.parse().ok()) {
            self.versions.lock().insert(key.clone(), version);
        }
    }

    /// Whether the cached object is older than the last write. Versions that are no numbers are taken for fresh.
    pub(crate) fn is_stale(&self, key: &Key, cached: Option<&str>) -> bool {
        let Some(cached) = cached.and_then(|text| text.parse::<u64>().ok()) else { return false };
        self.versions.lock().get(key).is_some_and(|written| cached < *written)
    }

    /// The object is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.versions.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_older_than_the_last_write_is_stale() {
        let (written, key) = (Written::default(), Key::new("ns", "a"));
        assert!(!written.is_stale(&key, Some("5")));
        written.note(&key, &serde_json::json!({"metadata": {"resourceVersion": "7"}}));
        assert!(written.is_stale(&key, Some("5")));
        assert!(!written.is_stale(&key, Some("7")) && !written.is_stale(&key, Some("x")));
    }

    #[tokio::test(start_paused = true)]
    async fn are_satisfied_when_seen_or_expired() {
        let (expectations, key) = (Expectations::default(), Key::new("ns", "a"));
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, []);
        expectations.created(&key);
        assert!(!expectations.satisfied(&key));
        expectations.created(&key);
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 0, ["x".into(), "y".into()]);
        expectations.deleted(&key, "x");
        expectations.deleted(&key, "x");
        assert!(!expectations.satisfied(&key), "the same deletion seen twice counts once");
        tokio::time::advance(EXPIRES + Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&key));
    }
}
