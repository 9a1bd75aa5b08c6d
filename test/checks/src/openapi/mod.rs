//! The published OpenAPI v2 document against a reference: every fact of one is looked up in the other.
//!
//! Differences that are meant are declared with their reason in `openapi-differences.txt`; every other one fails, and so
//! does a declaration that nothing needs any more.

mod facts;
mod rules;

pub use facts::{Class, Difference, Facts, How};
pub use rules::{Rule, RuleError, Rules};

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use apimachinery::Value;

/// Largest reference document, decompressed.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// The declared differences.
const DECLARED: &str = include_str!("../../openapi-differences.txt");

/// The declared differences, compiled in.
pub fn declared() -> Result<Rules, RuleError> {
    Rules::parse(DECLARED)
}

/// Reads a document: JSON, plain or compressed by gzip.
pub fn read(path: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let mut text = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(&*bytes).take(MAX_DOCUMENT_BYTES).read_to_end(&mut text)?;
    } else {
        text = bytes;
    }
    serde_json::from_slice(&text).with_context(|| format!("{}: no OpenAPI document", path.display()))
}
