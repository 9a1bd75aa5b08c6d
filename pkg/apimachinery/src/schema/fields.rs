//! The fields of an object type, found by name many times for every object.

use std::collections::BTreeMap;

use super::Field;

/// Fields by name, in the order of their names.
///
/// Names are looked up by hash. Where names were made to share one, which those of custom resources can be, they are
/// found by order instead.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    sorted: Vec<(Box<str>, Field)>,
    /// A power of two of slots, at least twice as many as fields: 1 + the place of a field, 0 for none.
    slots: Box<[u32]>,
    /// Every field has a slot.
    complete: bool,
}

/// Slots looked at for one name.
const PROBES: usize = 8;

impl Fields {
    fn new(sorted: Vec<(Box<str>, Field)>) -> Self {
        let mut slots = vec![0; (sorted.len() * 2).next_power_of_two()].into_boxed_slice();
        let mut complete = true;
        for (at, (name, _)) in sorted.iter().enumerate() {
            match probe(&slots, name).find(|slot| slots[*slot] == 0) {
                Some(free) => slots[free] = at as u32 + 1,
                None => complete = false,
            }
        }
        Self { sorted, slots, complete }
    }

    /// The field of a name.
    pub fn get(&self, name: &str) -> Option<&Field> {
        for slot in probe(&self.slots, name) {
            match self.slots[slot] {
                // nothing was ever passed by a free slot
                0 => return None,
                place => {
                    let (known, field) = &self.sorted[place as usize - 1];
                    if tree::same_name(known, name) {
                        return Some(field);
                    }
                }
            }
        }
        if self.complete {
            return None;
        }
        let at = self.sorted.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.sorted[at].1)
    }

    /// There is a field of this name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names and fields, in order, by their places.
    pub(crate) fn as_slice(&self) -> &[(Box<str>, Field)] {
        &self.sorted
    }

    /// Names and fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.sorted.iter().map(|(name, field)| (&**name, field))
    }

    /// The names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// The fields, in order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Field> {
        self.sorted.iter().map(|(_, field)| field)
    }
}

fn probe(slots: &[u32], name: &str) -> impl Iterator<Item = usize> + use<> {
    // an empty type has one slot, and `Default` none
    let mask = slots.len().wrapping_sub(1);
    let first = tree::name_hash(name) as usize;
    (0..PROBES.min(slots.len())).map(move |step| first.wrapping_add(step) & mask)
}

impl FromIterator<(Box<str>, Field)> for Fields {
    /// Of fields with one name the last counts.
    fn from_iter<T: IntoIterator<Item = (Box<str>, Field)>>(fields: T) -> Self {
        Self::new(fields.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::NodeId;

    fn fields(names: &[String]) -> Fields {
        let field = |at: usize| Field { proto: at as u32, ..Field::new(NodeId(0)) };
        names.iter().enumerate().map(|(at, name)| (name.as_str().into(), field(at))).collect()
    }

    #[test]
    fn every_field_is_found_and_no_other() {
        // the hash does not look at the middle of names, so that all of these share one
        let alike = (0..100).map(|i| format!("beginning{i:04}the-end!!"));
        let other = (0..100).map(|i| format!("n{i}")).chain([String::new()]);
        for names in [
            Vec::new(),
            alike.clone().collect::<Vec<_>>(),
            other.clone().collect(),
            alike.chain(other).collect(),
        ] {
            let fields = fields(&names);
            assert!(fields.keys().is_sorted());
            assert_eq!(fields.values().count(), names.len());
            for (at, name) in names.iter().enumerate() {
                assert_eq!(fields.get(name).map(|field| field.proto), Some(at as u32), "{name}");
            }
            for none in ["x", "n100", "beginning0100the-end!!", "beginning00000the-end!!"] {
                assert!(!fields.contains_key(none), "{none}");
            }
        }
        assert!(Fields::default().get("").is_none());
    }
}
