//! Maps.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use crate::unread::{Read, Unread};
use crate::{Key, Value, same_name};

/// Members that are kept in a vector. Objects have maps of a few members by the hundred, and a vector of those is small and
/// quick; what clients fill with thousands has to stay quick to change.
const FEW: usize = if cfg!(test) { 3 } else { 64 };

/// The members of an object: sorted by key, shared by copies until one of them changes them.
#[derive(Clone, Default)]
pub struct Map {
    /// Nothing is allocated for no members.
    held: Option<Arc<Held>>,
}

enum Held {
    Read(Members),
    Unread(Box<Unread>),
}

impl Held {
    fn members(&self) -> &Members {
        match self {
            Self::Read(members) => members,
            Self::Unread(unread) => unread.members(),
        }
    }

    fn members_mut(&mut self) -> &mut Members {
        if let Self::Unread(unread) = self {
            *self = Self::Read(unread.take());
        }
        match self {
            Self::Read(members) => members,
            Self::Unread(_) => unreachable!("they were read just now"),
        }
    }
}

impl Clone for Held {
    /// Copies are made to be changed.
    fn clone(&self) -> Self {
        Self::Read(self.members().clone())
    }
}

#[derive(Clone)]
pub(crate) enum Members {
    /// Sorted.
    Few(Vec<(Key, Value)>),
    Many(BTreeMap<Key, Value>),
}

static NONE: Members = Members::Few(Vec::new());

impl Default for Members {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Members {
    /// Where a key is among few, or would be.
    fn find(members: &[(Key, Value)], key: &str) -> Result<usize, usize> {
        members.binary_search_by(|(k, _)| k.as_str().cmp(key))
    }

    /// Where a key is among few. Most maps are so small that lengths tell their keys apart before texts, which are
    /// elsewhere in memory, have to.
    fn position(members: &[(Key, Value)], key: &str) -> Option<usize> {
        const SMALL: usize = 24;
        if members.len() > SMALL {
            return Self::find(members, key).ok();
        }
        members.iter().position(|(k, _)| same_name(k, key))
    }

    /// The members as many.
    fn many(&mut self) -> &mut BTreeMap<Key, Value> {
        if let Self::Few(members) = self {
            *self = Self::Many(std::mem::take(members).into_iter().collect());
        }
        match self {
            Self::Many(members) => members,
            Self::Few(_) => unreachable!("they were made many just now"),
        }
    }
}

impl Map {
    /// No members.
    pub const fn new() -> Self {
        Self { held: None }
    }

    /// The members that `text` has: an object as [`crate::text::value`] writes it. `read` reads it when somebody asks for a
    /// member, and is told `levels`; until somebody changes one, the text is what the map is written as.
    pub fn unread(text: Bytes, levels: u8, read: Read) -> Self {
        Self { held: Some(Arc::new(Held::Unread(Box::new(Unread::new(text, levels, read))))) }
    }

    /// What [`Map::unread`] was given, if nothing has been changed since.
    pub fn text(&self) -> Option<&Bytes> {
        match self.held.as_deref() {
            Some(Held::Unread(unread)) => Some(unread.text()),
            _ => None,
        }
    }

    pub(crate) fn into_members(self) -> Members {
        let Some(held) = self.held else { return Members::default() };
        match Arc::try_unwrap(held) {
            Ok(Held::Read(members)) => members,
            Ok(Held::Unread(mut unread)) => unread.take(),
            Err(shared) => shared.members().clone(),
        }
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
        let members = if members.len() > FEW {
            Members::Many(members.into_iter().collect())
        } else {
            Members::Few(members)
        };
        (Self { held: Some(Arc::new(Held::Read(members))) }, repeated)
    }

    fn members(&self) -> &Members {
        self.held.as_deref().map_or(&NONE, Held::members)
    }

    fn members_mut(&mut self) -> &mut Members {
        let held = self.held.get_or_insert_with(|| Arc::new(Held::Read(Members::default())));
        Arc::make_mut(held).members_mut()
    }

    /// Both are the same memory, and therefore equal.
    pub fn shares(&self, other: &Self) -> bool {
        match (&self.held, &other.held) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        match self.members() {
            Members::Few(members) => members.len(),
            Members::Many(members) => members.len(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self.members() {
            Members::Few(members) => Members::position(members, key).map(|at| &members[at].1),
            Members::Many(members) => members.get(key),
        }
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        if !self.contains_key(key) {
            // nothing is copied for nothing
            return None;
        }
        match self.members_mut() {
            Members::Few(members) => Members::position(members, key).map(|at| &mut members[at].1),
            Members::Many(members) => members.get_mut(key),
        }
    }

    /// There is a value for the key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets the value of a key; answers the one before.
    pub fn insert(&mut self, key: Key, value: Value) -> Option<Value> {
        let members = self.members_mut();
        if let Members::Few(few) = members {
            match Members::find(few, &key) {
                Ok(at) => return Some(std::mem::replace(&mut few[at].1, value)),
                Err(at) if few.len() < FEW => {
                    few.insert(at, (key, value));
                    return None;
                }
                Err(_) => {}
            }
        }
        members.many().insert(key, value)
    }

    /// Takes a member out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        if !self.contains_key(key) {
            return None;
        }
        match self.members_mut() {
            Members::Few(members) => Members::position(members, key).map(|at| members.remove(at).1),
            Members::Many(members) => members.remove(key),
        }
    }

