//! Objects without knowledge of any kind.
//!
//! Everything here works on the dynamic tree ([`Value`]) and a [`schema::Schema`]; nothing knows what a Pod is,
//! and nothing does I/O, reads a clock or speaks HTTP. Built-in kinds (crate `apis`) and custom resources hand in
//! [`descriptor::ResourceDescriptor`]s and differ in nothing else.
//!
//! Where to start: [`descriptor`] (what a resource is), [`schema`] (what an object looks like),
//! [`status`] (how every failure reaches a client). A body becomes an object by [`decode`], gets its defaults and the form
//! it is stored in by [`default`](mod@default), and leaves as JSON, by [`yaml`] or by [`protobuf`].

pub mod amounts;
pub mod coerce;
pub mod decode;
pub mod default;
pub mod descriptor;
pub mod gotime;
pub mod json;
pub mod jsonpath;
mod known;
pub mod managedfields;
pub mod meta;
pub mod names;
pub mod objectmeta;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selectors;
pub mod status;
pub mod strategy;
pub mod strict;
pub mod table;
#[cfg(test)]
mod testing;
pub mod validation;
pub mod yaml;

/// The dynamic object tree. Maps are sorted by key, which equals the order Go prints maps in.
pub use tree::{Key, List, Map, Number, Value, from_value, json, text, to_value};
