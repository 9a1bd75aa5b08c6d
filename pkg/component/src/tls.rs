//! TLS configurations of servers: certificates that may change on disk, optional client certificates.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
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
    suites: Option<Vec<CipherSuite>>,
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
        // AES-128 is quicker than AES-256, most of all as its hash in handshakes is SHA-256; Go's servers prefer it too
        own.cipher_suites.sort_by_key(|s| s.suite().as_str().is_none_or(|name| !name.contains("AES_128")));
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
            builder.with_client_cert_verifier(Arc::new(Remembering { verifier, until: Mutex::default() }))
        }
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // clients that resume use one; others, as Go's, none
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Client certificates whose chain was verified that are remembered.
const REMEMBERED: usize = 256;
/// Seconds a chain is remembered, unless one of its certificates ends before.
const REMEMBERED_SECONDS: u64 = 60;

/// Verifies chains of client certificates, those of clients that connect again and again once in a while. That a client
/// has the key of its certificate is verified in each handshake.
#[derive(Debug)]
struct Remembering {
    verifier: Arc<dyn ClientCertVerifier>,
    /// When chains are to be verified again, as seconds since 1970.
    until: Mutex<HashMap<Vec<Vec<u8>>, u64>>,
}

/// When the first certificate of a chain ends, as seconds since 1970; `None` when one of them does not say.
fn end_of(chain: &[Vec<u8>]) -> Option<u64> {
    let end = |der: &Vec<u8>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        u64::try_from(certificate.validity().not_after.timestamp()).ok()
    };
    chain.iter().map(end).collect::<Option<Vec<u64>>>()?.into_iter().min()
}

impl ClientCertVerifier for Remembering {
    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).map(|c| c.to_vec()).collect();
        let seconds = now.as_secs();
        if self.until.lock().get(&chain).is_some_and(|until| seconds < *until) {
            return Ok(ClientCertVerified::assertion());
        }
        let verified = self.verifier.verify_client_cert(leaf, intermediates, now)?;
        let mut until = self.until.lock();
        if until.len() >= REMEMBERED {
            until.retain(|_, until| seconds < *until);
        }
        if until.len() < REMEMBERED
            && let Some(end) = end_of(&chain)
        {
            until.insert(chain, end.min(seconds + REMEMBERED_SECONDS));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Accepts connections with the server's order of cipher suites, or with the client's if that shows that the client has
/// no hardware for AES, as Go's servers do.
#[derive(Clone)]
pub struct Acceptor {
    ours: Arc<ServerConfig>,
    theirs: Arc<ServerConfig>,
}

impl Acceptor {
    /// An acceptor of this configuration.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        let mut ours = (*config).clone();
        ours.ignore_client_order = true;
        Self { ours: Arc::new(ours), theirs: config }
    }

    /// Does the handshake.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        let ours = prefers_aes(start.client_hello().cipher_suites());
        start.into_stream(Arc::clone(if ours { &self.ours } else { &self.theirs })).await
    }
}

/// Whether AES comes before ChaCha20 in what a client offers.
fn prefers_aes(offered: &[CipherSuite]) -> bool {
    let mut names = offered.iter().filter_map(CipherSuite::as_str);
    names
        .find(|name| name.contains("_GCM_") || name.contains("CHACHA20"))
        .is_none_or(|name| name.contains("_GCM_"))
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

    #[test]
    fn aes_128_comes_first_unless_the_client_has_none() {
        let suites = Offer::default().provider().cipher_suites.clone();
        let first = |tls13: bool| {
            suites.iter().find(|s| s.tls13().is_some() == tls13).map(rustls::SupportedCipherSuite::suite)
        };
        assert_eq!(first(true), Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert_eq!(first(false), Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256));
        let (aes, chacha) =
            (CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let reserved = CipherSuite::Unknown(0x0a0a);
        assert!(prefers_aes(&[reserved, aes, chacha]));
        assert!(!prefers_aes(&[reserved, chacha, aes]));
        assert!(prefers_aes(&[]));
    }

    #[test]
    fn chains_are_verified_again_after_a_while() {
        /// Accepts until it is told not to.
        #[derive(Debug)]
        struct Fickle(Arc<std::sync::atomic::AtomicBool>);

        impl ClientCertVerifier for Fickle {
            fn root_hint_subjects(&self) -> &[DistinguishedName] {
                &[]
            }
            fn verify_client_cert(
                &self,
                _: &CertificateDer<'_>,
                _: &[CertificateDer<'_>],
                _: UnixTime,
            ) -> Result<ClientCertVerified, rustls::Error> {
                if self.0.load(std::sync::atomic::Ordering::SeqCst) {
                    Ok(ClientCertVerified::assertion())
                } else {
                    Err(rustls::Error::General("no".into()))
                }
            }
            fn verify_tls12_signature(
                &self,
                _: &[u8],
                _: &CertificateDer<'_>,
                _: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                Ok(HandshakeSignatureValid::assertion())
            }
            fn verify_tls13_signature(
                &self,
                _: &[u8],
                _: &CertificateDer<'_>,
                _: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                Ok(HandshakeSignatureValid::assertion())
            }
            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                Vec::new()
            }
        }

        let accepting = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let verifier =
            Remembering { verifier: Arc::new(Fickle(Arc::clone(&accepting))), until: Mutex::default() };
        let verify = |leaf: &[u8], rest: &[&[u8]], seconds: u64| {
            let rest: Vec<_> = rest.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verifier.verify_client_cert(&CertificateDer::from(leaf.to_vec()), &rest, now).is_ok()
        };
        let ca = crate::pki::Ca::new("clients").expect("a CA");
        let der = |user: &str| {
            let pem = ca.issue_client(user, None).expect("a certificate").cert;
            CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM").to_vec()
        };
        let (one, two) = (der("one"), der("two"));
        assert!(verify(&one, &[&two], 100));
        // one that ends is remembered until then
        let ends = end_of(std::slice::from_ref(&one)).expect("an end");
        assert!(verify(&one, &[], ends - 10));
        assert!(verify(b"no certificate", &[], 100));
        for i in 0..2 * REMEMBERED {
            let chain: Vec<&[u8]> =
                (0..10).map(|bit| if i >> bit & 1 == 0 { &*one } else { &*two }).collect();
            assert!(verify(&two, &chain, 100), "more than are remembered");
        }
        assert!(verifier.until.lock().len() <= REMEMBERED);
        accepting.store(false, std::sync::atomic::Ordering::SeqCst);
        assert!(verify(&one, &[&two], 159));
        assert!(!verify(&one, &[&two], 160), "after a minute");
        assert!(verify(&one, &[], ends - 1));
        assert!(!verify(&one, &[], ends), "after its end");
        assert!(!verify(b"no certificate", &[], 100), "whose end is not known");
        assert!(!verify(&two, &[&one], 100));
    }
}