    /// The place of a key, to be filled when it is empty.
    pub fn entry(&mut self, key: impl Into<Key>) -> Entry<'_> {
        Entry { members: self.members_mut(), key: key.into() }
    }

    /// Drops the members that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &mut Value) -> bool) {
        if self.is_empty() {
            return;
        }
        match self.members_mut() {
            Members::Few(members) => members.retain_mut(|(key, value)| keep(key, value)),
            Members::Many(members) => members.retain(keep),
        }
    }

    /// Drops all members.
    pub fn clear(&mut self) {
        self.held = None;
    }

    /// Key and value of the members, in order.
    pub fn iter(&self) -> Iter<'_> {
        match self.members() {
            Members::Few(members) => Iter::Few(members.iter()),
            Members::Many(members) => Iter::Many(members.iter()),
        }
    }

    /// The members with values to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_> {
        if self.is_empty() {
            return IterMut::Few([].iter_mut());
        }
        match self.members_mut() {
            Members::Few(members) => IterMut::Few(members.iter_mut()),
            Members::Many(members) => IterMut::Many(members.iter_mut()),
        }
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Key> + ExactSizeIterator + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator + Clone {
        self.iter().map(|(_, value)| value)
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
    members: &'a mut Members,
    key: Key,
}

impl<'a> Entry<'a> {
    /// The value here, after setting it where there was none.
    pub fn or_insert(self, value: Value) -> &'a mut Value {
        self.or_insert_with(|| value)
    }

    /// [`Entry::or_insert`] with a value that is made when it is needed.
    pub fn or_insert_with(self, value: impl FnOnce() -> Value) -> &'a mut Value {
        let Self { members, key } = self;
        let at = match members {
            Members::Few(few) => match Members::find(few, &key) {
                Err(_) if few.len() >= FEW => None,
                at => Some(at),
            },
            Members::Many(_) => None,
        };
        match (members, at) {
            (Members::Few(few), Some(Ok(at))) => &mut few[at].1,
            (Members::Few(few), Some(Err(at))) => {
                few.insert(at, (key, value()));
                &mut few[at].1
            }
            (members, _) => members.many().entry(key).or_insert_with(value),
        }
    }
}

/// Members in order.
#[derive(Clone)]
pub enum Iter<'a> {
    /// Of a vector.
    Few(std::slice::Iter<'a, (Key, Value)>),
    /// Of a tree.
    Many(btree_map::Iter<'a, Key, Value>),
}

/// Members in order, values to be changed.
pub enum IterMut<'a> {
    /// Of a vector.
    Few(std::slice::IterMut<'a, (Key, Value)>),
    /// Of a tree.
    Many(btree_map::IterMut<'a, Key, Value>),
}

/// Members in order, taken out.
pub enum IntoIter {
    /// Of a vector.
    Few(std::vec::IntoIter<(Key, Value)>),
    /// Of a tree.
    Many(btree_map::IntoIter<Key, Value>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Key, &'a Value);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(members) => members.next().map(|(key, value)| (key, value)),
            Self::Many(members) => members.next(),
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Few(members) => members.size_hint(),
            Self::Many(members) => members.size_hint(),
        }
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(members) => members.next_back().map(|(key, value)| (key, value)),
            Self::Many(members) => members.next_back(),
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> Iterator for IterMut<'a> {
    type Item = (&'a Key, &'a mut Value);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(members) => members.next().map(|(key, value)| (&*key, value)),
            Self::Many(members) => members.next(),
        }
    }
}

impl Iterator for IntoIter {
    type Item = (Key, Value);
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Few(members) => members.next(),
            Self::Many(members) => members.next(),
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Few(members) => members.size_hint(),
            Self::Many(members) => members.size_hint(),
        }
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        // what is written alike is alike; the other way round is for the members to say
        let as_text = || self.text().is_some() && self.text() == other.text();
        self.shares(other) || as_text() || self.len() == other.len() && self.iter().eq(other)
    }
}

impl Eq for Map {}

impl Hash for Map {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len().hash(state);
        self.iter().for_each(|member| member.hash(state));
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
    type IntoIter = IntoIter;
    fn into_iter(self) -> IntoIter {
        match self.into_members() {
            Members::Few(members) => IntoIter::Few(members.into_iter()),
            Members::Many(members) => IntoIter::Many(members.into_iter()),
        }
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a Key, &'a Value);
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Map {
    type Item = (&'a Key, &'a mut Value);
    type IntoIter = IterMut<'a>;
    fn into_iter(self) -> IterMut<'a> {
        self.iter_mut()
    }
}
