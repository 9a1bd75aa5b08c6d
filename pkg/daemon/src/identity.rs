//! Who asks at the secured port: a client certificate, a front proxy that says so in headers, or a bearer token.
//!
//! Authorities that no flag names are looked up in the cluster's `extension-apiserver-authentication` ConfigMap, as
//! upstream's delegating authentication does.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use auth::authn::Authenticator as _;
use auth::authn::front_proxy::{FrontProxyAuthenticator, FrontProxyHeaders};
use auth::authn::token::bearer_token;
use auth::authn::x509::X509Authenticator;
use client::rest::{ResourceId, Rest};
use component::serving::ConnInfo;
use component::tls;
use http::request::Parts;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::serving::Flags;

const TOKEN_REVIEWS: ResourceId =
    ResourceId::cluster("authentication.k8s.io", "v1", "tokenreviews", "TokenReview");
const CONFIG_MAPS: ResourceId = ResourceId::namespaced("", "v1", "configmaps", "ConfigMap");
/// Where the API server publishes whom it trusts.
const PUBLISHED: (&str, &str) = ("kube-system", "extension-apiserver-authentication");

/// Who asks, as a SubjectAccessReview names them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
}

/// Whose word is taken.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    client_ca: Option<Vec<u8>>,
    proxy_ca: Option<Vec<u8>>,
    allowed_names: Vec<String>,
    headers: FrontProxyHeaders,
}

impl Trust {
    /// What the flags say, or else the cluster.
    pub(crate) async fn gather(flags: &Flags, cluster: Option<&Rest>) -> anyhow::Result<Self> {
        let read = |path: Option<&Path>| path.map(tls::read).transpose();
        let own = Self {
            client_ca: read(flags.client_ca_file.as_deref())?,
            proxy_ca: read(flags.requestheader_client_ca_file.as_deref())?,
            allowed_names: flags.requestheader_allowed_names.clone(),
            headers: FrontProxyHeaders {
                username: flags.requestheader_username_headers.clone(),
                uid: flags.requestheader_uid_headers.clone(),
                group: flags.requestheader_group_headers.clone(),
                extra_prefix: flags.requestheader_extra_headers_prefix.clone(),
            },
        };
        let Some(cluster) = cluster.filter(|_| !flags.authentication_skip_lookup) else { return Ok(own) };
        if own.client_ca.is_some() && own.proxy_ca.is_some() {
            return Ok(own);
        }
        match cluster.get(&CONFIG_MAPS, PUBLISHED.0, PUBLISHED.1).await {
            Ok(map) => Ok(own.completed(&map["data"])),
            Err(error) if flags.authentication_tolerate_lookup_failure => {
                tracing::warn!(%error, "the cluster's client authorities are unknown: certificates they signed are refused");
                Ok(own)
            }
            Err(error) => bail!("unable to get configmap/{} in {}: {error}", PUBLISHED.1, PUBLISHED.0),
        }
    }

    /// With what the cluster publishes where the flags are silent.
    fn completed(mut self, data: &Value) -> Self {
        let text = |key: &str| data[key].as_str().filter(|text| !text.is_empty());
        let list = |key: &str| text(key).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        if self.client_ca.is_none() {
            self.client_ca = text("client-ca-file").map(|pem| pem.as_bytes().to_vec());
        }
        if self.proxy_ca.is_none() {
            self.proxy_ca = text("requestheader-client-ca-file").map(|pem| pem.as_bytes().to_vec());
            self.allowed_names = list("requestheader-allowed-names");
            self.headers = FrontProxyHeaders {
                username: list("requestheader-username-headers"),
                uid: list("requestheader-uid-headers"),
                group: list("requestheader-group-headers"),
                extra_prefix: list("requestheader-extra-headers-prefix"),
            };
        }
        self
    }

    /// All authorities, as PEM.
    pub(crate) fn all(&self) -> Option<Vec<u8>> {
        let given: Vec<&[u8]> =
            [&self.client_ca, &self.proxy_ca].into_iter().flatten().map(Vec::as_slice).collect();
        (!given.is_empty()).then(|| given.join(&b'\n'))
    }
}

fn certificates(pem: &[u8], flag: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{flag} holds no usable certificates"))
}

/// Finds out who sent a request.
pub(crate) struct Identification {
    certificates: Option<X509Authenticator>,
    proxies: Option<FrontProxyAuthenticator>,
    tokens: Option<Rest>,
}

impl Identification {
    pub(crate) fn new(trust: &Trust, tokens: Option<Rest>) -> anyhow::Result<Self> {
        let certificates_of = match &trust.client_ca {
            Some(pem) => Some(X509Authenticator::new(&certificates(pem, "--client-ca-file")?)?),
            None => None,
        };
        let proxies = match &trust.proxy_ca {
            Some(pem) => Some(FrontProxyAuthenticator::new(
                &certificates(pem, "--requestheader-client-ca-file")?,
                trust.allowed_names.clone(),
                trust.headers.clone(),
            )?),
            None => None,
        };
        Ok(Self { certificates: certificates_of, proxies, tokens })
    }

    /// The user, if the request proves one.
    pub(crate) async fn user(&self, request: &Parts) -> Option<User> {
        let presented =
            request.extensions.get::<Arc<ConnInfo>>().map_or(&[] as &[_], |info| &info.certificates);
        if let Some(proxies) = &self.proxies
            && let Ok(Some(found)) = proxies.authenticate(request, presented).await
        {
            return Some(named(found.user));
        }
        if let Some(certificates) = &self.certificates
            && let Ok(Some(found)) = certificates.authenticate(request, presented).await
        {
            return Some(named(found.user));
        }
        self.bearer(bearer_token(&request.headers)?).await
    }

    async fn bearer(&self, token: String) -> Option<User> {
        let review = json!({"spec": {"token": token}});
        let answer = self.tokens.as_ref()?.create(&TOKEN_REVIEWS, "", &review).await.ok()?;
        if answer.pointer("/status/authenticated") != Some(&json!(true)) {
            return None;
        }
        let user = answer.pointer("/status/user")?;
        let groups = user.get("groups").and_then(Value::as_array).into_iter().flatten();
        Some(User {
            name: user.get("username")?.as_str()?.to_owned(),
            uid: user.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned(),
            groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

fn named(user: auth::UserInfo) -> User {
    User { name: user.name, uid: user.uid, groups: user.groups }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flags_do_not_say_the_cluster_does() {
        let data = json!({
            "client-ca-file": "CLIENTS", "requestheader-client-ca-file": "PROXIES",
            "requestheader-allowed-names": "[\"front\"]", "requestheader-username-headers": "[\"X-User\"]",
        });
        let found = Trust::default().completed(&data);
        assert_eq!(found.all().as_deref(), Some(b"CLIENTS\nPROXIES".as_slice()));
        assert_eq!(
            (found.allowed_names, found.headers.username),
            (vec!["front".into()], vec!["X-User".into()])
        );
        let given = Trust { client_ca: Some(b"MINE".to_vec()), ..Trust::default() };
        assert_eq!(given.completed(&data).client_ca.as_deref(), Some(b"MINE".as_slice()));
        assert_eq!(Trust::default().completed(&json!({})).all(), None);
    }
}
