//! Client certificates: common name to user, organizations to groups.
//! Source: `k8s.io/apiserver/pkg/authentication/request/x509`.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AuthError, Authenticated, Authenticator};
use crate::cache::{Digest, TtlCache, sha256};
use crate::user::{CREDENTIAL_ID, UserInfo};

/// Verified certificates that are remembered.
const CACHE_ENTRIES: usize = 4096;
/// Seconds a verdict is remembered; a changed clock or a certificate's end shows at the latest after this.
const CACHE_SECONDS: i64 = 60;
/// Attribute of a subject that carries the user's uid (KEP-4438's `AllowParsingUserUIDFromCertAuth`).
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// Checks that a certificate chain ends in one of some CAs, is valid now and is meant for clients.
pub struct CertificateVerifier {
    verifier: Arc<dyn ClientCertVerifier>,
    verified: TtlCache<()>,
}

impl CertificateVerifier {
    /// Trusts these CA certificates.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Self, AuthError> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|e| AuthError::Certificate(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|e| AuthError::Certificate(e.to_string()))?;
        Ok(Self { verifier, verified: TtlCache::new(CACHE_ENTRIES) })
    }

    /// Verifies a chain, leaf first, as of a time. Gives the digest of the leaf.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Digest, AuthError> {
        let (leaf, intermediates) =
            chain.split_first().ok_or_else(|| AuthError::Certificate("no certificate".into()))?;
        let fingerprint = sha256(leaf);
        let seconds = now.as_second();
        if self.verified.get(&fingerprint, seconds).is_some() {
            return Ok(fingerprint);
        }
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.max(0) as u64));
        self.verifier
            .verify_client_cert(leaf, intermediates, time)
            .map_err(|e| AuthError::Certificate(e.to_string()))?;
        self.verified.put(fingerprint, (), seconds + CACHE_SECONDS);
        Ok(fingerprint)
    }
}

/// The subject of a certificate, as far as it names a user.
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    pub(super) uid: Option<String>,
    pub(super) not_after: Option<Timestamp>,
}

/// Reads the subject of a certificate.
pub(super) fn subject(leaf: &CertificateDer<'_>) -> Result<Subject, AuthError> {
    let bad = |e: &dyn std::fmt::Display| AuthError::Certificate(e.to_string());
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| bad(&e))?;
    let name = certificate.subject();
    // Go keeps the last of several common names
    let common_name = name.iter_common_name().last().and_then(|a| a.as_str().ok()).unwrap_or("").to_owned();
    let organizations = name.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
    let uids: Vec<String> = name
        .iter_attributes()
        .filter(|a| a.attr_type().to_id_string() == UID_OID)
        .map(|a| a.as_str().map(str::to_owned).map_err(|e| bad(&e)))
        .collect::<Result<_, _>>()?;
    let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok();
    match uids.len() {
        0 | 1 => Ok(Subject { common_name, organizations, uid: uids.into_iter().next(), not_after }),
        _ => Err(AuthError::Certificate("unable to parse user UID: several UID attributes".into())),
    }
}

/// Authenticates by client certificate.
pub struct X509Authenticator {
    verifier: CertificateVerifier,
    users: TtlCache<Option<Authenticated>>,
}

impl X509Authenticator {
    /// Trusts the CAs of `--client-ca-file`.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Self, AuthError> {
        Ok(Self { verifier: CertificateVerifier::new(roots)?, users: TtlCache::new(CACHE_ENTRIES) })
    }

    /// Whom a chain names as of a time; `None` without a common name.
    fn known(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Option<Authenticated>, AuthError> {
        let fingerprint = self.verifier.verify(chain, now)?;
        if let Some(known) = self.users.get(&fingerprint, now.as_second()) {
            return Ok(known);
        }
        let subject = subject(&chain[0])?;
        let known = (!subject.common_name.is_empty()).then(|| {
            let mut id = String::from("X509SHA256=");
            for byte in fingerprint {
                let _ = write!(id, "{byte:02x}");
            }
            let user = UserInfo {
                name: subject.common_name,
                uid: subject.uid.unwrap_or_default(),
                groups: subject.organizations,
                extra: [(CREDENTIAL_ID.to_owned(), vec![id])].into(),
            };
            Authenticated { user, certificate_expires: subject.not_after, ..Authenticated::default() }
        });
        self.users.put(fingerprint, known.clone(), now.as_second() + CACHE_SECONDS);
        Ok(known)
    }
}

#[async_trait]
impl Authenticator for X509Authenticator {
    async fn authenticate(
        &self,
        _parts: &Parts,
        peer_certificates: &[CertificateDer<'static>],
    ) -> Result<Option<Authenticated>, AuthError> {
        if peer_certificates.is_empty() {
            return Ok(None);
        }
        self.known(peer_certificates, Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, IsCa, Issuer, KeyPair};

    type Authority = (Issuer<'static, KeyPair>, CertificateDer<'static>);

    fn authority() -> Authority {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let der = params.self_signed(&key).expect("ca").der().clone();
        (Issuer::new(params, key), der)
    }

    fn client(ca: &Authority, name: &str, organization: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.distinguished_name.push(DnType::OrganizationName, DnValue::Utf8String(organization.into()));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let key = KeyPair::generate().expect("key");
        params.signed_by(&key, &ca.0).expect("signed").der().clone()
    }

    #[test]
    fn certificates_name_users() {
        let (ours, theirs) = (authority(), authority());
        let authenticator = X509Authenticator::new(std::slice::from_ref(&ours.1)).expect("roots");
        let good = client(&ours, "ann", "dev");
        let at = |text: &str| text.parse::<Timestamp>().expect("time");
        let known = authenticator
            .known(std::slice::from_ref(&good), at("2026-06-01T00:00:00Z"))
            .expect("valid")
            .expect("named");
        assert_eq!(known.certificate_expires, Some(at("2027-01-01T00:00:00Z")));
        let user = known.user;
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("ann", &["dev".to_owned()][..]));
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        // a remembered certificate ends all the same
        assert!(authenticator.known(&[good], at("2027-06-01T00:00:00Z")).is_err());
        let nameless = client(&ours, "", "dev");
        assert_eq!(authenticator.known(&[nameless], at("2026-06-01T00:00:00Z")).expect("valid"), None);
        let foreign = client(&theirs, "ann", "system:masters");
        assert!(authenticator.known(&[foreign], at("2026-06-01T00:00:00Z")).is_err());
    }
}
