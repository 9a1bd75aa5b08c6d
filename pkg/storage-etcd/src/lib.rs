//! The storage contract over etcd v3.
//!
//! Requests go to etcd, with time limits; errors are told apart ([`storage::Error`]). Watches do not: one watch of etcd
//! feeds a [`storage::hub::Hub`] that all watches of this server read, over restarts of etcd and lost connections
//! without losing a change. Semantics: etcd's API guarantees, <https://etcd.io/docs/latest/learning/api_guarantees/>.

mod config;
mod convert;
mod engine;
mod feed;
mod flights;
mod past;

pub use config::Config;
pub use engine::Etcd;
