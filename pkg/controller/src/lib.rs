//! The controllers, one module each: pure decisions, thin effects.
