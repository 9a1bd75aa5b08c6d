//! What has been found out of texts that come again and again.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};

/// Texts that are known at once; a later one takes the place of an earlier one.
const PLACES: usize = 1024;

/// A text, by a hash that nobody outside can foresee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    pub(crate) fn of(text: &[u8]) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEYS.hash_one(text))
    }

    /// The text as it was looked at in one of several ways.
    pub(crate) fn with(self, way: u32) -> Self {
        Self(self.0.rotate_left(32) ^ u64::from(way))
    }
}

/// Texts of which the same is known to hold. Bounded: texts are forgotten.
#[derive(Debug, Default)]
pub(crate) struct KnownTexts(OnceLock<Box<[AtomicU64]>>);

impl KnownTexts {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn place(&self, mark: Mark) -> &AtomicU64 {
        let places = self.0.get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        &places[mark.0 as usize % PLACES]
    }

    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.place(mark).load(Ordering::Relaxed) == mark.0
    }

    pub(crate) fn add(&self, mark: Mark) {
        self.place(mark).store(mark.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_known_by_the_way_they_were_looked_at() {
        let known = KnownTexts::new();
        let (a, b) = (Mark::of(b"a"), Mark::of(b"b"));
        assert!(!known.has(a) && a != b && a == Mark::of(b"a"));
        known.add(a.with(1));
        assert!(known.has(a.with(1)));
        for other in [a, a.with(2), b, b.with(1)] {
            assert!(!known.has(other));
        }
        // many later ones take its place
        (0..100 * PLACES).for_each(|i| known.add(Mark::of(&i.to_le_bytes())));
        assert!(!known.has(a.with(1)));
    }
}
