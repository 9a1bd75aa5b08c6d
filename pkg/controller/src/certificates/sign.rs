//! The built-in signers: what each demands of a request, and the certificate it gives. No I/O; the time is a parameter.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};

use crate::config::SigningCa;

/// Certificates are valid from a little before now, for clocks that are behind.
const BACKDATE: i64 = 5 * 60;
/// Shortest time a requestor may ask for.
const SHORTEST: i64 = 600;

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    /// It is no request, or asks for something that cannot be.
    #[error("invalid certificate request: {0}")]
    Malformed(String),
    /// The signer does not sign such requests.
    #[error("{0}")]
    Refused(String),
    /// The CA's certificate or key is unusable.
    #[error("certificate authority")]
    Authority(#[from] rcgen::Error),
}

/// A signer this controller serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    Client,
    KubeletClient,
    KubeletServing,
    LegacyUnknown,
}

/// A request's contents.
pub(super) struct Parsed {
    pub(super) common_name: String,
    organizations: Vec<String>,
    dns_names: usize,
    addresses: usize,
    other_names: usize,
    request: CertificateSigningRequestParams,
}

fn text(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        DnValue::TeletexString(text) => text.as_str().to_owned(),
        _ => String::new(),
    }
}

/// Reads a PEM request and checks its signature.
pub(super) fn parse(pem: &[u8]) -> Result<Parsed, SignError> {
    let malformed = |error: &dyn std::fmt::Display| SignError::Malformed(error.to_string());
    let pem = std::str::from_utf8(pem).map_err(|error| malformed(&error))?;
    let request = CertificateSigningRequestParams::from_pem(pem).map_err(|error| malformed(&error))?;
    let params = &request.params;
    let of = |kind: &DnType| {
        params
            .distinguished_name
            .iter()
            .filter(|(held, _)| *held == kind)
            .map(|(_, value)| text(value))
            .collect::<Vec<_>>()
    };
    let names =
        |matches: fn(&SanType) -> bool| params.subject_alt_names.iter().filter(|name| matches(name)).count();
    let dns_names = names(|name| matches!(name, SanType::DnsName(_)));
    let addresses = names(|name| matches!(name, SanType::IpAddress(_)));
    Ok(Parsed {
        common_name: of(&DnType::CommonName).into_iter().next().unwrap_or_default(),
        organizations: of(&DnType::OrganizationName),
        dns_names,
        addresses,
        other_names: params.subject_alt_names.len() - dns_names - addresses,
        request,
    })
}

impl Signer {
    pub(super) const ALL: [Self; 4] =
        [Self::Client, Self::KubeletClient, Self::KubeletServing, Self::LegacyUnknown];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client",
            Self::KubeletClient => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::KubeletServing => "kubernetes.io/kubelet-serving",
            Self::LegacyUnknown => "kubernetes.io/legacy-unknown",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signer| signer.name() == name)
    }

    /// (usages that must be there, usages that may).
    const fn usages(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Client | Self::KubeletClient => {
                (&["client auth"], &["client auth", "digital signature", "key encipherment"])
            }
            Self::KubeletServing => {
                (&["server auth"], &["server auth", "digital signature", "key encipherment"])
            }
            Self::LegacyUnknown => (&[], &[]),
        }
    }

    /// Whether the signer signs such a request; the text says why not.
    pub(super) fn check(self, request: &Parsed, usages: &[String]) -> Result<(), SignError> {
        let refused = |why: &str| Err(SignError::Refused(why.to_owned()));
        let (required, allowed) = self.usages();
        let held: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
        if required.iter().any(|usage| !held.contains(usage))
            || (!allowed.is_empty() && held.iter().any(|usage| !allowed.contains(usage)))
        {
            return refused("usages did not match the signer's");
        }
        if matches!(self, Self::KubeletClient | Self::KubeletServing) {
            if request.organizations != ["system:nodes"] {
                return refused("subject organization is not system:nodes");
            }
            if !request.common_name.starts_with("system:node:") {
                return refused("subject common name does not begin with system:node:");
            }
        }
        match self {
            Self::KubeletClient if request.dns_names + request.addresses + request.other_names > 0 => {
                refused("subjectAltNames are not allowed")
            }
            Self::KubeletServing if request.other_names > 0 => {
                refused("URI and email subjectAltNames are not allowed")
            }
            Self::KubeletServing if request.dns_names + request.addresses == 0 => {
                refused("DNS or IP subjectAltName is required")
            }
            Self::Client if request.organizations.iter().any(|group| group == "system:masters") => {
                refused("subject organization system:masters is not allowed")
            }
            _ => Ok(()),
        }
    }
}

/// A CA that signs.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    longest: Duration,
}

