//! Cluster DNS after the Kubernetes DNS specification, on hickory-dns.
