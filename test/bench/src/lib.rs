//! Benchmarks of the running cluster and of hot paths.
