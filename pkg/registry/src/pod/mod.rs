//! Pods: binding them to nodes and evicting them.

mod binding;
mod eviction;

pub(crate) use binding::Binding;
pub(crate) use eviction::Eviction;
