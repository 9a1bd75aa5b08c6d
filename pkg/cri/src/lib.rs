//! The container runtime interface (CRI v1) as the kubelet uses it.
//!
//! A thin wrapper: the messages are the CRI's own ([`api`]), what is added is one connection over a unix socket
//! that re-connects by itself, a time limit on every call, a message size limit, and typed errors whose text is
//! what other kubelets print (`rpc error: code = NotFound desc = ...`), because it reaches users in events.
//!
//! Specification: `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`.

mod client;
mod error;
pub mod metrics;

pub use client::{Runtime, RuntimeCondition, RuntimeInfo, Timeouts};
pub use error::Error;
/// The messages of `runtime.v1`.
pub use k8s_cri::v1 as api;

/// Result of a runtime call.
pub type Result<T> = std::result::Result<T, Error>;
