//! A small certificate authority: what `kubewright up` and self-signed servers need.
//!
//! Users and groups are in client certificates as Kubernetes reads them: common name is the user, the organisation is
//! its group.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, string::Ia5String,
};

use crate::tls::Error;

/// Days that a leaf certificate is good for.
const LEAF_DAYS: i64 = 365;
/// Days that a certificate authority is good for; kubeadm's choice.
const CA_DAYS: i64 = 3650;
/// Certificates are valid from a little before now, for clocks that disagree.
const SKEW_SECONDS: i64 = 300;

/// A certificate and its private key, PEM.
#[derive(Debug, Clone)]
pub struct KeyPem {
    /// Certificate, or chain.
    pub cert: String,
    /// PKCS#8 private key.
    pub key: String,
}

/// A certificate authority that can issue.
#[derive(Debug)]
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A name a server certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl From<&str> for Host {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Dns(text.to_owned()), Self::Ip)
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

fn rcgen_error(error: rcgen::Error) -> Error {
    Error::Invalid(error.to_string())
}

fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(rcgen_error)
}

/// Validity from a little before now; `rcgen` takes the `time` crate's type, which it re-exports only as years, so the
/// dates go through a Unix timestamp.
fn set_validity(params: &mut CertificateParams, days: i64) -> Result<(), Error> {
    let now = jiff::Timestamp::now().as_second();
    let at = |seconds: i64| {
        time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| Error::Invalid(format!("clock: {e}")))
    };
    params.not_before = at(now - SKEW_SECONDS)?;
    params.not_after = at(now + days * 86_400)?;
    Ok(())
}

/// `organisation` is one at most: `rcgen`'s names hold one value a type.
fn params(common_name: &str, organisation: Option<&str>, days: i64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    // 127 bits: positive, unique for all purposes.
    params.serial_number = Some(SerialNumber::from((rand::random::<u128>() >> 1).to_be_bytes().to_vec()));
    set_validity(&mut params, days)?;
    Ok(params)
}

impl Ca {
    /// A new authority.
    pub fn new(common_name: &str) -> Result<Self, Error> {
        let mut params = params(common_name, None, CA_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        let issuer = CertifiedIssuer::self_signed(params, new_key()?).map_err(rcgen_error)?;
        Ok(Self { issuer })
    }

    /// Its certificate and key, to be kept.
    pub fn pem(&self) -> KeyPem {
        KeyPem { cert: self.issuer.pem(), key: self.issuer.key().serialize_pem() }
    }

    /// A certificate for a server under these names.
    pub fn issue_server(
        &self,
        common_name: &str,
        organisation: Option<&str>,
        hosts: &[Host],
    ) -> Result<KeyPem, Error> {
        let mut params = params(common_name, organisation, LEAF_DAYS)?;
        params.subject_alt_names = hosts
            .iter()
            .map(|host| match host {
                Host::Ip(ip) => Ok(SanType::IpAddress(*ip)),
                Host::Dns(name) => {
                    Ia5String::try_from(name.as_str()).map(SanType::DnsName).map_err(rcgen_error)
                }
            })
            .collect::<Result<_, _>>()?;
        // Kubelets use their serving certificate's identity for nothing else, but one that is a client too is harmless.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A certificate for a client: `user`, in `group` if any.
    pub fn issue_client(&self, user: &str, group: Option<&str>) -> Result<KeyPem, Error> {
        let mut params = params(user, group, LEAF_DAYS)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<KeyPem, Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let cert = params.signed_by(&key, &self.issuer).map_err(rcgen_error)?;
        Ok(KeyPem { cert: cert.pem(), key: key.serialize_pem() })
    }
}

/// A self-signed serving certificate, for servers that were given none.
pub fn self_signed(common_name: &str, hosts: &[Host]) -> Result<KeyPem, Error> {
    Ca::new(&format!("{common_name}-ca"))?.issue_server(common_name, None, hosts)
}

/// A new private key for signing service account tokens (ECDSA P-256), PEM of the private and the public half.
pub fn signing_key() -> Result<(String, String), Error> {
    let key = new_key()?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::*;

    #[test]
    fn client_certificates_name_user_and_group() {
        let ca = Ca::new("kubernetes").expect("ca");
        let pem = ca.issue_client("alice", Some("system:masters")).expect("cert");
        let (_, parsed) = parse_x509_pem(pem.cert.as_bytes()).expect("pem");
        let cert = parsed.parse_x509().expect("x509");
        let subject = cert.subject();
        let groups: Vec<_> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        assert_eq!(subject.iter_common_name().next().and_then(|n| n.as_str().ok()), Some("alice"));
        assert_eq!(groups, ["system:masters"]);
        assert!(cert.validity().is_valid());
    }

    #[test]
    fn issued_servers_are_usable_with_their_ca() {
        crate::install_crypto();
        let ca = Ca::new("kubernetes").expect("ca");
        let pem =
            ca.issue_server("kube-apiserver", None, &["127.0.0.1".into(), "localhost".into()]).expect("cert");
        let certificate = crate::tls::ServerCertificate::fixed(pem.cert.as_bytes(), pem.key.as_bytes())
            .expect("certificate");
        let roots = crate::tls::roots(ca.pem().cert.as_bytes()).expect("roots");
        crate::tls::server_config(certificate, Some(roots)).expect("config");
        let other = Ca::new("other").expect("ca").pem();
        assert!(
            crate::tls::certified_key(pem.cert.as_bytes(), other.key.as_bytes()).is_err(),
            "keys must match"
        );
    }
}
