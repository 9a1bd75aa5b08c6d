//! Maps.

use std::fmt;
use std::sync::Arc;

use crate::{Key, Value};

/// The members of an object: a vector sorted by key that copies share until one of them changes it.
#[derive(Clone, Default, Eq)]
pub struct Map {
    /// Nothing is allocated for no members.
    members: Option<Arc<Vec<(Key, Value)>>>,
}

type Iter<'a> =
    std::iter::Map<std::slice::Iter<'a, (Key, Value)>, fn(&'a (Key, Value)) -> (&'a Key, &'a Value)>;
type IterMut<'a> = std::iter::Map<
    std::slice::IterMut<'a, (Key, Value)>,
    fn(&'a mut (Key, Value)) -> (&'a Key, &'a mut Value),
>;

impl Map {
    /// No members.
    pub const fn new() -> Self {
        Self { members: None }
    }

    /// No members, with room for some.
    pub fn with_capacity(members: usize) -> Self {
        if members == 0 { Self::new() } else { Self { members: Some(Arc::new(Vec::with_capacity(members))) } }
    }

    /// Members in any order; of equal keys the last one counts. Answers whether there were any.
    pub fn from_members(mut members: Vec<(Key, Value)>) -> (Self, bool) {
        if members.is_empty() {
            return (Self::new(), false);
        }
        let mut repeated = false;
        if !members.is_sorted_by(|(a, _), (b, _)| a < b) {
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            members.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    repeated = true;
                    std::mem::swap(&mut later.1, &mut kept.1);
                }
                same
            });
        }
        (Self { members: Some(Arc::new(members)) }, repeated)
    }

    fn slice(&self) -> &[(Key, Value)] {
        self.members.as_ref().map_or(&[], |members| members.as_slice())
    }

    fn vec(&mut self) -> &mut Vec<(Key, Value)> {
        Arc::make_mut(self.members.get_or_insert_default())
    }

    /// Where a key is, or would be.
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.slice().binary_search_by(|(k, _)| k.as_str().cmp(key))
    }

    /// Both are the same memory, and therefore equal.
    pub fn shares(&self, other: &Self) -> bool {
        match (&self.members, &other.members) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.slice().len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.slice().is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|at| &self.slice()[at].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let at = self.find(key).ok()?;
        Some(&mut self.vec()[at].1)
    }

    /// Key and value of a key.
    pub fn get_key_value(&self, key: &str) -> Option<(&Key, &Value)> {
        let (key, value) = &self.slice()[self.find(key).ok()?];
        Some((key, value))
    }

    /// There is a value for the key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Sets the value of a key; answers the one before.
    pub fn insert(&mut self, key: Key, value: Value) -> Option<Value> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.vec()[at].1, value)),
            Err(at) => {
                self.vec().insert(at, (key, value));
                None
            }
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.find(key).ok()?;
        Some(self.vec().remove(at).1)
    }

    /// The place of a key, to be filled when it is empty.
    pub fn entry(&mut self, key: impl Into<Key>) -> Entry<'_> {
        let key = key.into();
        let at = self.find(&key);
        Entry { members: self.vec(), at, key }
    }

    /// Drops the members that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Value) -> bool) {
        if !self.is_empty() {
            self.vec().retain_mut(|(key, value)| keep(key, value));
        }
    }

    /// Drops all members.
    pub fn clear(&mut self) {
        self.members = None;
    }

    /// Key and value of the members, in order.
    pub fn iter(&self) -> Iter<'_> {
        self.slice().iter().map(|(key, value)| (key, value))
    }

    /// The members with values to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_> {
        let members = if self.is_empty() { &mut [][..] } else { self.vec().as_mut_slice() };
        members.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Key> + ExactSizeIterator + Clone {
        self.slice().iter().map(|(key, _)| key)
    }

    /// The values, in order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator + Clone {
        self.slice().iter().map(|(_, value)| value)
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// The values, in order of their keys.
    pub fn into_values(self) -> impl Iterator<Item = Value> {
        self.into_iter().map(|(_, value)| value)
    }
}

/// A place in a [`Map`].
pub struct Entry<'a> {
    members: &'a mut Vec<(Key, Value)>,
    at: Result<usize, usize>,
    key: Key,
}

impl<'a> Entry<'a> {
    /// The value here, after setting it where there was none.
    pub fn or_insert(self, value: Value) -> &'a mut Value {
        self.or_insert_with(|| value)
    }

    /// [`Entry::or_insert`] with a value that is made when it is needed.
    pub fn or_insert_with(self, value: impl FnOnce() -> Value) -> &'a mut Value {
        let at = match self.at {
            Ok(at) => at,
            Err(at) => {
                self.members.insert(at, (self.key, value()));
                at
            }
        };
        &mut self.members[at].1
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.shares(other) || self.slice() == other.slice()
    }
}

impl std::hash::Hash for Map {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.slice().hash(state);
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl std::ops::Index<&str> for Map {
    type Output = Value;
    fn index(&self, key: &str) -> &Value {
        self.get(key).expect("indexed by a key that is there, as `std`'s maps are")
    }
}

impl<K: Into<Key>> FromIterator<(K, Value)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(members: I) -> Self {
        Self::from_members(members.into_iter().map(|(key, value)| (key.into(), value)).collect()).0
    }
}

impl<K: Into<Key>> Extend<(K, Value)> for Map {
    fn extend<I: IntoIterator<Item = (K, Value)>>(&mut self, members: I) {
        for (key, value) in members {
            self.insert(key.into(), value);
        }
    }
}

impl IntoIterator for Map {
    type Item = (Key, Value);
    type IntoIter = std::vec::IntoIter<(Key, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        let members = self.members.unwrap_or_default();
        Arc::try_unwrap(members).unwrap_or_else(|shared| (*shared).clone()).into_iter()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a Key, &'a Value);
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Map {
    type Item = (&'a Key, &'a mut Value);
    type IntoIter = IterMut<'a>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
