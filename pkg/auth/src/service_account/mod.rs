//! Service account tokens: JSON web tokens the server signs and checks itself.
//!
//! [`keys`] holds the keys, [`token`] the signed text and its claims, [`TokenGenerator`] issues and
//! [`ServiceAccountTokens`] accepts them, [`discovery`] tells the world how to check them.
//! Sources: KEP-1205 (bound tokens), KEP-4193 (node and pod claims), `k8s.io/kubernetes/pkg/serviceaccount`.

mod accept;
pub mod discovery;
mod issue;
pub mod keys;
pub mod token;

pub use accept::{LegacyTokens, ServiceAccountTokens};
pub use issue::{TokenGenerator, TokenRequestClaims, WARN_ONLY_EXTENDED_SECONDS, WARN_ONLY_SECONDS};
pub use keys::{KeyError, PublicKey, SigningKey};
pub use token::{Claims, ObjectRef};
