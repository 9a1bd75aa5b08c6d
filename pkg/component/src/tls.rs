//! TLS configurations of servers: certificates that may change on disk, optional client certificates.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// How often files are looked at for a renewed certificate.
const RELOAD_INTERVAL: Duration = Duration::from_mins(1);

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or holds no usable PEM.
    #[error("cannot load {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificates and key do not make a configuration.
    #[error("invalid TLS configuration: {0}")]
    Invalid(String),
}

/// The provider every configuration here uses.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate chain and its key from PEM texts.
pub fn certified_key(cert_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, Error> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert_pem)
        .collect::<Result<_, _>>()
        .map_err(|e| Error::Invalid(format!("certificate: {e}")))?;
    let key =
        PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| Error::Invalid(format!("private key: {e}")))?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|e| Error::Invalid(e.to_string()))?;
    match key.keys_match() {
        // `Unknown` is a key that cannot tell its public half; a handshake will.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(key),
        Err(e) => Err(Error::Invalid(e.to_string())),
    }
}

/// Every certificate of a PEM text as trust anchors.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        let cert = cert.map_err(|e| Error::Invalid(format!("CA certificate: {e}")))?;
        store.add(cert).map_err(|e| Error::Invalid(format!("CA certificate: {e}")))?;
    }
    if store.is_empty() {
        return Err(Error::Invalid("no CA certificate found".into()));
    }
    Ok(store)
}

/// Reads a file, naming it in the error.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e: io::Error| Error::File { path: path.to_owned(), reason: e.to_string() })
}

/// A server's certificate that follows its files.
#[derive(Debug)]
pub struct ServerCertificate {
    current: ArcSwap<CertifiedKey>,
    files: Option<(PathBuf, PathBuf)>,
}

impl ServerCertificate {
    /// A certificate that does not change.
    pub fn fixed(cert_pem: &[u8], key_pem: &[u8]) -> Result<Arc<Self>, Error> {
        let current = ArcSwap::from_pointee(certified_key(cert_pem, key_pem)?);
        Ok(Arc::new(Self { current, files: None }))
    }

    /// A certificate from files; [`ServerCertificate::follow`] keeps it current.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Arc<Self>, Error> {
        let loaded = certified_key(&read(cert)?, &read(key)?)?;
        let files = Some((cert.to_owned(), key.to_owned()));
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(loaded), files }))
    }

    /// Replaces the certificate; new connections get it.
    pub fn replace(&self, key: CertifiedKey) {
        self.current.store(Arc::new(key));
    }

    /// Reloads the files when they change, until shutdown. A file that cannot be loaded keeps the old certificate.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let Some((cert, key)) = self.files.clone() else { return };
        let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        let mut seen: Option<SystemTime> = modified(&cert);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
            }
            let now = modified(&cert);
            if now == seen {
                continue;
            }
            match read(&cert).and_then(|c| certified_key(&c, &read(&key)?)) {
                Ok(loaded) => {
                    tracing::info!(path = %cert.display(), "serving certificate reloaded");
                    self.replace(loaded);
                    seen = now;
                }
                Err(error) => tracing::warn!(%error, "keeping the old serving certificate"),
            }
        }
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

static ONLY_TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Which protocol versions and cipher suites a server offers: `--tls-min-version` and `--tls-cipher-suites`.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    only_tls13: bool,
    /// Suites of TLS 1.2; `None` is every one there is. Those of TLS 1.3 are all offered, as by Go's servers.
    suites: Option<Vec<rustls::CipherSuite>>,
}

/// Suites that Go's servers may be told to use and this one never does: none of them has forward secrecy and
/// authenticated encryption both.
const NEVER_OFFERED: [&str; 13] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

