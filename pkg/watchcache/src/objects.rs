//! The map of a resource's objects, which a selector can be asked of without looking at each.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::object::{Labels, StoredObject};

/// What an object has of labels and selectable fields, as a set of bits: two for each pair. An object without all the bits of
/// a pair does not have the pair; one with them may have them by chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks([u64; 2]);

impl Marks {
    /// What objects with a label have.
    pub fn of_label(key: &str, value: &str) -> Self {
        Self::of(key.bytes().chain(*b"=").chain(value.bytes()))
    }

    /// What objects have whose selectable field (by its place in the codec's order) has this value.
    pub fn of_field(index: usize, value: &str) -> Self {
        // no label begins like this
        Self::of([0, index as u8].into_iter().chain(value.bytes()))
    }

    fn of(pair: impl Iterator<Item = u8>) -> Self {
        // FNV-1a, and MurmurHash3's last step: pairs often differ in their last byte only, which FNV leaves in few bits
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let fold = |hash: u64, factor: u64| (hash ^ hash >> 33).wrapping_mul(factor);
        let hash = pair.fold(0xcbf2_9ce4_8422_2325, mix);
        let hash = fold(fold(hash, 0xff51_afd7_ed55_8ccd), 0xc4ce_b9fe_1a85_ec53);
        let bits = 1 << (hash >> 58) | 1 << (hash >> 52 & 63);
        if hash >> 51 & 1 == 0 { Self([bits, 0]) } else { Self([0, bits]) }
    }

    fn of_object(labels: &Labels, fields: &[Box<str>]) -> Self {
        let labels = labels.iter().map(|(key, value)| Self::of_label(key, value));
        let fields = fields.iter().enumerate().map(|(index, value)| Self::of_field(index, value));
        labels.chain(fields).fold(Self::default(), Self::and)
    }

    /// These and others.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self([self.0[0] | others.0[0], self.0[1] | others.0[1]])
    }

    /// Whether all of `others` are among these.
    fn have(self, others: Self) -> bool {
        self.0[0] & others.0[0] == others.0[0] && self.0[1] & others.0[1] == others.0[1]
    }
}

/// Objects by key. Cheap to clone: clones share what they have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects(OrdMap<Arc<str>, Marked>);

/// The marks stand in the map itself: passing by an object does not touch it.
#[derive(Debug, Clone)]
struct Marked {
    marks: Marks,
    object: Arc<StoredObject>,
}

impl Marked {
    fn new(object: Arc<StoredObject>) -> Self {
        Self { marks: Marks::of_object(object.labels(), object.fields()), object }
    }
}

impl Objects {
    /// Puts an object in its place; answers what was there.
    pub(crate) fn insert(&mut self, object: Arc<StoredObject>) -> Option<Arc<StoredObject>> {
        self.0.insert(Arc::clone(object.key()), Marked::new(object)).map(|old| old.object)
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<StoredObject>> {
        self.0.remove(key).map(|old| old.object)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<StoredObject>> {
        self.0.get(key).map(|marked| &marked.object)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, in key order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<StoredObject>> {
        self.0.values().map(|marked| &marked.object)
    }

    /// The objects that have marks and whose keys start with `prefix` (ASCII, as keys are), in key order, from `start` on
    /// if it is given.
    pub(crate) fn range<'o>(
        &'o self,
        prefix: &str,
        start: Option<&str>,
        marks: Marks,
    ) -> impl Iterator<Item = &'o Arc<StoredObject>> + use<'o> {
        let from = start.filter(|s| *s > prefix).unwrap_or(prefix);
        let end = storage::prefix_end(prefix);
        // a start beyond the end is no range to the map
        let most = if end.is_empty() || from < end.as_str() { usize::MAX } else { 0 };
        let from = if most == 0 { prefix } else { from };
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end.as_str()) };
        let objects = self.0.range::<_, str>((Bound::Included(from), end)).take(most);
        objects.filter(move |(_, marked)| marked.marks.have(marks)).map(|(_, marked)| &marked.object)
    }
}

impl FromIterator<Arc<StoredObject>> for Objects {
    fn from_iter<I: IntoIterator<Item = Arc<StoredObject>>>(objects: I) -> Self {
        Self(objects.into_iter().map(|object| (Arc::clone(object.key()), Marked::new(object))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_pairs_apart() {
        let labels = Labels::new([("app", "web"), ("tier", "back")]);
        let fields: [Box<str>; 2] = ["node-1".into(), "".into()];
        let marks = Marks::of_object(&labels, &fields);
        let pair = [Marks::of_label("app", "web"), Marks::of_label("tier", "back")];
        let has =
            [pair[0], pair[1], pair[0].and(pair[1]), Marks::of_field(0, "node-1"), Marks::of_field(1, "")];
        for (i, those) in has.into_iter().enumerate() {
            assert!(marks.have(those), "{i}");
        }
        assert!(marks.have(Marks::default()));
        let lacks = [
            Marks::of_label("app", "back"),
            Marks::of_label("tier", "web"),
            Marks::of_label("ap", "p=web"),
            Marks::of_field(1, "node-1"),
            Marks::of_field(0, "node-2"),
            pair[0].and(Marks::of_field(0, "node-2")),
        ];
        for (i, those) in lacks.into_iter().enumerate() {
            assert!(!marks.have(those), "{i}");
        }
    }

    #[test]
    fn chance_is_rare() {
        let labels = Labels::new((0..6).map(|i| (format!("key-{i}"), format!("value-{i}"))));
        let fields: Vec<Box<str>> = (0..8).map(|i| format!("field-{i}").into()).collect();
        let marks = Marks::of_object(&labels, &fields);
        let others: [fn(usize) -> Marks; 2] = [
            |i| Marks::of_label("key-0", &format!("value-{i}")),
            |i| Marks::of_field(0, &format!("field-{i}")),
        ];
        for other in others {
            let by_chance = (10..10_010).filter(|i| marks.have(other(*i))).count();
            assert!(by_chance < 1000, "{by_chance} of 10,000");
        }
    }
}
