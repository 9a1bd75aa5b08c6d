//! Field ownership: `metadata.managedFields` and server-side apply (KEP-555).
//!
//! Layers, none of which knows the one above it: [`fieldpath`] (paths, and sets of them), `typed` (an object with its
//! schema: which fields it has, how two differ, merging, removing), `merge` (who owns what after an update or apply),
//! `entries` (the wire form), [`manager`] (what the server calls: [`on_update`] and [`on_apply`]).
//!
//! Behaviour: `sigs.k8s.io/structured-merge-diff` v6 and `k8s.io/apimachinery/pkg/util/managedfields`.

pub mod fieldpath;
pub mod manager;

pub use manager::{
    NoOtherVersions, ResetFields, Versions, Write, ignore_timestamps, manager_name, on_apply, on_update,
    restore_if_invalid, validate,
};
