//! Values that this server is about to write, decoded already.
//!
//! Whoever writes an object has its tree; decoding it once more when the store tells of the write would be work for
//! nothing. A value counts as the announced one when its bytes are the same, so that it does not matter who wrote what in
//! which order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::object::Decoded;

/// Announcements kept; what is written in the meantime of so many others is decoded.
const MAX_KEPT: usize = 128;
/// Bytes of announced values kept.
const MAX_BYTES: usize = 4 << 20;

/// The latest announcements, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Announced(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    values: VecDeque<(Arc<str>, Decoded)>,
    bytes: usize,
}

impl Kept {
    fn remove(&mut self, at: usize) -> Option<Decoded> {
        let (_, decoded) = self.values.remove(at)?;
        self.bytes -= decoded.json.len();
        Some(decoded)
    }
}

impl Announced {
    /// Keeps what the value of a key decodes to.
    pub(crate) fn put(&self, key: Arc<str>, decoded: Decoded) {
        let mut kept = self.0.lock();
        kept.bytes += decoded.json.len();
        kept.values.push_back((key, decoded));
        while kept.values.len() > MAX_KEPT || kept.bytes > MAX_BYTES {
            kept.remove(0);
        }
    }

    /// What a value decodes to, if it was announced.
    pub(crate) fn take(&self, key: &str, value: &Bytes) -> Option<Decoded> {
        let mut kept = self.0.lock();
        let at = kept.values.iter().position(|(known, decoded)| **known == *key && decoded.json == *value)?;
        let decoded = kept.remove(at)?;
        // The writer's copy lies among what it needed for the write and has let go, and would keep that memory from being
        // given back.
        Some(Decoded { json: value.clone(), ..decoded })
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Kept::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::{Labels, Texts};

    fn decoded(json: &str) -> Decoded {
        Decoded::new(Bytes::from(json.to_owned()), Labels::default(), Texts::default())
    }

    #[test]
    fn a_value_is_taken_once_and_only_as_it_was_announced() {
        let announced = Announced::default();
        announced.put("/a".into(), decoded("1"));
        announced.put("/a".into(), decoded("2"));
        assert!(announced.take("/b", &"1".into()).is_none());
        assert!(announced.take("/a", &"3".into()).is_none());
        assert!(announced.take("/a", &"1".into()).is_some());
        assert!(announced.take("/a", &"1".into()).is_none());
        assert!(announced.take("/a", &"2".into()).is_some());
        announced.put("/a".into(), decoded("1"));
        announced.clear();
        assert!(announced.take("/a", &"1".into()).is_none());
    }

    #[test]
    fn only_the_latest_are_kept() {
        let announced = Announced::default();
        for i in 0..1000 {
            announced.put(format!("/{i}").into(), decoded("1"));
        }
        assert_eq!(announced.0.lock().values.len(), MAX_KEPT);
        assert!(announced.take("/0", &"1".into()).is_none() && announced.take("/999", &"1".into()).is_some());
        announced.put("/large".into(), decoded(&"x".repeat(MAX_BYTES)));
        assert_eq!(announced.0.lock().values.len(), 1);
        assert_eq!(announced.0.lock().bytes, MAX_BYTES);
    }
}
