//! The kube-scheduler binary: flags to configuration to run.

fn main() {}
