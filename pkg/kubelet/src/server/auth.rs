//! Who asks, and whether they may: client certificates, TokenReview and SubjectAccessReview.
//!
//! Source: `cmd/kubelet/app/auth.go`, `pkg/kubelet/server/auth.go`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use component::http::{Request, Response, text};
use component::serving::ConnInfo;
use http::{Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::route::subresources;
use crate::config::{AuthorizationMode, Config};

/// Most answers remembered.
const MAX_CACHED: usize = 1024;

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct User {
    name: String,
    groups: Vec<String>,
    uid: String,
}

/// What a request shows of who sent it.
pub(super) struct Shown {
    certificate: Option<CertificateDer<'static>>,
    bearer: Option<String>,
}

impl Shown {
    pub(super) fn by(request: &Request) -> Self {
        let connection = request.extensions().get::<Arc<ConnInfo>>();
        let authorization = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        Self {
            certificate: connection.and_then(|c| c.certificates.first().cloned()),
            bearer: authorization.and_then(|v| v.strip_prefix("Bearer ")).map(|t| t.trim().to_owned()),
        }
    }
}

/// Answers that hold for a while.
struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let mut map = self.0.lock();
        if map.len() >= MAX_CACHED {
            let now = Instant::now();
            map.retain(|_, (_, until)| *until > now);
            if map.len() >= MAX_CACHED {
                map.clear();
            }
        }
        map.insert(key, (value, Instant::now() + ttl));
    }
}

pub(super) struct Auth {
    client: kube::Client,
    anonymous: bool,
    webhook: bool,
    token_ttl: Duration,
    mode: AuthorizationMode,
    allowed_ttl: Duration,
    denied_ttl: Duration,
    tokens: Cache<String, User>,
    decisions: Cache<(User, String, &'static str), Result<(), String>>,
}

impl Auth {
    pub(super) fn new(config: &Config, client: kube::Client) -> Self {
        Self {
            client,
            anonymous: config.anonymous_auth,
            webhook: config.webhook_auth,
            token_ttl: config.webhook_cache_ttl,
            mode: config.authorization,
            allowed_ttl: config.authorized_ttl,
            denied_ttl: config.unauthorized_ttl,
            tokens: Cache::new(),
            decisions: Cache::new(),
        }
    }

    /// Who a request is from, or the refusal to answer it.
    pub(super) async fn authenticate(&self, shown: Shown) -> Result<User, Response> {
        if let Some(user) = shown.certificate.and_then(|c| certificate_user(&c)) {
            return Ok(user);
        }
        match shown.bearer {
            Some(token) if self.webhook => {
                if let Some(user) = self.review(&token).await {
                    return Ok(user);
                }
            }
            None if self.anonymous => {
                return Ok(User {
                    name: "system:anonymous".into(),
                    groups: vec!["system:unauthenticated".into()],
                    uid: String::new(),
                });
            }
            _ => {}
        }
        Err(text(StatusCode::UNAUTHORIZED, "Unauthorized"))
    }

    async fn review(&self, token: &str) -> Option<User> {
        let key = token.to_owned();
        if let Some(user) = self.tokens.get(&key) {
            return Some(user);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: key.clone(), audiences: None },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = match api.create(&PostParams::default(), &review).await {
            Ok(answer) => answer.status?,
            Err(error) => {
                tracing::warn!(%error, "cannot review a token");
                return None;
            }
        };
        if answer.authenticated != Some(true) {
            return None;
        }
        let info = answer.user?;
        let user = User {
            name: info.username.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
        };
        self.tokens.put(key, user.clone(), self.token_ttl);
        Some(user)
    }

    /// Whether the user may, or the refusal.
    pub(super) async fn authorize(
        &self,
        user: &User,
        method: &Method,
        path: &str,
        node: &str,
    ) -> Result<(), Response> {
        if self.mode == AuthorizationMode::AlwaysAllow {
            return Ok(());
        }
        let verb = verb(method);
        let mut last = String::new();
        for subresource in subresources(path) {
            match self.ask(user, verb, subresource, node).await {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        let message = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={:?}){last}",
            user.name,
            subresources(path)
        );
        Err(text(StatusCode::FORBIDDEN, message))
    }

    async fn ask(
        &self,
        user: &User,
        verb: &str,
        subresource: &'static str,
        node: &str,
    ) -> Result<(), String> {
        let key = (user.clone(), verb.to_owned(), subresource);
        if let Some(known) = self.decisions.get(&key) {
            return known;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) => {
                let allowed = answer.status.is_some_and(|s| s.allowed);
                let decision = if allowed { Ok(()) } else { Err(String::new()) };
                self.decisions.put(
                    key,
                    decision.clone(),
                    if allowed { self.allowed_ttl } else { self.denied_ttl },
                );
                decision
            }
            // Not remembered: it says nothing about the user.
            Err(error) => Err(format!(": {}", crate::objects::api_error(&error))),
        }
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The user a client certificate names: the common name, in the organisations' groups.
fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    (!name.is_empty()).then_some(User { name, groups, uid: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn certificates_name_users() {
        let ca = component::pki::Ca::new("ca").expect("a CA");
        let pem = ca.issue_client("alice", Some("dev")).expect("a certificate");
        let der = CertificateDer::from_pem_slice(pem.cert.as_bytes()).expect("PEM");
        let user = certificate_user(&der).expect("a user");
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("alice", ["dev".to_owned(), "system:authenticated".to_owned()].as_slice())
        );
        assert_eq!(certificate_user(b"x"), None);
    }

    #[test]
    fn answers_expire() {
        let cache = Cache::new();
        cache.put("a", 1, Duration::from_secs(60));
        cache.put("b", 2, Duration::ZERO);
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), None));
    }
}
