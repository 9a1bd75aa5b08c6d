//! What is kept of an object besides its JSON: other encodings and its tree, while somebody uses them and the budget of
//! the cache allows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use apimachinery::Value;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::object::StoredObject;

/// Bytes that may be kept in encodings, over a whole cache.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit) }
    }

    /// Allows so many bytes from now on; what is kept stays.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self, bytes: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                Some(used + bytes).filter(|sum| *sum <= limit)
            })
            .is_ok()
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// [`Budget::take`] for another form of an object, which may cost the object one it has: what clients ask for
    /// changes, and what they asked for before must not keep them from what they ask for now.
    pub(crate) fn take_for(&self, slots: &Slots, bytes: usize) -> bool {
        if self.take(bytes) {
            return true;
        }
        match slots.drop_oldest() {
            0 => false,
            dropped => {
                self.give(dropped);
                self.take(bytes)
            }
        }
    }
}

/// Encoded forms by number; most objects have none.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<Vec<Slot>>);

#[derive(Debug)]
struct Slot {
    id: u32,
    used: bool,
    form: Form,
    /// What it counts for in the budget.
    bytes: usize,
}

/// A form of an object.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    /// An encoding.
    Bytes(Bytes),
    /// The decoded tree, or a part of it.
    Tree(Value),
    /// An encoding of several objects, the first of which has it. Where the others are in memory tells whether it is still
    /// theirs; they are held weakly so that no place is used again meanwhile.
    Run(Arc<[Weak<StoredObject>]>, Bytes),
}

/// About the bytes a tree takes.
pub(crate) fn size_of(tree: &Value) -> usize {
    /// A key and a value; vectors and counters besides.
    const MEMBER: usize = 48;
    MEMBER
        + match tree {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(size_of).sum(),
            Value::Object(members) => members.values().map(size_of).sum(),
            _ => 0,
        }
}

impl Slots {
    /// The encoding of a number.
    pub(crate) fn get(&self, id: u32) -> Option<Bytes> {
        match self.form(id)? {
            Form::Bytes(bytes) => Some(bytes),
            Form::Tree(_) | Form::Run(..) => None,
        }
    }

    /// The tree of a number.
    pub(crate) fn tree(&self, id: u32) -> Option<Value> {
        match self.form(id)? {
            Form::Tree(tree) => Some(tree),
            Form::Bytes(_) | Form::Run(..) => None,
        }
    }

    /// The encoding of a number, if it is one of just these objects.
    pub(crate) fn run(&self, id: u32, run: &[Arc<StoredObject>]) -> Option<Bytes> {
        match self.form(id)? {
            Form::Run(of, bytes) => {
                let same = of.len() == run.len()
                    && of.iter().zip(run).all(|(of, object)| of.as_ptr() == Arc::as_ptr(object));
                same.then_some(bytes)
            }
            Form::Bytes(_) | Form::Tree(_) => None,
        }
    }

    fn form(&self, id: u32) -> Option<Form> {
        let mut slots = self.0.lock();
        let at = slots.iter().position(|s| s.id == id)?;
        // what was used last comes last
        slots[at..].rotate_left(1);
        let slot = slots.last_mut()?;
        slot.used = true;
        Some(slot.form.clone())
    }

    /// Drops what has not been used for the longest time; answers how many bytes, 0 when there is nothing.
    pub(crate) fn drop_oldest(&self) -> usize {
        let mut slots = self.0.lock();
        if slots.is_empty() { 0 } else { slots.remove(0).bytes }
    }

    /// `false` when another was faster.
    pub(crate) fn put(&self, id: u32, bytes: &Bytes) -> bool {
        self.put_form(id, Form::Bytes(bytes.clone()), bytes.len())
    }

    /// As [`Slots::put`], for a tree that counts for so many bytes.
    pub(crate) fn put_tree(&self, id: u32, tree: &Value, bytes: usize) -> bool {
        self.put_form(id, Form::Tree(tree.clone()), bytes)
    }

    /// As [`Slots::put`], for an encoding of several objects that counts for so many bytes.
    pub(crate) fn put_run(&self, id: u32, run: &[Arc<StoredObject>], encoded: &Bytes, bytes: usize) -> bool {
        let run = run.iter().map(Arc::downgrade).collect();
        self.put_form(id, Form::Run(run, encoded.clone()), bytes)
    }

    /// Drops the form of a number; answers how many bytes.
    pub(crate) fn remove(&self, id: u32) -> usize {
        let mut slots = self.0.lock();
        match slots.iter().position(|s| s.id == id) {
            Some(at) => slots.remove(at).bytes,
            None => 0,
        }
    }

    fn put_form(&self, id: u32, form: Form, bytes: usize) -> bool {
        let mut slots = self.0.lock();
        let new = slots.iter().all(|s| s.id != id);
        if new {
            slots.push(Slot { id, used: true, form, bytes });
        }
        new
    }

    /// Drops what was not used since the last sweep; answers how many bytes.
    pub(crate) fn sweep(&self) -> usize {
        let mut slots = self.0.lock();
        let mut dropped = 0;
        slots.retain_mut(|slot| {
            let keep = std::mem::take(&mut slot.used);
            dropped += if keep { 0 } else { slot.bytes };
            keep
        });
        if slots.is_empty() {
            *slots = Vec::new();
        }
        dropped
    }

    /// Drops everything; answers how many bytes.
    pub(crate) fn clear(&self) -> usize {
        std::mem::take(&mut *self.0.lock()).iter().map(|slot| slot.bytes).sum()
    }
}
