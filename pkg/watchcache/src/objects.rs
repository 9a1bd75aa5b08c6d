//! The map of a resource's objects, which a selector can be asked of without looking at each.

use std::ops::Bound;
use std::sync::Arc;

use either::Either;
use imbl::OrdMap;

use crate::object::StoredObject;
use crate::texts::{Labels, Texts};

/// A label or a selectable field with its value, as a number: pairs that differ have different ones, but for chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair(u64);

impl Pair {
    fn of_label(key: &str, value: &str) -> Self {
        Self::of(key.bytes().chain(*b"=").chain(value.bytes()))
    }

    fn of_field(index: usize, value: &str) -> Self {
        // no label begins like this
        Self::of([0, index as u8].into_iter().chain(value.bytes()))
    }

    fn of(pair: impl Iterator<Item = u8>) -> Self {
        // FNV-1a, and MurmurHash3's last step: pairs often differ in their last byte only, which FNV leaves in few bits
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let fold = |hash: u64, factor: u64| (hash ^ hash >> 33).wrapping_mul(factor);
        let hash = pair.fold(0xcbf2_9ce4_8422_2325, mix);
        Self(fold(fold(hash, 0xff51_afd7_ed55_8ccd), 0xc4ce_b9fe_1a85_ec53))
    }
}

/// What an object has of labels and selectable fields, as a set of bits: two for each pair. An object without all the bits of
/// a pair does not have the pair; one with them may have them by chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bits([u64; 2]);

impl Bits {
    fn of_object(labels: &Labels, fields: &Texts) -> Self {
        let labels = labels.iter().map(|(key, value)| Pair::of_label(key, value));
        let fields = fields.iter().enumerate().map(|(index, value)| Pair::of_field(index, value));
        labels.chain(fields).map(Self::from).fold(Self::default(), Self::and)
    }

    fn and(self, others: Self) -> Self {
        Self([self.0[0] | others.0[0], self.0[1] | others.0[1]])
    }

    /// Whether all of `others` are among these.
    fn have(self, others: Self) -> bool {
        self.0[0] & others.0[0] == others.0[0] && self.0[1] & others.0[1] == others.0[1]
    }
}

impl From<Pair> for Bits {
    fn from(Pair(hash): Pair) -> Self {
        let bits = 1 << (hash >> 58) | 1 << (hash >> 52 & 63);
        if hash >> 51 & 1 == 0 { Self([bits, 0]) } else { Self([0, bits]) }
    }
}

/// Fields of marks that an index may be asked for.
const MAX_FIELDS: usize = 2;

/// What all objects have that a selector matches; others may have it by chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    bits: Bits,
    fields: [Option<(usize, Pair)>; MAX_FIELDS],
}

impl Marks {
    /// What objects with a label have.
    pub fn of_label(key: &str, value: &str) -> Self {
        Self { bits: Pair::of_label(key, value).into(), fields: Default::default() }
    }

    /// What objects have whose selectable field (by its place in the codec's order) has this value.
    pub fn of_field(index: usize, value: &str) -> Self {
        let pair = Pair::of_field(index, value);
        let mut fields = <[_; MAX_FIELDS]>::default();
        fields[0] = Some((index, pair));
        Self { bits: pair.into(), fields }
    }

    /// These and others.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        let mut fields = <[_; MAX_FIELDS]>::default();
        let all = self.fields.into_iter().chain(others.fields).flatten();
        fields.iter_mut().zip(all).for_each(|(field, known)| *field = Some(known));
        Self { bits: self.bits.and(others.bits), fields }
    }

    /// The pair of a field, if it is among these.
    fn field(&self, index: usize) -> Option<Pair> {
        self.fields.iter().flatten().find(|(of, _)| *of == index).map(|(_, pair)| *pair)
    }
}

/// Objects by key. Cheap to clone: clones share what they have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    all: OrdMap<Arc<str>, Marked>,
    by_field: Option<ByField>,
}

/// The marks stand in the map itself: passing by an object does not touch it.
#[derive(Debug, Clone)]
struct Marked {
    bits: Bits,
    object: Arc<StoredObject>,
}

impl Marked {
    fn new(object: Arc<StoredObject>) -> Self {
        Self { bits: Bits::of_object(object.labels(), object.fields()), object }
    }
}

/// Objects by the value of one selectable field, and then by key.
#[derive(Debug, Clone)]
struct ByField {
    /// The field's place in the codec's order.
    field: usize,
    objects: OrdMap<(Pair, Arc<str>), Arc<StoredObject>>,
}

impl ByField {
    fn pair(&self, object: &StoredObject) -> Pair {
        Pair::of_field(self.field, object.field(self.field))
    }

