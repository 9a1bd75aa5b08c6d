//! The controllers, one module each: pure decisions, thin effects.
//!
//! A controller is a set of informers whose handlers put keys into a queue, and workers that take keys and make the
//! world match them. What has to be done is a pure function of what the informers hold (`decide` and the like); a
//! worker carries it out and reports it in events and conditions. Names, messages and defaults are upstream's.
//!
//! Start at [`run`] and `manager::CONTROLLERS`.

pub mod config;

mod autoscaling;
mod bootstrap;
mod certificates;
mod clusterrole;
mod context;
mod cronjob;
mod daemon;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod expectations;
mod gc;
mod hash;
mod job;
mod manager;
mod namespace;
mod namespaced_default;
mod nodematch;
mod nodes;
mod owner;
mod podcontrol;
mod podgc;
mod pods;
mod quota;
mod replicas;
mod resources;
mod revisions;
mod service_cidr;
mod stateful;
#[cfg(test)]
mod testing;
mod tokens;
mod ttl_after_finished;
mod volumes;

pub use config::Config;
pub use manager::{Error, known_controllers, run};
