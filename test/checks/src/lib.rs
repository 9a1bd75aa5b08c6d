//! Checks of the whole API, each a program that prints what is wrong and closes with `N passed, N failed`:
//!
//! - `openapi-diff`: the published OpenAPI v2 document against a reference ([`openapi`]).

pub mod openapi;
