//! A small cache of verdicts on credentials, keyed by their digest so that no credential is kept.

use std::collections::{HashMap, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

/// SHA-256 of a credential.
pub(crate) type Digest = [u8; 32];

/// The digest of a credential's parts.
pub(crate) fn digest_of(parts: &[&[u8]]) -> Digest {
    let mut context = aws_lc_rs::digest::Context::new(&SHA256);
    for part in parts {
        // lengths keep ("ab", "c") and ("a", "bc") apart
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    to_array(context.finish().as_ref())
}

/// Plain SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    to_array(digest(&SHA256, bytes).as_ref())
}

fn to_array(bytes: &[u8]) -> Digest {
    bytes.try_into().expect("SHA-256 has 32 bytes")
}

/// Values that hold until a time (seconds since the epoch); the oldest entries go first when it is full.
pub(crate) struct TtlCache<V> {
    max: usize,
    inner: Mutex<Entries<V>>,
}

struct Entries<V> {
    by_key: HashMap<Digest, (V, i64)>,
    order: VecDeque<Digest>,
}

impl<V: Clone> TtlCache<V> {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, inner: Mutex::new(Entries { by_key: HashMap::new(), order: VecDeque::new() }) }
    }

    /// The value, when it still holds.
    pub(crate) fn get(&self, key: &Digest, now: i64) -> Option<V> {
        let entries = self.inner.lock();
        entries.by_key.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    /// Keeps a value until a time.
    pub(crate) fn put(&self, key: Digest, value: V, until: i64) {
        let mut entries = self.inner.lock();
        if entries.by_key.insert(key, (value, until)).is_none() {
            entries.order.push_back(key);
            if entries.order.len() > self.max
                && let Some(oldest) = entries.order.pop_front()
            {
                entries.by_key.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_expire_and_make_room() {
        let cache = TtlCache::new(2);
        let keys: Vec<Digest> = [b"a", b"b", b"c"].iter().map(|k| sha256(*k)).collect();
        cache.put(keys[0], 1, 10);
        assert_eq!(cache.get(&keys[0], 9), Some(1));
        assert_eq!(cache.get(&keys[0], 10), None);
        cache.put(keys[0], 2, 20);
        cache.put(keys[1], 3, 20);
        cache.put(keys[2], 4, 20);
        assert_eq!(
            [cache.get(&keys[0], 0), cache.get(&keys[1], 0), cache.get(&keys[2], 0)],
            [None, Some(3), Some(4)]
        );
    }

    #[test]
    fn digests_keep_parts_apart() {
        assert_ne!(digest_of(&[b"ab", b"c"]), digest_of(&[b"a", b"bc"]));
    }
}
