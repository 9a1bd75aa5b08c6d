//! Field ownership: `metadata.managedFields` and server-side apply (KEP-555).
//!
//! Layers, none of which knows the one above it:
//!
//! | module | knows |
//! | --- | --- |
//! | [`fieldpath`] | paths, sets of them and their JSON form |
//! | `typed` | an object with its schema: which fields it has, how two differ, merging, removing |
//! | `entries` | the wire form of who owns what |
//! | `ownership` | who owns what after an update or apply |
//! | [`manager`] | what the server calls: [`on_update`] and [`on_apply`] |
//!
//! [`scale`] carries ownership between a resource and its `/scale`.
//!
//! Behaviour: `sigs.k8s.io/structured-merge-diff` v6 and `k8s.io/apimachinery/pkg/util/managedfields`.

mod entries;
pub mod fieldpath;
mod lastapplied;
#[cfg(test)]
mod laws;
pub mod manager;
mod ownership;
mod reset;
pub mod scale;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod typed;
mod validation;

pub use manager::{NoOtherVersions, Versions, Write, manager_name, on_apply, on_update};
pub use reset::ResetFields;
pub use validation::{ignore_timestamps, restore_if_invalid, validate, validate_manager};
