//! Signing and verification keys: RSA (RS256) and ECDSA (ES256, ES384, ES512), from PEM.
//! Key identifiers follow upstream: SHA-256 over the DER of the public key, base64url without padding.

use apimachinery::{Value, json};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::cache::sha256;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file is no PEM.
    #[error("not a PEM file: {0}")]
    Pem(String),
    /// The file holds no key of the wanted kind.
    #[error("data does not contain any valid RSA or ECDSA {0} keys")]
    None(&'static str),
    /// The key is of a kind or size that tokens do not use.
    #[error("unsupported key: {0}")]
    Unsupported(String),
    /// Signing failed.
    #[error("cannot sign")]
    Sign,
}

/// A JWS algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// P-256 with SHA-256.
    Es256,
    /// P-384 with SHA-384.
    Es384,
    /// P-521 with SHA-512.
    Es512,
}

impl Algorithm {
    /// As in a token's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    /// The curve's name in a JWK and its coordinates' length, for ECDSA.
    const fn curve(self) -> Option<(&'static str, usize)> {
        match self {
            Self::Rs256 => None,
            Self::Es256 => Some(("P-256", 32)),
            Self::Es384 => Some(("P-384", 48)),
            Self::Es512 => Some(("P-521", 66)),
        }
    }

    fn ecdsa_signing(self) -> Option<&'static EcdsaSigningAlgorithm> {
        match self {
            Self::Rs256 => None,
            Self::Es256 => Some(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::Es384 => Some(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::Es512 => Some(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
        }
    }

    fn verification(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

const ECDSA: [Algorithm; 3] = [Algorithm::Es256, Algorithm::Es384, Algorithm::Es512];

/// A key that tokens are checked with.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// Identifier, as in tokens' headers.
    pub id: String,
    /// The algorithm it is used with.
    pub algorithm: Algorithm,
    /// What the signature library takes: PKCS #1 for RSA, the point for ECDSA.
    bytes: Vec<u8>,
    jwk: Value,
}

impl PublicKey {
    /// From a DER `SubjectPublicKeyInfo`.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let unsupported = |what: &str| KeyError::Unsupported(what.to_owned());
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|e| unsupported(&e.to_string()))?;
        let bytes = info.subject_public_key.data.to_vec();
        let id = URL_SAFE_NO_PAD.encode(sha256(der));
        let parsed = info.parsed().map_err(|e| unsupported(&e.to_string()))?;
        let (algorithm, mut jwk) = match parsed {
            Parsed::RSA(rsa) => {
                let number = |bytes: &[u8]| {
                    let zeros = bytes.iter().take_while(|b| **b == 0).count();
                    URL_SAFE_NO_PAD.encode(&bytes[zeros..])
                };
                (Algorithm::Rs256, json!({"kty": "RSA", "n": number(rsa.modulus), "e": number(rsa.exponent)}))
            }
            Parsed::EC(point) => {
                // uncompressed: 0x04, x, y
                let coordinates = point.data().get(1..).unwrap_or_default();
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                let algorithm = ECDSA
                    .into_iter()
                    .find(|a| a.curve().is_some_and(|(_, size)| size == x.len() && size == y.len()))
                    .ok_or_else(|| unsupported("unknown curve"))?;
                let curve = algorithm.curve().map_or("", |(name, _)| name);
                (
                    algorithm,
                    json!({"kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}),
                )
            }
            _ => return Err(unsupported("neither RSA nor ECDSA")),
        };
        jwk["use"] = json!("sig");
        jwk["kid"] = json!(id);
        jwk["alg"] = json!(algorithm.as_str());
        Ok(Self { id, algorithm, bytes, jwk })
    }

    /// Every public key of a PEM file: public keys, certificates, and the public halves of private keys.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, KeyError> {
        let mut keys = Vec::new();
        for section in sections(pem)? {
            match section {
                (SectionKind::PublicKey, der) => keys.push(Self::from_spki(&der)?),
                (SectionKind::Certificate, der) => {
                    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der)
                        .map_err(|e| KeyError::Unsupported(e.to_string()))?;
                    keys.push(Self::from_spki(certificate.public_key().raw)?);
                }
                other => keys.extend(SigningKey::from_section(&other)?.map(|key| key.public)),
            }
        }
        if keys.is_empty() { Err(KeyError::None("public")) } else { Ok(keys) }
    }

    /// Whether a signature of a message is this key's.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm.verification(), &self.bytes).verify(message, signature).is_ok()
    }

