//! The scheduler: which node a pod runs on.
//!
//! Upstream's framework (KEP-624) with upstream's plug-in names, weights and messages, on a node snapshot that is kept up
//! to date change by change: a scheduling cycle looks at no object of the API, only at what was parsed when it changed.
//!
//! - [`pod`] and [`node`]: pods and nodes as plug-ins see them. [`cache`]: the snapshot, with assumed pods; [`volumes`] and
//!   [`workloads`] are parts of it.
//! - [`profile`]: which plug-ins with which [`args`]. [`framework`]: extension points. [`plugins`]: filters and scores.
//!   [`cycle`]: one decision, a pure function; [`preemption`] and [`nominated`]: making room, and keeping it.
//! - [`queue`]: who is next and who waits for what; told the time, so tests need no clock.
//! - [`run`]: informers in, bindings, events and conditions out.

pub mod args;
pub mod cache;
pub mod cycle;
pub mod framework;
pub mod node;
pub mod nominated;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod profile;
pub mod queue;
pub mod resources;
pub mod volumes;
pub mod workloads;

mod act;
mod informers;
mod metrics;
mod runner;
#[cfg(test)]
mod testing;

use std::time::Duration;

pub use profile::Profile;
pub use runner::run;

/// Name under which pods ask for this scheduler unless they say otherwise.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// How the scheduler runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Profiles; pods that name none of them are somebody else's.
    pub profiles: Vec<Profile>,
    /// First pause of a pod that could not be scheduled (`podInitialBackoffSeconds`).
    pub initial_backoff: Duration,
    /// Longest pause (`podMaxBackoffSeconds`).
    pub max_backoff: Duration,
    /// Seed of the random choice between equally good nodes; `None` takes one from the system.
    pub seed: Option<u64>,
    /// Where metrics are registered; `None` keeps them unread.
    pub metrics: Option<component::metrics::Metrics>,
    /// Informers to share with other parts of the process; its own when `None`. Who made them starts and ends them.
    pub informers: Option<client::InformerFactory>,
}

impl Default for Config {
    /// Upstream's defaults.
    fn default() -> Self {
        Self {
            profiles: vec![Profile::named(DEFAULT_SCHEDULER)],
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            seed: None,
            metrics: None,
            informers: None,
        }
    }
}

/// Why the scheduler could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The first lists did not arrive before shutdown.
    #[error("shut down before the cluster was known")]
    NotSynced,
    /// A profile cannot be used.
    #[error(transparent)]
    Profile(#[from] profile::ProfileError),
}
