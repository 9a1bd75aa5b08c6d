//! The documents by which others can check our tokens: issuer discovery (OpenID Connect Discovery 1.0) and the key set
//! (RFC 7517). Source: KEP-1393.

use apimachinery::{Value, json};

use super::keys::PublicKey;

/// Path of the discovery document.
pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Path of the key set.
pub const JWKS_PATH: &str = "/openid/v1/jwks";
/// Media type of the key set.
pub const JWKS_MEDIA_TYPE: &str = "application/jwk-set+json";
/// `Cache-Control` of both documents.
pub const CACHE_CONTROL: &str = "public, max-age=3600";

/// The discovery document.
pub fn configuration(issuer: &str, jwks_uri: &str, keys: &[PublicKey]) -> Value {
    let mut algorithms: Vec<&str> = keys.iter().map(|k| k.algorithm.as_str()).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

/// The key set.
pub fn jwks(keys: &[PublicKey]) -> Value {
    json!({"keys": keys.iter().map(PublicKey::jwk).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::ec_key;
    use super::*;

    #[test]
    fn documents_list_every_key() {
        let keys = [ec_key().public().clone(), ec_key().public().clone()];
        let set = jwks(&keys);
        assert_eq!(set["keys"][1]["kid"], keys[1].id);
        assert_eq!(set["keys"][0]["crv"], "P-256");
        let document = configuration("https://i", "https://i/openid/v1/jwks", &keys);
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    }
}
