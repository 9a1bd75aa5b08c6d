//! The node agent: pod workers over CRI, volumes, probes, status, streaming endpoints.
//!
//! What decides is pure and stands apart: [`decide`] (next step for a pod), [`status`] (what the API shows),
//! [`restart`], [`backoff`], [`resources`], [`env`], [`network`], [`security`], [`sandbox`], [`container`]. What acts
//! goes through the runtime, the file system and the API.

pub mod backoff;
pub mod config;
pub mod container;
pub mod decide;
pub mod env;
pub mod names;
pub mod network;
pub mod objects;
pub mod podutil;
pub mod resources;
pub mod restart;
pub mod runtime;
pub mod sandbox;
pub mod security;
pub mod status;
pub mod volumes;

pub use config::{Config, Flags, KubeletConfiguration};