    /// As a JSON web key.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }
}

enum Private {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
}

/// A key that tokens are signed with.
pub struct SigningKey {
    private: Private,
    public: PublicKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public.id)
    }
}

impl SigningKey {
    /// The first private key of a PEM file: PKCS #8, PKCS #1 or SEC 1.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        for section in sections(pem)? {
            if let Some(key) = Self::from_section(&section)? {
                return Ok(key);
            }
        }
        Err(KeyError::None("private"))
    }

    fn from_section((kind, der): &(SectionKind, Vec<u8>)) -> Result<Option<Self>, KeyError> {
        let private = match kind {
            SectionKind::RsaPrivateKey => RsaKeyPair::from_der(der).ok().map(|k| Private::Rsa(Box::new(k))),
            SectionKind::EcPrivateKey => ecdsa(|alg| EcdsaKeyPair::from_private_key_der(alg, der).ok()),
            SectionKind::PrivateKey => RsaKeyPair::from_pkcs8(der)
                .ok()
                .map(|k| Private::Rsa(Box::new(k)))
                .or_else(|| ecdsa(|alg| EcdsaKeyPair::from_pkcs8(alg, der).ok())),
            _ => return Ok(None),
        };
        let unsupported =
            || KeyError::Unsupported("private key is neither RSA (2048 bits or more) nor ECDSA".into());
        let private = private.ok_or_else(unsupported)?;
        let spki: PublicKeyX509Der<'_> = match &private {
            Private::Rsa(key) => key.public_key().as_der(),
            Private::Ecdsa(key) => key.public_key().as_der(),
        }
        .map_err(|_| unsupported())?;
        Ok(Some(Self { public: PublicKey::from_spki(spki.as_ref())?, private }))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        match &self.private {
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| KeyError::Sign)?;
                Ok(signature)
            }
            Private::Ecdsa(key) => {
                key.sign(&random, message).map(|s| s.as_ref().to_vec()).map_err(|_| KeyError::Sign)
            }
        }
    }
}

fn ecdsa(parse: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>) -> Option<Private> {
    ECDSA
        .into_iter()
        .filter_map(Algorithm::ecdsa_signing)
        .find_map(parse)
        .map(|k| Private::Ecdsa(Box::new(k)))
}

fn sections(pem: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, KeyError> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| KeyError::Pem(e.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::PublicKeyData;

    pub(crate) fn ec_key() -> SigningKey {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        SigningKey::from_pem(pair.serialize_pem().as_bytes()).expect("parsed")
    }

    #[test]
    fn keys_sign_and_verify() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let pair = rcgen::KeyPair::generate_for(algorithm).expect("key");
            let key = SigningKey::from_pem(pair.serialize_pem().as_bytes()).expect("parsed");
            let signature = key.sign(b"message").expect("signed");
            let public = PublicKey::from_spki(&pair.subject_public_key_info()).expect("public");
            assert_eq!(public.id, key.public().id);
            assert_eq!(public.id.len(), 43);
            assert!(public.verify(b"message", &signature), "{algorithm:?}");
            assert!(!public.verify(b"massage", &signature), "{algorithm:?}");
            assert!(!ec_key().public().verify(b"message", &signature), "{algorithm:?}");
            assert_eq!(public.jwk()["alg"], public.algorithm.as_str());
            let again = PublicKey::all_from_pem(pair.serialize_pem().as_bytes()).expect("from private");
            assert_eq!(again[0].id, public.id);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(SigningKey::from_pem(b"").expect_err("none"), KeyError::None("private"));
        assert_eq!(PublicKey::all_from_pem(b"hello").expect_err("none"), KeyError::None("public"));
        assert!(
            SigningKey::from_pem(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err()
        );
    }
}
