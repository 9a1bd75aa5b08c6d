//! The ordered admission chain and its built-in plugins.
