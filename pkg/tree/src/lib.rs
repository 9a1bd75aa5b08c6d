//! The dynamic object tree: JSON values that are cheap to copy, compare and change in part.
//!
//! A write decodes the stored object once, and the new object shares with the old one whatever it does not change: a copy
//! of a [`Value`] counts references, a change copies the maps and lists on the way to it and nothing else, and two trees
//! that share a part are equal there without being looked at ([`Value::shares`]). Small maps, which objects are
//! made of, are sorted vectors and a tenth of the size of `serde_json`'s trees, and the names of fields are shared by all
//! objects of a thread ([`Key`]).
//!
//! What is not looked at need not even be read: a map may be the text of its members until somebody asks for one of them
//! ([`Map::unread`]), and is written as that text as long as it has not been changed.
//!
//! The interface is `serde_json`'s, so that code reads the same; [`Map`] is sorted by key, which equals the order Go
//! prints maps in.

mod convert;
mod eq;
mod index;
mod key;
mod list;
mod map;
mod serde_impl;
#[cfg(test)]
mod tests;
pub mod text;
mod unread;
mod value;

pub use convert::{from_value, to_value};
pub use index::Index;
pub use key::{Key, name_hash, same_name};
pub use list::List;
pub use map::{Entry, IntoIter, Iter, IterMut, Map};
pub use serde_json::Number;
pub use unread::Read;
pub use value::Value;

#[doc(hidden)]
pub use serde_json as __serde_json;

/// A [`Value`] written as JSON, with expressions in it, as `serde_json::json!`.
#[macro_export]
macro_rules! json {
    ($($tokens:tt)+) => {
        $crate::Value::from($crate::__serde_json::json!($($tokens)+))
    };
}
