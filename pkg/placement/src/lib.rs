//! Where pods and volumes may go: what scheduler and controllers must judge alike. Pure.
//!
//! - [`nodes`]: node selectors, node affinity, tolerations.
//! - [`volumes`]: which volume suits which claim, and on which nodes it can be used.

pub mod nodes;
pub mod volumes;