impl Offer {
    /// Reads the flags' texts; an empty version and no suites are the defaults. A list says what may be offered, so
    /// suites that are never offered here are passed over with a warning, unless nothing would be left.
    pub fn parse(min_version: &str, suites: &[String]) -> Result<Self, Error> {
        let only_tls13 = match min_version {
            "" | "VersionTLS12" => false,
            "VersionTLS13" => true,
            "VersionTLS10" | "VersionTLS11" => {
                return Err(Error::Invalid(format!(
                    "TLS version {min_version:?} is not supported: VersionTLS12 is the lowest"
                )));
            }
            other => return Err(Error::Invalid(format!("unknown tls version {other:?}"))),
        };
        let mut chosen = Vec::new();
        for name in suites.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            let plain = name.strip_suffix("_SHA256").filter(|n| n.ends_with("POLY1305")).unwrap_or(name);
            let known =
                provider().cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).find(|suite| {
                    let own = suite.as_str().unwrap_or_default().replace("TLS13_", "TLS_");
                    own == name || own.strip_suffix("_SHA256").is_some_and(|own| own == plain)
                });
            match known {
                Some(suite) => chosen.push(suite),
                None if NEVER_OFFERED.contains(&name) => {
                    tracing::warn!(suite = name, "this TLS cipher suite is never offered");
                }
                None => {
                    return Err(Error::Invalid(format!(
                        "Cipher suite {name} not supported or doesn't exist"
                    )));
                }
            }
        }
        if chosen.is_empty() && !suites.is_empty() && !only_tls13 {
            return Err(Error::Invalid("none of the TLS cipher suites is supported".into()));
        }
        Ok(Self { only_tls13, suites: (!suites.is_empty()).then_some(chosen) })
    }

    fn provider(&self) -> Arc<rustls::crypto::CryptoProvider> {
        let mut own = rustls::crypto::aws_lc_rs::default_provider();
        if let Some(suites) = &self.suites {
            own.cipher_suites.retain(|s| s.tls13().is_some() || suites.contains(&s.suite()));
        }
        Arc::new(own)
    }

    fn versions(&self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        let no_tls12 = self.suites.as_ref().is_some_and(|s| {
            !provider().cipher_suites.iter().any(|own| own.tls13().is_none() && s.contains(&own.suite()))
        });
        if self.only_tls13 || no_tls12 { ONLY_TLS13 } else { rustls::ALL_VERSIONS }
    }
}

/// A server configuration for HTTP/2 and HTTP/1.1. With client roots, a client certificate is asked for and must then
/// chain to one of them; a client without one is let through for other authenticators to judge.
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    client_roots: Option<RootCertStore>,
) -> Result<Arc<ServerConfig>, Error> {
    server_config_offering(certificate, client_roots, &Offer::default())
}

/// [`server_config`] that offers only these versions and suites.
pub fn server_config_offering(
    certificate: Arc<ServerCertificate>,
    client_roots: Option<RootCertStore>,
    offer: &Offer,
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(offer.provider())
        .with_protocol_versions(offer.versions())
        .map_err(|e| Error::Invalid(e.to_string()))?;
    let mut config = match client_roots {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|e| Error::Invalid(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(min: &str, suites: &[&str]) -> Result<(usize, Vec<String>), String> {
        let suites: Vec<String> = suites.iter().map(|s| (*s).to_owned()).collect();
        let offer = Offer::parse(min, &suites).map_err(|e| e.to_string())?;
        let provider = offer.provider();
        let tls12 = provider.cipher_suites.iter().filter(|s| s.tls13().is_none());
        let names = tls12.map(|s| s.suite().as_str().unwrap_or_default().to_owned()).collect();
        Ok((offer.versions().len(), names))
    }

    #[test]
    fn suites_are_named_as_in_go() {
        let gcm = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        let chacha = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305";
        assert_eq!(offered("", &[]).expect("defaults").0, 2);
        assert_eq!(offered("VersionTLS12", &[gcm]), Ok((2, vec![gcm.to_owned()])));
        assert_eq!(
            offered("", &[chacha, "TLS_RSA_WITH_AES_128_GCM_SHA256"]),
            Ok((2, vec![format!("{chacha}_SHA256")]))
        );
        assert_eq!(offered("VersionTLS13", &[]).expect("1.3").0, 1);
        assert_eq!(offered("", &["TLS_AES_128_GCM_SHA256"]), Ok((1, vec![])), "only suites of 1.3");
        for (min, suite) in [
            ("VersionTLS10", gcm),
            ("VersionTLS14", gcm),
            ("", "TLS_NONE"),
            ("", "TLS_RSA_WITH_AES_128_CBC_SHA"),
        ] {
            assert!(offered(min, &[suite]).is_err(), "{min} {suite}");
        }
    }
}
