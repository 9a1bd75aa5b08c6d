//! What the separate control plane processes (kube-controller-manager, kube-scheduler) share beyond crate `component`:
//! a port secured by asking the API server who may read it, and the flags of leader election.

pub mod election;
mod identity;
pub mod serving;
