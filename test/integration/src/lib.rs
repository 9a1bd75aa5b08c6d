//! Integration tests: the API server in this process, no nodes.
