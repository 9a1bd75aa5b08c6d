//! Controllers about nodes: their health and taints, eviction from tainted nodes, pod address ranges.

mod ipam;
mod lifecycle;
mod tainteviction;
mod taints;
mod ttl;

pub(crate) use ipam::start as start_ipam;
pub(crate) use lifecycle::start as start_lifecycle;
pub(crate) use tainteviction::start as start_taint_eviction;
pub(crate) use ttl::start as start_ttl;
