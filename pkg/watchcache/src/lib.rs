//! The watch cache: one ordered snapshot of a resource that serves gets, lists and watches.
