//! The kube-controller-manager binary: flags to configuration to run.

fn main() {}