    fn replace(&mut self, before: Option<&StoredObject>, now: Option<&Arc<StoredObject>>) {
        let pairs = (before.map(|before| self.pair(before)), now.map(|now| self.pair(now)));
        if let (Some(before), (Some(pair), other)) = (before, pairs)
            && other != Some(pair)
        {
            self.objects.remove(&(pair, Arc::clone(before.key())));
        }
        if let (Some(now), (_, Some(pair))) = (now, pairs) {
            self.objects.insert((pair, Arc::clone(now.key())), Arc::clone(now));
        }
    }
}

impl Objects {
    /// These objects. Those with a value of the indexed field (by its place in the codec's order) will be found without
    /// passing by others.
    pub(crate) fn new(objects: impl IntoIterator<Item = Arc<StoredObject>>, indexed: Option<usize>) -> Self {
        let all: OrdMap<Arc<str>, Marked> =
            objects.into_iter().map(|object| (Arc::clone(object.key()), Marked::new(object))).collect();
        let by_field = indexed.map(|field| {
            let mut index = ByField { field, objects: OrdMap::new() };
            all.values().for_each(|marked| index.replace(None, Some(&marked.object)));
            index
        });
        Self { all, by_field }
    }

    /// Puts an object in its place; answers what was there.
    pub(crate) fn insert(&mut self, object: Arc<StoredObject>) -> Option<Arc<StoredObject>> {
        let marked = Marked::new(Arc::clone(&object));
        let before = self.all.insert(Arc::clone(object.key()), marked).map(|old| old.object);
        if let Some(index) = &mut self.by_field {
            index.replace(before.as_deref(), Some(&object));
        }
        before
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<StoredObject>> {
        let before = self.all.remove(key).map(|old| old.object)?;
        if let Some(index) = &mut self.by_field {
            index.replace(Some(&before), None);
        }
        Some(before)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<StoredObject>> {
        self.all.get(key).map(|marked| &marked.object)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them, in key order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<StoredObject>> {
        self.all.values().map(|marked| &marked.object)
    }

    /// The objects that have marks and whose keys start with `prefix` (ASCII, as keys are), in key order, from `start` on
    /// if it is given. By chance there are others among them.
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
        let indexed = self.by_field.as_ref().and_then(|index| Some((index, marks.field(index.field)?)));
        if let Some((index, pair)) = indexed {
            let end = match (end.as_str(), pair.0.checked_add(1)) {
                ("", None) => Bound::Unbounded,
                ("", Some(next)) => Bound::Excluded((Pair(next), "".into())),
                (end, _) => Bound::Excluded((pair, end.into())),
            };
            let objects = index.objects.range((Bound::Included((pair, from.into())), end)).take(most);
            return Either::Left(objects.map(|(_, object)| object));
        }
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end.as_str()) };
        let objects = self.all.range::<_, str>((Bound::Included(from), end)).take(most);
        Either::Right(
            objects.filter(move |(_, marked)| marked.bits.have(marks.bits)).map(|(_, marked)| &marked.object),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_pairs_apart() {
        let labels = Labels::new([("app", "web"), ("tier", "back")]);
        let fields = Texts::from_iter(["node-1", ""]);
        let marks = Bits::of_object(&labels, &fields);
        let pair = [Marks::of_label("app", "web"), Marks::of_label("tier", "back")];
        let has =
            [pair[0], pair[1], pair[0].and(pair[1]), Marks::of_field(0, "node-1"), Marks::of_field(1, "")];
        for (i, those) in has.into_iter().enumerate() {
            assert!(marks.have(those.bits), "{i}");
        }
        assert!(marks.have(Bits::default()));
        let lacks = [
            Marks::of_label("app", "back"),
            Marks::of_label("tier", "web"),
            Marks::of_label("ap", "p=web"),
            Marks::of_field(1, "node-1"),
            Marks::of_field(0, "node-2"),
            pair[0].and(Marks::of_field(0, "node-2")),
        ];
        for (i, those) in lacks.into_iter().enumerate() {
            assert!(!marks.have(those.bits), "{i}");
        }
    }

    #[test]
    fn chance_is_rare() {
        let labels = Labels::new((0..6).map(|i| (format!("key-{i}"), format!("value-{i}"))));
        let fields: Texts = (0..8).map(|i| format!("field-{i}")).collect();
        let marks = Bits::of_object(&labels, &fields);
        let others: [fn(usize) -> Marks; 2] = [
            |i| Marks::of_label("key-0", &format!("value-{i}")),
            |i| Marks::of_field(0, &format!("field-{i}")),
        ];
        for other in others {
            let by_chance = (10..10_010).filter(|i| marks.have(other(*i).bits)).count();
            assert!(by_chance < 1000, "{by_chance} of 10,000");
        }
    }
}
