//! What a cache has done since it was started, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only rise.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Changes taken in.
    pub(crate) events: Count,
    /// Values that could not be decoded.
    pub(crate) undecodable: Count,
    /// Objects sent to watches as they began.
    pub(crate) initial_events: Count,
    /// Lists answered.
    pub(crate) lists: Count,
    /// Objects that lists looked at.
    pub(crate) looked_at: Count,
    /// Objects that lists answered.
    pub(crate) listed: Count,
}

/// One of them.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
