//! Checks of the whole API, each a program that prints what is wrong and closes with `N passed, N failed`:
//!
//! - `openapi-diff`: the published OpenAPI v2 document against a reference ([`openapi`]).
//! - `roundtrip`: every kind with every field set through every form ([`roundtrip`]).

pub mod openapi;
pub mod roundtrip;
