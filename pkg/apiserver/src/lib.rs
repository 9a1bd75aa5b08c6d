//! The generic API server: filters, endpoints, discovery, OpenAPI, watch.
