//! Removing fields from an object.

use super::{Shape, Type, Typed};
use crate::Value;
use crate::managedfields::fieldpath::{PathElement, Set};

impl Typed<'_> {
    /// Removes the fields and items that are members of `set`. A map or list that loses all it had becomes null, as
    /// does an atomic one of which a part is to go.
    pub(in crate::managedfields) fn remove(self, ty: Type, value: &mut Value, set: &Set) {
        let shape = self.shape(ty, value);
        match shape {
            Shape::Leaf(_) => {}
            _ if shape.is_leaf() => *value = Value::Null,
            Shape::Map(map) => {
                if let Value::Object(members) = value {
                    members.retain(|key, child| match set.get_field(key) {
                        Some(entry) if entry.member => false,
                        Some(entry) => {
                            self.remove(map.child(key), child, &entry.children);
                            true
                        }
                        None => true,
                    });
                    if members.is_empty() {
                        *value = Value::Null;
                    }
                }
            }
            Shape::List { item, identity } => {
                if let Value::Array(list) = value {
                    list.retain_mut(|child| {
                        let Ok(element) = self.element(item, identity, child) else { return true };
                        match set.get(&element) {
                            Some(entry) if entry.member => false,
                            Some(entry) => {
                                self.remove(item, child, &entry.children);
                                true
                            }
                            None => true,
                        }
                    });
                    if list.is_empty() {
                        *value = Value::Null;
                    }
                }
            }
        }
    }

    /// Makes members of the declared fields that have members below them. Whether an object may be removed is decided
    /// with them; ownership is recorded without.
    pub(in crate::managedfields) fn with_named_fields(self, ty: Type, mut set: Set) -> Set {
        self.name_fields(Some(ty), &mut set);
        set
    }

    fn name_fields(self, ty: Option<Type>, set: &mut Set) {
        // the shape is that of a map or list whatever the value, or unknown
        let shape = ty.map(|ty| self.shape(ty, &Value::Null));
        set.modify(|element, member, children| {
            if children.is_empty() {
                return;
            }
            let child = match (&shape, element) {
                (Some(Shape::Map(map)), PathElement::Field(name)) => {
                    *member |= map.declares(name);
                    map.known(name)
                }
                (Some(Shape::List { item, .. }), PathElement::Key(_)) => Some(*item),
                _ => None,
            };
            self.name_fields(child, children);
        });
    }
}
