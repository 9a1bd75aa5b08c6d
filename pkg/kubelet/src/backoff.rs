//! Exponential back-off a key, as `k8s.io/client-go/util/flowcontrol.Backoff` counts it.
//!
//! Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// Most keys remembered; the oldest are forgotten beyond that. A pod has far fewer containers and images.
const MAX_KEYS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Delays that double from `initial` to `max` and start over after twice `max` without a failure.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

impl Backoff {
    /// No key is delayed yet.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, entries: HashMap::new() }
    }

    fn expired(&self, entry: &Entry, at: Timestamp) -> bool {
        since(at, entry.updated) > self.max * 2
    }

    /// How long `key` must still wait when its last failure was at `failed`. `None`: it may go now.
    pub fn remaining(&self, key: &str, failed: Timestamp, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        if self.expired(entry, failed) {
            return None;
        }
        entry.delay.checked_sub(since(now, failed)).filter(|d| !d.is_zero())
    }

    /// How long `key` must still wait, counted from its last [`Backoff::next`].
    pub fn remaining_since_update(&self, key: &str, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        self.remaining(key, entry.updated, now)
    }

    /// The current delay of a key, zero when it has none.
    pub fn delay(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |e| e.delay)
    }

    /// Counts another attempt: the delay doubles.
    pub fn next(&mut self, key: &str, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !self.expired(entry, now) => (entry.delay * 2).min(self.max),
            _ => self.initial,
        };
        if self.entries.len() >= MAX_KEYS {
            let oldest = self.entries.iter().min_by_key(|(_, e)| e.updated).map(|(k, _)| k.clone());
            if let Some(key) = oldest {
                self.entries.remove(&key);
            }
        }
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Forgets a key after a success.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    #[test]
    fn doubles_to_the_limit_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        assert_eq!(backoff.remaining("k", at(0), at(0)), None, "the first attempt never waits");
        let mut delays = Vec::new();
        for i in 0..7 {
            backoff.next("k", at(i));
            delays.push(backoff.delay("k").as_secs());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        backoff.next("k", at(6 + 601));
        assert_eq!(backoff.delay("k").as_secs(), 10, "ten quiet minutes reset it");
    }

    #[test]
    fn waits_from_the_failure() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        backoff.next("k", at(0));
        assert_eq!(backoff.remaining("k", at(5), at(7)), Some(Duration::from_secs(8)));
        assert_eq!(backoff.remaining("k", at(5), at(15)), None);
        assert_eq!(backoff.remaining_since_update("k", at(4)), Some(Duration::from_secs(6)));
        backoff.reset("k");
        assert_eq!(backoff.remaining("k", at(5), at(7)), None);
    }
}
