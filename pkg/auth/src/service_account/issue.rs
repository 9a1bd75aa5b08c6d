//! Issuing tokens: the claims of a TokenRequest, and signing.

use jiff::Timestamp;

use super::keys::{KeyError, SigningKey};
use super::token::{Claims, KubernetesClaims, ObjectRef, sign};
use crate::user::SERVICE_ACCOUNT_PREFIX;

/// Lifetime pods ask for (`kube-api-access` volumes); tokens of that lifetime are extended, as old clients never reload.
pub const WARN_ONLY_SECONDS: i64 = 60 * 60 + 7;
/// Lifetime such tokens really get.
pub const WARN_ONLY_EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;

/// What a token is to say.
#[derive(Debug, Clone, Default)]
pub struct TokenRequestClaims {
    /// Namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: ObjectRef,
    /// Pod it is bound to.
    pub pod: Option<ObjectRef>,
    /// Secret it is bound to.
    pub secret: Option<ObjectRef>,
    /// Node of the pod, or the node it is bound to.
    pub node: Option<ObjectRef>,
    /// Audiences.
    pub audiences: Vec<String>,
    /// Lifetime in seconds.
    pub expiration_seconds: i64,
    /// Seconds after which the client is to be warned, for extended tokens.
    pub warn_after_seconds: Option<i64>,
}

/// Signs tokens for one issuer.
#[derive(Debug)]
pub struct TokenGenerator {
    issuer: String,
    key: SigningKey,
}

impl TokenGenerator {
    /// Signs with this key as this issuer (`--service-account-issuer`, `--service-account-signing-key-file`).
    pub fn new(issuer: impl Into<String>, key: SigningKey) -> Self {
        Self { issuer: issuer.into(), key }
    }

    /// The key tokens are signed with.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The claims of a token issued at a time with an identifier.
    pub fn claims(&self, request: &TokenRequestClaims, now: Timestamp, id: &str) -> Claims {
        let now = now.as_second();
        Claims {
            aud: request.audiences.clone(),
            exp: Some(now + request.expiration_seconds),
            iat: Some(now),
            iss: self.issuer.clone(),
            jti: id.to_owned(),
            nbf: Some(now),
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", request.namespace, request.service_account.name),
            kubernetes: Some(KubernetesClaims {
                namespace: request.namespace.clone(),
                node: request.node.clone(),
                pod: request.pod.clone(),
                secret: request.secret.clone(),
                serviceaccount: request.service_account.clone(),
                warnafter: request.warn_after_seconds.map(|s| now + s),
            }),
            ..Claims::default()
        }
    }

    /// A signed token issued at a time with an identifier (a fresh uuid).
    pub fn issue(&self, request: &TokenRequestClaims, now: Timestamp, id: &str) -> Result<String, KeyError> {
        sign(&self.claims(request, now, id), &self.key)
    }
}
