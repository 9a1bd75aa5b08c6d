//! The authenticators and authorizers a server runs with, made from its configuration.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::authn::bootstrap::BootstrapTokens;
use crate::authn::front_proxy::{FrontProxyAuthenticator, FrontProxyHeaders};
use crate::authn::token::{BearerAuthenticator, StaticTokens, TokenUnion};
use crate::authn::union::RequestAuthenticator;
use crate::authn::x509::X509Authenticator;
use crate::authn::{AuthError, Authenticator, TokenAuthenticator};
use crate::authz::node::NodeAuthorizer;
use crate::authz::rbac::{EscalationGuard, RbacAuthorizer};
use crate::authz::union::{AlwaysAllow, AlwaysDeny, AuthorizationMode, PrivilegedGroups, UnionAuthorizer};
use crate::object::ObjectReader;
use crate::service_account::{LegacyTokens, PublicKey, ServiceAccountTokens};
use crate::user::SYSTEM_MASTERS;

/// The front proxy, as the `--requestheader-*` flags describe it.
#[derive(Debug, Clone, Default)]
pub struct FrontProxyConfig {
    /// CAs of the proxies' certificates.
    pub ca: Vec<CertificateDer<'static>>,
    /// Common names that may proxy, empty for all.
    pub allowed_names: Vec<String>,
    /// The headers.
    pub headers: FrontProxyHeaders,
}

/// How requests are authenticated.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationConfig {
    /// CAs of client certificates (`--client-ca-file`), empty for none.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// The front proxy.
    pub front_proxy: Option<FrontProxyConfig>,
    /// Text of `--token-auth-file`.
    pub static_tokens: Option<String>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// `--service-account-issuer`; the first one issues.
    pub issuers: Vec<String>,
    /// Keys of `--service-account-key-file`.
    pub service_account_keys: Vec<PublicKey>,
    /// `--api-audiences`; by default the first issuer.
    pub api_audiences: Vec<String>,
    /// `--anonymous-auth`.
    pub anonymous: bool,
}

/// The authenticators of a server.
#[derive(Clone)]
pub struct Authentication {
    /// For requests.
    pub requests: Arc<dyn Authenticator>,
    /// For TokenReview.
    pub tokens: Arc<dyn TokenAuthenticator>,
    /// What the server answers to when a TokenReview names no audience.
    pub api_audiences: Vec<String>,
}

impl Authentication {
    /// Makes the authenticators, in upstream's order.
    pub fn new(config: &AuthenticationConfig, objects: &Arc<dyn ObjectReader>) -> Result<Self, AuthError> {
        let audiences = if config.api_audiences.is_empty() {
            config.issuers.iter().take(1).cloned().collect()
        } else {
            config.api_audiences.clone()
        };
        let mut tokens: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
        if let Some(text) = &config.static_tokens {
            tokens.push(Arc::new(StaticTokens::parse(text)?));
        }
        if !config.service_account_keys.is_empty() {
            let keys = &config.service_account_keys;
            tokens.push(Arc::new(LegacyTokens::new(keys.clone(), audiences.clone(), objects.clone())));
            tokens.push(Arc::new(ServiceAccountTokens::new(
                config.issuers.clone(),
                keys.clone(),
                audiences.clone(),
                objects.clone(),
            )));
        }
        if config.bootstrap_tokens {
            tokens.push(Arc::new(BootstrapTokens::new(objects.clone())));
        }
        let tokens: Arc<dyn TokenAuthenticator> = Arc::new(TokenUnion::new(tokens));

        let mut requests: Vec<Arc<dyn Authenticator>> = Vec::new();
        if let Some(proxy) = &config.front_proxy {
            requests.push(Arc::new(FrontProxyAuthenticator::new(
                &proxy.ca,
                proxy.allowed_names.clone(),
                proxy.headers.clone(),
            )?));
        }
        if !config.client_ca.is_empty() {
            requests.push(Arc::new(X509Authenticator::new(&config.client_ca)?));
        }
        requests.push(Arc::new(BearerAuthenticator::new(tokens.clone())));
        let requests = Arc::new(RequestAuthenticator::new(requests, config.anonymous));
        Ok(Self { requests, tokens, api_audiences: audiences })
    }
}

