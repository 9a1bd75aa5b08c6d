//! Keeping recorded sets true to a schema that has changed since.

use super::{Shape, Type, Typed};
use crate::Value;
use crate::managedfields::fieldpath::{PathElement, Set};

impl Typed<'_> {
    /// Who owned parts of what is atomic by now owns the whole of it. True when anything changed. The other way round
    /// nothing has to be done.
    pub(in crate::managedfields) fn reconcile(self, ty: Type, set: &mut Set) -> bool {
        // free-form types know no atomic parts worth following
        let Type::Node(_) = ty else { return false };
        let shape = self.shape(ty, &Value::Null);
        let child_type = |element: &PathElement| match (&shape, element) {
            (Shape::Map(map), PathElement::Field(name)) => map.known(name),
            (Shape::Map(map), _) => map.rest,
            (Shape::List { item, .. }, _) => Some(*item),
            (Shape::Leaf(_), _) => None,
        };
        let mut changed = false;
        set.modify(|element, member, children| {
            if children.is_empty() {
                return;
            }
            let Some(child @ Type::Node(_)) = child_type(element) else { return };
            match self.shape(child, &Value::Null) {
                Shape::Leaf(_) => {}
                shape if shape.is_leaf() && !self.is_free_form(child) => {
                    *member = true;
                    *children = Set::new();
                    changed = true;
                }
                _ => changed |= self.reconcile(child, children),
            }
        });
        changed
    }

    fn is_free_form(self, ty: Type) -> bool {
        match ty {
            Type::Node(id) => matches!(self.schema.node(id).kind, crate::schema::NodeKind::Raw),
            Type::Deduced | Type::Opaque => true,
        }
    }
}
