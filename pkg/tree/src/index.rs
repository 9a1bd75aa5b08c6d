//! What a [`Value`] can be indexed by: keys of objects, indices of arrays.

use crate::{Key, Map, Value};

/// A key (of an object) or an index (of an array).
pub trait Index {
    /// The value there.
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value>;
    /// The value there, to be changed.
    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value>;
    /// The value there, made where an object has none.
    ///
    /// # Panics
    /// Where there can be none: what is indexed is of another type, or the array is shorter.
    fn find_or_insert<'v>(&self, value: &'v mut Value) -> &'v mut Value;
}

impl Index for str {
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_object()?.get(self)
    }
    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_object_mut()?.get_mut(self)
    }
    fn find_or_insert<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(map) => map.entry(self).or_insert(Value::Null),
            other => panic!("cannot access key {self:?} of {other}"),
        }
    }
}

impl Index for usize {
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_array()?.get(*self)
    }
    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_array_mut()?.get_mut(*self)
    }
    fn find_or_insert<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        match value {
            Value::Array(items) => &mut items[*self],
            other => panic!("cannot access index {self} of {other}"),
        }
    }
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Index for $kind {
            fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
                <str as Index>::find(self.as_str(), value)
            }
            fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
                self.as_str().find_mut(value)
            }
            fn find_or_insert<'v>(&self, value: &'v mut Value) -> &'v mut Value {
                self.as_str().find_or_insert(value)
            }
        }
    )*};
}
as_text!(String, Key);

impl<I: Index + ?Sized> Index for &I {
    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        (**self).find(value)
    }
    fn find_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        (**self).find_mut(value)
    }
    fn find_or_insert<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        (**self).find_or_insert(value)
    }
}

impl<I: Index> std::ops::Index<I> for Value {
    type Output = Value;
    /// `null` where there is nothing.
    fn index(&self, index: I) -> &Value {
        static NULL: Value = Value::Null;
        index.find(self).unwrap_or(&NULL)
    }
}

impl<I: Index> std::ops::IndexMut<I> for Value {
    fn index_mut(&mut self, index: I) -> &mut Value {
        index.find_or_insert(self)
    }
}
