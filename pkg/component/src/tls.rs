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

/// A server configuration for HTTP/2 and HTTP/1.1. With client roots, a client certificate is asked for and must then
/// chain to one of them; a client without one is let through for other authenticators to judge.
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    client_roots: Option<RootCertStore>,
) -> Result<Arc<ServerConfig>, Error> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
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
