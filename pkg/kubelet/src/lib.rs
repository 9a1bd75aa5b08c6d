//! The node agent: pod workers over CRI, volumes, probes, status, streaming endpoints.
//!
//! What decides is pure and stands apart: [`decide`] (next step for a pod), [`status`] (what the API shows),
//! [`restart`], [`backoff`], [`resources`]. What acts goes through the runtime, the file system and the API.

pub mod backoff;
pub mod decide;
pub mod names;
pub mod podutil;
pub mod resources;
pub mod restart;
pub mod runtime;
pub mod status;
