//! The node agent: pod workers over CRI, volumes, probes, status, streaming endpoints.
//!
//! What decides is pure and stands apart: [`decide`] (next step for a pod), [`status`] (what the API shows), [`admit`],
//! [`restart`], [`backoff`], [`resources`], [`env`], [`network`], [`security`], [`sandbox`], [`container`]. What acts
//! goes through the runtime, the file system and the API: [`pods`] is the main loop, [`worker`] one pod's task,
//! [`node`] the node in the API, `server` the kubelet's own API. [`run`] puts them together.

pub mod admit;
pub mod backoff;
pub mod cgroups;
pub mod check;
pub mod config;
pub mod container;
pub mod decide;
pub mod env;
pub mod eviction;
mod firewall;
pub mod host;
pub mod images;
pub mod kubelet;
pub mod logs;
mod metrics;
pub mod names;
pub mod network;
pub mod node;
pub mod objects;
pub mod pods;
pub mod podutil;
pub mod probes;
pub mod resize;
pub mod resources;
pub mod restart;
mod run;
pub mod runtime;
pub mod sandbox;
pub mod security;
mod server;
pub mod statics;
pub mod status;
pub mod statuses;
pub mod upkeep;
pub mod volumes;
pub mod volumestats;
pub mod worker;

pub use config::{Config, Flags, KubeletConfiguration};
pub use run::{Clients, Error, run};
