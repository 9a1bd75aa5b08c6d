//! End-to-end tests: real kubectl, real containerd, nodes in network namespaces.
