//! Keeping recorded sets true to a schema that has changed since.

use super::{Shape, Type, Typed};
use crate::Value;
use crate::managedfields::fieldpath::{PathElement, Recorded, Set, has_elements};

impl Typed<'_> {
    /// [`Typed::reconcile`] would change nothing of what was recorded.
    pub(in crate::managedfields) fn is_reconciled(self, ty: Type, recorded: Recorded<'_>) -> bool {
        let Type::Node(node) = ty else { return true };
        let known = &self.schema.reconciled;
        let mark = recorded.mark().map(|mark| mark.with(node.0));
        if mark.is_some_and(|mark| known.has(mark)) {
            return true;
        }
        let reconciled = self.are_reconciled(ty, recorded.tree());
        if let (true, Some(mark)) = (reconciled, mark) {
            known.add(mark);
        }
        reconciled
    }

    fn are_reconciled(self, ty: Type, fields: &Value) -> bool {
        let Type::Node(_) = ty else { return true };
        let shape = self.shape(ty, &Value::Null);
        fields.as_object().into_iter().flatten().all(|(key, below)| {
            if key == "." || !below.as_object().is_some_and(has_elements) {
                return true;
            }
            let child = match (&shape, key.strip_prefix("f:")) {
                (Shape::Map(map), Some(name)) => map.known(name),
                (Shape::Map(map), None) => map.rest,
                (Shape::List { item, .. }, _) => Some(*item),
                (Shape::Leaf(_), _) => None,
            };
            let Some(child @ Type::Node(_)) = child else { return true };
            match self.shape(child, &Value::Null) {
                Shape::Leaf(_) => true,
                shape if shape.is_leaf() && !self.is_free_form(child) => false,
                _ => self.are_reconciled(child, below),
            }
        })
    }

    /// Who owned parts of what is atomic by now owns the whole of it. The other way round nothing has to be done.
    pub(in crate::managedfields) fn reconcile(self, ty: Type, set: &mut Set) {
        // free-form types know no atomic parts worth following
        let Type::Node(_) = ty else { return };
        let shape = self.shape(ty, &Value::Null);
        let child_type = |element: &PathElement| match (&shape, element) {
            (Shape::Map(map), PathElement::Field(name)) => map.known(name),
            (Shape::Map(map), _) => map.rest,
            (Shape::List { item, .. }, _) => Some(*item),
            (Shape::Leaf(_), _) => None,
        };
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
                }
                _ => self.reconcile(child, children),
            }
        });
    }

    fn is_free_form(self, ty: Type) -> bool {
        match ty {
            Type::Node(id) => matches!(self.schema.node(id).kind, crate::schema::NodeKind::Raw),
            Type::Deduced | Type::Opaque => true,
        }
    }
}
