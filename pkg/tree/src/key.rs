//! Keys of maps.

use std::borrow::{Borrow, Cow};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Names kept by each thread for keys to share.
const KNOWN_NAMES: usize = 2048;
/// Longest name that is kept; longer ones are hardly names of fields.
const MAX_KNOWN: usize = 64;

thread_local! {
    static KNOWN: RefCell<Vec<Option<Arc<str>>>> = const { RefCell::new(Vec::new()) };
}

/// A key of a [`crate::Map`]. Copies share their text, and so do keys made of the same text by one thread as long as it
/// remembers it (a bounded number of names, the latest of those that hash alike).
#[derive(Clone, Eq)]
pub struct Key(Arc<str>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || same_name(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.as_bytes(), other.as_bytes());
        // where names differ they mostly do at once
        match (a.first(), b.first()) {
            (Some(first), Some(other)) if first != other => first.cmp(other),
            _ => a.cmp(b),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // as the text, which a key may be looked up by
        self.as_str().hash(state);
    }
}

/// Whether two texts are equal, which are as short as names of fields mostly: without a call.
pub fn same_name(a: &str, b: &str) -> bool {
    const LONG: usize = 2 * size_of::<u64>();
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    if a.len() > LONG {
        return a == b;
    }
    if a.len() >= LONG / 2 {
        return a.first_chunk::<8>() == b.first_chunk::<8>() && a.last_chunk::<8>() == b.last_chunk::<8>();
    }
    if a.len() >= LONG / 4 {
        return a.first_chunk::<4>() == b.first_chunk::<4>() && a.last_chunk::<4>() == b.last_chunk::<4>();
    }
    a.iter().zip(b).all(|(a, b)| a == b)
}

impl Key {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A number that names of fields seldom share. It looks at length, beginning and end only: whoever uses it must do well
/// enough with names made to share it.
pub fn name_hash(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let (head, tail) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(head), Some(tail)) => (u64::from_le_bytes(*head), u64::from_le_bytes(*tail)),
        _ => {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            (u64::from_le_bytes(all), 0)
        }
    };
    let mixed = (head ^ tail.rotate_left(29) ^ (bytes.len() as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}

fn known(text: &str) -> Arc<str> {
    if text.len() > MAX_KNOWN {
        return text.into();
    }
    let slot = name_hash(text) as usize % KNOWN_NAMES;
    KNOWN.with(|known| {
        // a key that is made while another one is dropped makes its own text
        let Ok(mut known) = known.try_borrow_mut() else { return text.into() };
        if known.is_empty() {
            known.resize(KNOWN_NAMES, None);
        }
        match &known[slot] {
            Some(name) if same_name(name, text) => Arc::clone(name),
            _ => {
                let name: Arc<str> = text.into();
                known[slot] = Some(Arc::clone(&name));
                name
            }
        }
    })
}

impl Deref for Key {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&*self.0, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(known(text))
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(known(&text))
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Self {
        Self(known(text))
    }
}

impl From<Cow<'_, str>> for Key {
    fn from(text: Cow<'_, str>) -> Self {
        Self(known(&text))
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.as_ref().to_owned()
    }
}

impl From<&Key> for String {
    fn from(key: &Key) -> Self {
        key.0.as_ref().to_owned()
    }
}

impl From<Key> for Arc<str> {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl From<Arc<str>> for Key {
    fn from(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl PartialEq<str> for Key {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl PartialEq<String> for Key {
    fn eq(&self, other: &String) -> bool {
        *self.0 == **other
    }
}

impl PartialEq<Key> for str {
    fn eq(&self, other: &Key) -> bool {
        *self == *other.0
    }
}

impl PartialEq<Key> for &str {
    fn eq(&self, other: &Key) -> bool {
        **self == *other.0
    }
}

impl PartialEq<Key> for String {
    fn eq(&self, other: &Key) -> bool {
        **self == *other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_and_ordered_as_their_texts() {
        let mut texts: Vec<String> =
            (0..20).map(|len| "abcdefghijklmnopqrstuvwxyz"[..len].to_owned()).collect();
        // one that differs at each place of each length
        for text in texts.clone() {
            for at in 0..text.len() {
                texts.extend(["A", "z", "ä"].map(|other| [&text[..at], other, &text[at + 1..]].concat()));
            }
        }
        for a in &texts {
            for b in &texts {
                assert_eq!(same_name(a, b), a == b, "{a} {b}");
                let (left, right) = (Key(a.as_str().into()), Key(b.as_str().into()));
                assert_eq!(left == right, a == b, "{a} {b}");
                assert_eq!(left.cmp(&right), a.cmp(b), "{a} {b}");
            }
        }
    }
}
