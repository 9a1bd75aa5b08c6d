//! Digests: ETags, document hashes and storage version hashes.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, SHA512_256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of SHA-256 in a storage version hash.
const STORAGE_VERSION_HASH_BYTES: usize = 8;

/// SHA-512/256 in upper-case hexadecimal, as upstream's OpenAPI hashes look.
pub(crate) fn hex(bytes: &[u8]) -> String {
    digest(&SHA512_256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// The `storageVersionHash` of discovery.
pub(crate) fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let text = format!("{group}/{version}/{kind}");
    STANDARD.encode(&digest(&SHA256, text.as_bytes()).as_ref()[..STORAGE_VERSION_HASH_BYTES])
}

#[cfg(test)]
mod tests {
    #[test]
    fn storage_version_hashes_are_upstreams() {
        assert_eq!(super::storage_version_hash("", "v1", "Pod"), "xPOwRZ+Yhw8=");
        assert_eq!(super::storage_version_hash("apps", "v1", "Deployment"), "8aSe+NMegvE=");
    }
}
