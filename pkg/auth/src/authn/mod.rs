//! Authenticators: from a request's certificates and headers to a [`UserInfo`].
//!
//! Order and rules of `k8s.io/kubernetes/pkg/kubeapiserver/authenticator`: front proxy, client certificate, bearer
//! tokens, anonymous; the first that recognises its credential decides, the first error of all is what a request that
//! nobody recognised fails with.

pub mod bootstrap;
pub mod front_proxy;
pub mod token;
pub mod union;
pub mod x509;

use async_trait::async_trait;
use http::request::Parts;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::user::UserInfo;

/// A successful authentication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it is.
    pub user: UserInfo,
    /// Audiences of the credential that the server also accepts, empty when the authenticator knows none.
    pub audiences: Vec<String>,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// When the client's certificate ends, where that is the credential.
    pub certificate_expires: Option<Timestamp>,
}

/// Why a credential was refused. Clients only see `401 Unauthorized`; the text is for logs and TokenReview.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthError {
    /// The client certificate does not verify or cannot name a user.
    #[error("verifying certificate: {0}")]
    Certificate(String),
    /// The token is not valid.
    #[error("{0}")]
    Token(String),
    /// Front-proxy headers came from someone who may not send them.
    #[error("request header authentication: {0}")]
    RequestHeader(String),
    /// Several authenticators refused; texts in their order.
    #[error("[{}]", .0.join(", "))]
    Several(Vec<String>),
}

/// Finds out who sent a request. `Ok(None)`: no credential of this kind; errors: a credential of this kind, but bad.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Authenticates a request from its head and the certificates the client presented (leaf first, possession proven
    /// by the handshake, chain verified by those who need it).
    async fn authenticate(
        &self,
        parts: &Parts,
        peer_certificates: &[CertificateDer<'static>],
    ) -> Result<Option<Authenticated>, AuthError>;
}

/// Finds out whose token this is: what bearer authentication and TokenReview share.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync {
    /// Authenticates a token for any of these audiences (empty: the server's own).
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Authenticated>, AuthError>;
}
