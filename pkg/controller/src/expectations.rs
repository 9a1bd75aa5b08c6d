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

#[cfg(test)]
mod tests {
    use super::*;

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
