//! Merging an applied configuration into an object.

use std::collections::{BTreeMap, BTreeSet};

use super::{Identity, Shape, Type, Typed, entries, items};
use crate::Value;
use crate::managedfields::fieldpath::PathElement;

impl Typed<'_> {
    /// Merges `config` into `object`, both of type `ty`: nothing is removed, of leaves in both the config's is taken,
    /// and the items of lists that the config names follow its order. `config` is valid (see `validate`).
    pub(in crate::managedfields) fn merge(self, ty: Type, object: &mut Value, config: &Value) {
        let shape = self.shape(ty, config);
        if shape.is_leaf() {
            object.clone_from(config);
            return;
        }
        match (shape, object) {
            // null or {} or [] asks for nothing to be there, which is not for an apply to decide
            (Shape::Map(_), Value::Object(old)) if !old.is_empty() && entries(config).is_none() => {}
            (Shape::List { .. }, Value::Array(old)) if !old.is_empty() && items(config).is_none() => {}
            (Shape::Map(map), Value::Object(old)) if !old.is_empty() => {
                for (key, value) in entries(config).into_iter().flatten() {
                    match old.get_mut(key) {
                        Some(old) => self.merge(map.child(key), old, value),
                        None => {
                            old.insert(key.clone(), value.clone());
                        }
                    }
                }
            }
            (Shape::List { item, identity }, Value::Array(old)) if !old.is_empty() => {
                let new = items(config).unwrap_or_default();
                *old = self.merge_lists(item, identity, std::mem::take(old), new).into();
            }
            (_, object) => object.clone_from(config),
        }
    }

    /// The merged list: items of the object keep their places relative to each other, items of the config theirs;
    /// where both would have a shared item elsewhere, the config's place is taken.
    fn merge_lists(self, item: Type, identity: Identity<'_>, old: Vec<Value>, new: &[Value]) -> Vec<Value> {
        let element = |value: &Value| self.element(item, identity, value).ok();
        let new: Vec<(PathElement, &Value)> = new.iter().filter_map(|v| Some((element(v)?, v))).collect();
        let mut old: Vec<(PathElement, Option<Value>)> =
            old.into_iter().filter_map(|v| Some((element(&v)?, Some(v)))).collect();

        // where the object has an element; None for one it has several times, which is not merged but replaced
        let mut old_at: BTreeMap<PathElement, Option<usize>> = BTreeMap::new();
        for (at, (element, _)) in old.iter().enumerate() {
            old_at.entry(element.clone()).and_modify(|known| *known = None).or_insert(Some(at));
        }
        let in_new: BTreeSet<&PathElement> = new.iter().map(|(element, _)| element).collect();

        let mut merged = Vec::with_capacity(old.len().max(new.len()));
        let mut done: BTreeSet<&PathElement> = BTreeSet::new();
        let mut shared = new.iter().map(|(element, _)| element).filter(|e| old_at.contains_key(e)).peekable();
        let (mut o, mut n) = (0, 0);
        while o < old.len() || n < new.len() {
            if let (Some((ours, _)), Some((theirs, value))) = (old.get(o), new.get(n)) {
                if ours == theirs {
                    let at = old_at.get(theirs).copied().flatten();
                    merged.push(self.merge_item(item, at.and_then(|at| old[at].1.take()), value));
                    done.insert(theirs);
                    shared.next();
                    o += 1;
                    n += 1;
                    continue;
                }
                // shared, but not the one to come next: its turn comes with the config's item
                if in_new.contains(ours) && shared.peek().is_some_and(|next| *next != ours) {
                    o += 1;
                    continue;
                }
            }
            if let Some((ours, value)) = old.get_mut(o) {
                if !in_new.contains(ours) {
                    merged.extend(value.take());
                    o += 1;
                    continue;
                }
                if done.contains(ours) {
                    o += 1;
                }
            }
            if let Some((theirs, value)) = new.get(n) {
                let at = old_at.get(theirs).copied().flatten();
                merged.push(self.merge_item(item, at.and_then(|at| old[at].1.take()), value));
                done.insert(theirs);
                if shared.peek() == Some(&theirs) {
                    shared.next();
                }
                n += 1;
            }
        }
        merged
    }

    fn merge_item(self, item: Type, old: Option<Value>, new: &Value) -> Value {
        match old {
            Some(mut old) => {
                self.merge(item, &mut old, new);
                old
            }
            None => new.clone(),
        }
    }
}
