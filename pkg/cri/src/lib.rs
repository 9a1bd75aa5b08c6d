//! The container runtime interface (CRI v1) as the kubelet uses it.
