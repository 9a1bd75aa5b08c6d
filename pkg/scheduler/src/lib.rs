//! The scheduler: framework, plugins, queue and node snapshot.
