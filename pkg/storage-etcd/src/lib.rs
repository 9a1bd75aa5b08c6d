//! The storage contract over etcd v3.
