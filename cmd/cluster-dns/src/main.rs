//! The cluster-dns binary: flags to configuration to run.

fn main() {}
