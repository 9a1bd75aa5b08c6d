//! The kubelet binary: flags to configuration to run.

fn main() {}
