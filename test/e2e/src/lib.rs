//! End-to-end tests: real kubectl, real containerd, nodes in network namespaces.
//!
//! The topics are in `tests/e2e/`, one file each; this library is what they stand on. A topic is a function that takes a
//! [`Context`] (a running three-node cluster and a Kubernetes namespace of its own) and fails with an error that says
//! what was expected and what was there. Nothing sleeps for a fixed time: whatever needs time is waited for with
//! [`wait::eventually`] and a deadline.
//!
//! Variables of the environment say what is tested, and all are required: `KUBEWRIGHT` (the all-in-one binary),
//! `KUBECTL` and `KUBECTL_NEXT` (upstream's, of our version and of the next), `IMAGES` (a directory with `busybox.tar`
//! and `testserver.tar`, made by `make images`).

pub mod cluster;
pub mod kubectl;
pub mod process;
pub mod runner;
pub mod settings;
pub mod wait;

pub use cluster::{Cluster, Storage};
pub use kubectl::Kubectl;
pub use runner::{Context, Topic};
pub use wait::{LONG, SHORT, eventually};

/// Image with a shell and the usual programs.
pub const BUSYBOX: &str = "kubewright.test/busybox:1";
/// Image whose entry point is the test server; it has the shell and the programs too.
pub const TESTSERVER: &str = "kubewright.test/testserver:1";
