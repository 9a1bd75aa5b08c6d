//! How two objects differ.

use std::collections::BTreeMap;

use super::{Identity, MAX_OWNED_DEPTH, MapShape, Shape, Type, Typed, entries, items};
use crate::managedfields::fieldpath::{PathElement, Set};
use crate::patch::equal;
use crate::{Map, Value};

/// The difference between two objects. No path is in two of the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::managedfields) struct Diff {
    /// In the first only.
    pub(in crate::managedfields) removed: Set,
    /// In both, with different values.
    pub(in crate::managedfields) modified: Set,
    /// In the second only.
    pub(in crate::managedfields) added: Set,
}

/// What happened to a value itself, as opposed to what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Removed,
    Modified,
    Kept,
}

impl Diff {
    fn push(&mut self, element: PathElement, change: Change, below: Diff) {
        self.removed.push(element.clone(), change == Change::Removed, below.removed);
        self.modified.push(element.clone(), change == Change::Modified, below.modified);
        self.added.push(element, change == Change::Added, below.added);
    }

    /// Changes below the depth that is owned are modifications of what is.
    fn limited(self) -> Self {
        let modified = self.modified.limited(MAX_OWNED_DEPTH);
        let (removed, added) = (self.removed.limited(MAX_OWNED_DEPTH), self.added.limited(MAX_OWNED_DEPTH));
        Self { removed: removed.difference(&modified), added: added.difference(&modified), modified }
    }

    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }
}

impl Typed<'_> {
    /// What `new` changes of `old`, both of type `ty`.
    pub(in crate::managedfields) fn compare(self, ty: Type, old: &Value, new: &Value) -> Diff {
        let mut diff = Diff::default();
        self.differ(ty, Some(old), Some(new), &mut diff);
        diff.limited()
    }

    fn differ(self, ty: Type, old: Option<&Value>, new: Option<&Value>, below: &mut Diff) -> Change {
        let mut leaf = false;
        match (old, new) {
            (None, None) => return Change::Kept,
            (Some(old), Some(new)) if old.shares(new) => return Change::Kept,
            (Some(value), None) | (None, Some(value)) => {
                self.differ_as(self.shape(ty, value), old, new, below);
            }
            (Some(old_value), Some(new_value)) => {
                let shape = self.shape(ty, new_value);
                // only values without schema can change their shape; each side then counts as far as it goes
                let was = self.shape(ty, old_value);
                if std::mem::discriminant(&was) != std::mem::discriminant(&shape) {
                    leaf |= self.differ_as(was, old, new, below);
                }
                leaf |= self.differ_as(shape, old, new, below);
            }
        }
        match (old, new) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (Some(old), Some(new)) if leaf && !equal(old, new) => Change::Modified,
            _ => Change::Kept,
        }
    }

    /// Fills in what is below; true when the two are leaves in this shape.
    fn differ_as(self, shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>, below: &mut Diff) -> bool {
        if shape.is_leaf() {
            return true;
        }
        match shape {
            Shape::Leaf(_) => true,
            Shape::Map(map) => match (old.and_then(entries), new.and_then(entries)) {
                // empty and null are told apart
                (None, None) => true,
                (old, new) => {
                    self.differ_maps(&map, old, new, below);
                    false
                }
            },
            Shape::List { item, identity } => match (old.and_then(items), new.and_then(items)) {
                (None, None) => true,
                (old, new) => {
                    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
                    if old != new {
                        self.differ_lists(item, identity, old, new, below);
                    }
                    false
                }
            },
        }
    }

    fn differ_maps(self, shape: &MapShape<'_>, old: Option<&Map>, new: Option<&Map>, below: &mut Diff) {
        let mut old = old.into_iter().flatten().peekable();
        let mut new = new.into_iter().flatten().peekable();
        loop {
            // both are sorted by key
            let key = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some((key, _)), None) | (None, Some((key, _))) => *key,
                (Some((a, _)), Some((b, _))) => *a.min(b),
            };
            let old_value = old.next_if(|(k, _)| *k == key).map(|(_, value)| value);
            let new_value = new.next_if(|(k, _)| *k == key).map(|(_, value)| value);
            let mut children = Diff::default();
            let change = self.differ(shape.child(key), old_value, new_value, &mut children);
            if change != Change::Kept || !children.is_empty() {
                below.push(PathElement::field(key), change, children);
            }
        }
    }

    fn differ_lists(
        self,
        item: Type,
        identity: Identity<'_>,
        old: &[Value],
        new: &[Value],
        below: &mut Diff,
    ) {
        let mut by_element: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for value in old {
            if let Ok(element) = self.element(item, identity, value) {
                by_element.entry(element).or_default().0.push(value);
            }
        }
        for value in new {
            if let Ok(element) = self.element(item, identity, value) {
                by_element.entry(element).or_default().1.push(value);
            }
        }
        for (element, (old, new)) in by_element {
            let mut children = Diff::default();
            // items that occur several times are compared as one field
            let change = match (old.len(), new.len()) {
                (0 | 1, 0 | 1) => {
                    self.differ(item, old.first().copied(), new.first().copied(), &mut children)
                }
                (2.., 2..) => {
                    let same = old.len() == new.len() && old.iter().zip(&new).all(|(a, b)| equal(a, b));
                    if same { Change::Kept } else { Change::Modified }
                }
                (2.., _) => {
                    let now = self.differ(item, None, new.first().copied(), &mut children);
                    // the marker of the duplicates goes, and the single item takes its place
                    if now == Change::Added {
                        children.added = marked(children.added, &mut below.added, &element);
                    }
                    Change::Removed
                }
                (_, 2..) => {
                    let was = self.differ(item, old.first().copied(), None, &mut children);
                    if was == Change::Removed {
                        children.removed = marked(children.removed, &mut below.removed, &element);
                    }
                    Change::Added
                }
            };
            if change != Change::Kept || !children.is_empty() {
                below.push(element, change, children);
            }
        }
    }
}

/// Enters an element as a member with what is below it, for the rare element that is both added and removed; nothing is
/// left to enter.
fn marked(below: Set, into: &mut Set, element: &PathElement) -> Set {
    into.push(element.clone(), true, below);
    Set::new()
}
