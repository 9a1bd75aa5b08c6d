//! The kube-apiserver binary: flags to configuration to run.

fn main() {}
