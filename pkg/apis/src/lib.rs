//! The built-in kinds: descriptors, schemas, defaulting, validation, conversion, table columns.
//!
//! [`schema`] is the arena of all built-in types, [`catalog`] finds definitions and kinds in it. Both are made from
//! the facts in `api/` on first use.

mod catalog;
mod data;

pub use catalog::{Catalog, DataError, Definition, Union, catalog, schema};
