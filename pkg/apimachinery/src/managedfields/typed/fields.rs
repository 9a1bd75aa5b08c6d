//! Which fields an object has.

use std::collections::BTreeMap;

use super::{MAX_OWNED_DEPTH, Shape, Type, Typed, entries, items};
use crate::Value;
use crate::managedfields::fieldpath::{PathElement, Set};

impl Typed<'_> {
    /// Every leaf, list item and map entry of an object. Declared fields that hold objects or lists are no members
    /// themselves unless they are empty objects or null.
    pub(in crate::managedfields) fn field_set(self, ty: Type, value: &Value) -> Set {
        let mut set = Set::new();
        self.collect(ty, value, &mut set);
        set.limited(MAX_OWNED_DEPTH)
    }

    /// Fills in what is below a value; true when the value itself is a member.
    fn collect(self, ty: Type, value: &Value, below: &mut Set) -> bool {
        let shape = self.shape(ty, value);
        if shape.is_leaf() {
            return true;
        }
        match shape {
            Shape::Leaf(_) => {}
            Shape::Map(map) => {
                for (key, child) in entries(value).into_iter().flatten() {
                    let mut children = Set::new();
                    let member = self.collect(map.child(key), child, &mut children)
                        || child.is_null()
                        || child.as_object().is_some_and(crate::Map::is_empty)
                        || !map.declares(key);
                    below.push(PathElement::field(key), member, children);
                }
            }
            Shape::List { item, identity } => {
                // items that occur twice are members without anything below them
                let mut found: BTreeMap<PathElement, Option<&Value>> = BTreeMap::new();
                for child in items(value).unwrap_or_default() {
                    if let Ok(element) = self.element(item, identity, child) {
                        found.entry(element).and_modify(|known| *known = None).or_insert(Some(child));
                    }
                }
                for (element, child) in found {
                    let mut children = Set::new();
                    if let Some(child) = child {
                        self.collect(item, child, &mut children);
                    }
                    below.push(element, true, children);
                }
            }
        }
        false
    }
}