/// Why `--authorization-mode` cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// Upstream's words for a mode there is not.
    #[error("authorization-mode {0:?} is not a valid mode")]
    Unknown(String),
    /// A mode of upstream that does not exist here.
    #[error("authorization-mode {0:?} is not supported by this server")]
    NotSupported(String),
    /// A mode twice.
    #[error("authorization-mode {0:?} has mode specified more than once")]
    Twice(String),
    /// No mode at all.
    #[error("at least one authorization-mode must be passed")]
    None,
}

/// The authorizers of a server.
#[derive(Clone)]
pub struct Authorization {
    /// All modes in order, members of `system:masters` let through first; also lists rules.
    pub authorizer: Arc<UnionAuthorizer>,
    /// Checks writes of roles and bindings, when RBAC is on.
    pub escalation: Option<Arc<EscalationGuard>>,
}

impl Authorization {
    /// Makes the authorizers of `--authorization-mode` (`Node`, `RBAC`, `AlwaysAllow`, `AlwaysDeny`).
    pub fn new(modes: &[String], objects: &Arc<dyn ObjectReader>) -> Result<Self, ModeError> {
        let mut all: Vec<Arc<dyn AuthorizationMode>> =
            vec![Arc::new(PrivilegedGroups::new(&[SYSTEM_MASTERS]))];
        let mut rbac = None;
        for (i, mode) in modes.iter().enumerate() {
            if modes[..i].contains(mode) {
                return Err(ModeError::Twice(mode.clone()));
            }
            match mode.as_str() {
                "Node" => {
                    all.push(Arc::new(NodeAuthorizer::new(objects.clone(), crate::bootstrap::node_rules())));
                }
                "RBAC" => {
                    let authorizer = Arc::new(RbacAuthorizer::new(objects.clone()));
                    rbac = Some(authorizer.clone());
                    all.push(authorizer);
                }
                "AlwaysAllow" => all.push(Arc::new(AlwaysAllow)),
                "AlwaysDeny" => all.push(Arc::new(AlwaysDeny)),
                "ABAC" | "Webhook" => return Err(ModeError::NotSupported(mode.clone())),
                _ => return Err(ModeError::Unknown(mode.clone())),
            }
        }
        if modes.is_empty() {
            return Err(ModeError::None);
        }
        let authorizer = Arc::new(UnionAuthorizer::new(all));
        let escalation = rbac.map(|rbac| Arc::new(EscalationGuard::new(authorizer.clone(), rbac)));
        Ok(Self { authorizer, escalation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::testing::{Objects, reader};

    #[test]
    fn modes() {
        let objects = reader(&Arc::new(Objects::default()));
        let make = |modes: &[&str]| {
            let modes: Vec<String> = modes.iter().map(|m| (*m).to_owned()).collect();
            Authorization::new(&modes, &objects).map(|a| a.escalation.is_some())
        };
        assert_eq!(make(&["Node", "RBAC"]), Ok(true));
        assert_eq!(make(&["AlwaysAllow"]), Ok(false));
        assert_eq!(make(&[]), Err(ModeError::None));
        assert_eq!(make(&["RBAC", "RBAC"]), Err(ModeError::Twice("RBAC".into())));
        assert_eq!(make(&["ABAC"]), Err(ModeError::NotSupported("ABAC".into())));
        assert_eq!(make(&["rbac"]), Err(ModeError::Unknown("rbac".into())));
    }

    #[test]
    fn authenticators() {
        let objects = reader(&Arc::new(Objects::default()));
        let config =
            AuthenticationConfig { issuers: vec!["https://i".into()], ..AuthenticationConfig::default() };
        let made = Authentication::new(&config, &objects).expect("made");
        assert_eq!(made.api_audiences, ["https://i"]);
        let bad = AuthenticationConfig { static_tokens: Some("x".into()), ..config };
        assert!(Authentication::new(&bad, &objects).is_err());
    }
}
