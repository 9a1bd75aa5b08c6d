//! Front proxies: an aggregating proxy with a certificate of its own CA says who the user is in headers.
//! Source: `k8s.io/apiserver/pkg/authentication/request/headerrequest`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::HeaderMap;
use http::request::Parts;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use rustls_pki_types::CertificateDer;

use super::x509::{CertificateVerifier, subject};
use super::{AuthError, Authenticated, Authenticator};
use crate::user::UserInfo;

/// Names of the headers, lower case, as the `--requestheader-*` flags give them.
#[derive(Debug, Clone, Default)]
pub struct FrontProxyHeaders {
    /// Headers for the user name; the first with a value wins.
    pub username: Vec<String>,
    /// Headers for the uid; the first with a value wins.
    pub uid: Vec<String>,
    /// Headers for groups; all values count.
    pub group: Vec<String>,
    /// Prefixes of headers for extra facts; what follows the prefix is the (percent-encoded) key.
    pub extra_prefix: Vec<String>,
}

/// Authenticates by headers of a trusted proxy.
pub struct FrontProxyAuthenticator {
    verifier: CertificateVerifier,
    allowed_names: Vec<String>,
    headers: FrontProxyHeaders,
}

impl FrontProxyAuthenticator {
    /// Trusts proxies with certificates of these CAs and, unless `allowed_names` is empty, one of these common names.
    pub fn new(
        roots: &[CertificateDer<'static>],
        allowed_names: Vec<String>,
        headers: FrontProxyHeaders,
    ) -> Result<Self, AuthError> {
        let lower = |names: Vec<String>| names.iter().map(|n| n.trim().to_ascii_lowercase()).collect();
        let headers = FrontProxyHeaders {
            username: lower(headers.username),
            uid: lower(headers.uid),
            group: lower(headers.group),
            extra_prefix: lower(headers.extra_prefix),
        };
        Ok(Self { verifier: CertificateVerifier::new(roots)?, allowed_names, headers })
    }
}

/// The identity in the headers, `None` without a user name.
pub fn user_in_headers(map: &HeaderMap, names: &FrontProxyHeaders) -> Option<UserInfo> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let first = |keys: &[String]| {
        keys.iter().filter_map(|k| map.get(k)).map(text).find(|v| !v.is_empty()).unwrap_or_default()
    };
    let name = first(&names.username);
    if name.is_empty() {
        return None;
    }
    let groups =
        names.group.iter().flat_map(|k| map.get_all(k)).map(text).filter(|v| !v.is_empty()).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for prefix in &names.extra_prefix {
        for (key, value) in map {
            if let Some(encoded) = key.as_str().strip_prefix(prefix.as_str()) {
                let key =
                    percent_decode_str(encoded).decode_utf8().map_or_else(|_| encoded.into(), Into::into);
                extra.entry(key).or_default().push(text(value));
            }
        }
    }
    Some(UserInfo { name, uid: first(&names.uid), groups, extra })
}

#[async_trait]
impl Authenticator for FrontProxyAuthenticator {
    async fn authenticate(
        &self,
        parts: &Parts,
        peer_certificates: &[CertificateDer<'static>],
    ) -> Result<Option<Authenticated>, AuthError> {
        // Only who presents a certificate of the proxies' CA is a proxy at all; everyone else is somebody else's.
        if peer_certificates.is_empty() || self.verifier.verify(peer_certificates, Timestamp::now()).is_err()
        {
            return Ok(None);
        }
        let proxy = subject(&peer_certificates[0])?.common_name;
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&proxy) {
            return Err(AuthError::RequestHeader(format!(
                "subject with cn={proxy} is not in the allowed list"
            )));
        }
        let user = user_in_headers(&parts.headers, &self.headers);
        Ok(user.map(|user| Authenticated { user, ..Authenticated::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_a_user() {
        let names = FrontProxyHeaders {
            username: vec!["x-remote-user".into(), "x-other".into()],
            uid: vec!["x-remote-uid".into()],
            group: vec!["x-remote-group".into()],
            extra_prefix: vec!["x-remote-extra-".into()],
        };
        let mut map = HeaderMap::new();
        assert_eq!(user_in_headers(&map, &names), None);
        for (key, value) in [
            ("x-other", "ann"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-uid", "7"),
            ("x-remote-extra-acme.com%2fproject", "p"),
            ("x-remote-extra-bad%ff", "q"),
        ] {
            map.append(key, value.parse().expect("value"));
        }
        let user = user_in_headers(&map, &names).expect("user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
        assert_eq!(user.groups, ["a", "b"]);
        let extra: Vec<(&str, &str)> = user.extra.iter().map(|(k, v)| (k.as_str(), v[0].as_str())).collect();
        assert_eq!(extra, [("acme.com/project", "p"), ("bad%ff", "q")]);
    }
}
