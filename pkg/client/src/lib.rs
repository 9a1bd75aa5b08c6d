//! Informers, work queues, leader election and event recording on kube's client.
//!
//! Contracts and names are client-go's (`tools/cache`, `util/workqueue`, `tools/leaderelection`, `tools/events`); the
//! insides are not. Each piece is a synchronous core that is told the time, and a thin driver that does the I/O.
//!
//! - [`InformerFactory`], [`Informer`], [`Store`]: one list and watch per kind, shared by everyone in the process.
//! - [`workqueue::WorkQueue`]: keyed work, each key at most once at a time, with per-key back-off.
//! - [`rest::Rest`]: calls on the dynamic tree, compiled once for all kinds.
//! - [`events::EventRecorder`], [`leaderelection`], [`config`], [`accounts`].

pub mod accounts;
pub mod backoff;
pub mod config;
pub mod error;
pub mod events;
pub mod informer;
pub mod leaderelection;
pub mod metrics;
pub mod rest;
pub mod workqueue;

mod reflector;
mod store;
mod strip;
mod wire;

pub use error::{is_already_exists, is_conflict, is_gone, is_namespace_terminating, is_not_found, status_of};
pub use informer::{Informer, InformerFactory, NotSynced, Selection};
pub use store::{Event, Store};
