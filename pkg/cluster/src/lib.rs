//! A cluster on one machine: nodes as network namespaces, start, status and removal.