impl Authority {
    pub(super) fn new(config: &SigningCa) -> Result<Self, SignError> {
        let key = KeyPair::from_pem(&config.key_pem)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&config.certificate_pem, key)?, longest: config.duration })
    }

    /// The PEM certificate for a request.
    pub(super) fn sign(
        &self,
        signer: Signer,
        pem: &[u8],
        usages: &[String],
        expires: Option<i64>,
        now: Timestamp,
    ) -> Result<String, SignError> {
        let mut parsed = parse(pem)?;
        signer.check(&parsed, usages)?;
        let longest = i64::try_from(self.longest.as_secs()).unwrap_or(i64::MAX);
        let seconds = expires.map_or(longest, |asked| asked.clamp(SHORTEST, longest.max(SHORTEST)));
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at = |second: i64| epoch + Duration::from_secs(second.max(0).unsigned_abs());
        let params = &mut parsed.request.params;
        params.not_before = at(now.as_second() - BACKDATE);
        params.not_after = at(now.as_second() + seconds);
        params.serial_number =
            Some(SerialNumber::from(rand::random::<[u8; 16]>().map(|byte| byte & 0x7f).to_vec()));
        params.is_ca = IsCa::ExplicitNoCa;
        (params.key_usages, params.extended_key_usages) = purposes(usages);
        params.use_authority_key_identifier_extension = true;
        Ok(parsed.request.signed_by(&self.issuer)?.pem())
    }
}

/// Key usages by the names requests give them; unknown names are left to validation.
fn purposes(usages: &[String]) -> (Vec<KeyUsagePurpose>, Vec<ExtendedKeyUsagePurpose>) {
    let (mut plain, mut extended) = (Vec::new(), Vec::new());
    for usage in usages {
        match usage.as_str() {
            "digital signature" | "signing" => plain.push(KeyUsagePurpose::DigitalSignature),
            "content commitment" => plain.push(KeyUsagePurpose::ContentCommitment),
            "key encipherment" => plain.push(KeyUsagePurpose::KeyEncipherment),
            "key agreement" => plain.push(KeyUsagePurpose::KeyAgreement),
            "data encipherment" => plain.push(KeyUsagePurpose::DataEncipherment),
            "server auth" => extended.push(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => extended.push(ExtendedKeyUsagePurpose::ClientAuth),
            "code signing" => extended.push(ExtendedKeyUsagePurpose::CodeSigning),
            "email protection" => extended.push(ExtendedKeyUsagePurpose::EmailProtection),
            "timestamping" => extended.push(ExtendedKeyUsagePurpose::TimeStamping),
            "ocsp signing" => extended.push(ExtendedKeyUsagePurpose::OcspSigning),
            "any" => extended.push(ExtendedKeyUsagePurpose::Any),
            _ => {}
        }
    }
    plain.dedup();
    (plain, extended)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams};

    use super::*;
    use crate::testing::at;

    fn authority() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        let config = SigningCa {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            duration: Duration::from_secs(3600),
        };
        Authority::new(&config).expect("an authority")
    }

    fn request(common_name: &str, organization: &str, names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        let key = KeyPair::generate().expect("a key");
        params.serialize_request(&key).expect("a request").pem().expect("pem").into_bytes()
    }

    #[test]
    fn each_signer_demands_its_own() {
        use Signer::{Client, KubeletClient, KubeletServing};
        let authority = authority();
        let (node, nodes) = ("system:node:n1", "system:nodes");
        let cases: [(Signer, Vec<u8>, &[&str], bool); 10] = [
            (KubeletClient, request(node, nodes, &[]), &["client auth", "digital signature"], true),
            (KubeletClient, request(node, nodes, &["n1"]), &["client auth"], false),
            (KubeletClient, request("n1", nodes, &[]), &["client auth"], false),
            (KubeletClient, request(node, "", &[]), &["client auth"], false),
            (KubeletClient, request(node, nodes, &[]), &["server auth"], false),
            (KubeletServing, request(node, nodes, &["n1", "10.0.0.1"]), &["server auth"], true),
            (KubeletServing, request(node, nodes, &[]), &["server auth"], false),
            (Client, request("jane", "dev", &[]), &["client auth"], true),
            (Client, request("jane", "system:masters", &[]), &["client auth"], false),
            (Client, request("jane", "dev", &[]), &["client auth", "server auth"], false),
        ];
        for (number, (signer, pem, usages, accepted)) in cases.into_iter().enumerate() {
            let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
            let result = authority.sign(signer, &pem, &usages, None, at(0));
            assert_eq!(result.is_ok(), accepted, "case {number}: {:?}", result.err());
        }
        assert!(authority.sign(Client, b"nonsense", &["client auth".into()], None, at(0)).is_err());
    }
}
