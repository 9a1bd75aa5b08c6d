//! The kube-proxy binary: flags to configuration to run.

fn main() {}
