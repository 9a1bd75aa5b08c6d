//! Connections to where requests go: TCP, TLS where asked for, HTTP/1.1 (which is what can be upgraded).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use component::http::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{KubeletConfig, Location, Trust};

/// Longest a connection and its TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request did not get to where it should.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection.
    #[error("dial tcp {address}: {}", go_text(source))]
    Dial {
        /// Where to.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Connecting took too long.
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(String),
    /// The TLS handshake failed.
    #[error("tls: {0}")]
    Tls(std::io::Error),
    /// The name cannot be in a certificate.
    #[error("invalid host {0:?}")]
    Host(String),
    /// The other side did not answer properly.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The TLS configuration cannot be made.
    #[error("invalid TLS configuration: {0}")]
    Config(rustls::Error),
}

/// The words clients know of a connection that was not made.
fn go_text(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        ErrorKind::ConnectionReset => "connect: connection reset by peer".into(),
        ErrorKind::HostUnreachable => "connect: no route to host".into(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        ErrorKind::TimedOut => "connect: connection timed out".into(),
        _ => error.to_string(),
    }
}

/// Accepts any certificate, yet checks that the other side has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client configuration with or without our certificate, checking theirs or not.
fn client_config(
    kubelet: &KubeletConfig,
    ours: bool,
    check: bool,
) -> Result<Arc<ClientConfig>, TransportError> {
    let provider = component::tls::provider();
    let verifier: Arc<dyn ServerCertVerifier> = match &kubelet.ca {
        Some(roots) if check => {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone())
                .build()
                .map_err(|e| TransportError::Config(rustls::Error::General(e.to_string())))?
        }
        _ => Arc::new(AnyCertificate(provider.clone())),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TransportError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &kubelet.client {
        Some((chain, key)) if ours => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(TransportError::Config)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Opens connections and owns the tasks that drive them.
pub struct Connector {
    checked: Arc<ClientConfig>,
    unchecked: Arc<ClientConfig>,
    anonymous: Arc<ClientConfig>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Connector {
    /// Connects with these credentials; connections end at shutdown.
    pub fn new(kubelet: &KubeletConfig, shutdown: CancellationToken) -> Result<Self, TransportError> {
        Ok(Self {
            checked: client_config(kubelet, true, true)?,
            unchecked: client_config(kubelet, true, false)?,
            anonymous: client_config(kubelet, false, false)?,
            tasks: TaskTracker::new(),
            shutdown,
        })
    }

    /// Waits for the connections to end, after shutdown was asked for.
    pub async fn stop(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Runs something until it is done or shutdown comes.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        });
    }

    async fn open(&self, location: &Location) -> Result<Box<dyn Stream>, TransportError> {
        let authority = location.authority();
        let tcp = TcpStream::connect((location.host.as_str(), location.port))
            .await
            .map_err(|source| TransportError::Dial { address: authority.clone(), source })?;
        // streams of a terminal are small writes
        let _ = tcp.set_nodelay(true);
        if !location.secure {
            return Ok(Box::new(tcp));
        }
        let config = match location.trust {
            Trust::Kubelet => &self.checked,
            Trust::KubeletUnchecked => &self.unchecked,
            Trust::Anything => &self.anonymous,
        };
        let name = ServerName::try_from(location.host.clone())
            .map_err(|_| TransportError::Host(location.host.clone()))?;
        let tls = TlsConnector::from(config.clone()).connect(name, tcp).await.map_err(TransportError::Tls)?;
        Ok(Box::new(tls))
    }

    /// Sends a request on a connection of its own and gives the head of the answer. The request's URI must be a path.
    pub(crate) async fn send(
        &self,
        location: &Location,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TransportError> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.open(location))
            .await
            .map_err(|_| TransportError::Timeout(location.authority()))??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "proxied connection ended");
            }
        });
        Ok(sender.send_request(request).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component::pki::{Ca, Host};
    use component::serving::{ConnInfo, Limits, serve};
    use component::tls::{ServerCertificate, roots, server_config};
    use http_body_util::BodyExt;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;

    /// A kubelet on loopback that says how many certificates its client showed.
    async fn kubelet(ca: &Ca, shutdown: CancellationToken) -> Location {
        let serving = ca
            .issue_server("kubelet", None, &[Host::Ip("127.0.0.1".parse().expect("ip"))])
            .expect("certificate");
        let certificate =
            ServerCertificate::fixed(serving.cert.as_bytes(), serving.key.as_bytes()).expect("key");
        let trusted = roots(ca.pem().cert.as_bytes()).expect("roots");
        let tls = server_config(certificate, Some(trusted)).expect("configuration");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        let handler = |request: Request<Body>| -> futures::future::BoxFuture<'static, Response<Body>> {
            let shown = request.extensions().get::<Arc<ConnInfo>>().map_or(0, |info| info.certificates.len());
            Box::pin(async move { Response::new(component::http::full(shown.to_string())) })
        };
        tokio::spawn(serve(listener, Some(tls), Arc::new(handler), Limits::default(), shutdown));
        Location {
            secure: true,
            host: "127.0.0.1".into(),
            port,
            path: "/healthz".into(),
            query: String::new(),
            trust: Trust::Kubelet,
        }
    }

    async fn ask(
        config: &KubeletConfig,
        location: &Location,
        shutdown: &CancellationToken,
    ) -> Result<String, String> {
        let connector = Connector::new(config, shutdown.clone()).expect("connector");
        let request = Request::builder().uri("/healthz").body(component::http::empty()).expect("request");
        let answer = connector.send(location, request).await.map_err(|e| e.to_string())?;
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn kubelets_are_checked_and_shown_a_certificate() {
        component::install_crypto();
        let shutdown = CancellationToken::new();
        let (ours, theirs) = (Ca::new("ours").expect("ca"), Ca::new("theirs").expect("ca"));
        let location = kubelet(&ours, shutdown.clone()).await;
        let client =
            ours.issue_client("kube-apiserver-kubelet-client", Some("system:masters")).expect("certificate");
        let chain = CertificateDer::pem_slice_iter(client.cert.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .expect("chain");
        let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).expect("key");
        let config = |ca: Option<&Ca>| KubeletConfig {
            client: Some((chain.clone(), key.clone_key())),
            ca: ca.map(|ca| roots(ca.pem().cert.as_bytes()).expect("roots")),
            ..KubeletConfig::default()
        };
        assert_eq!(ask(&config(Some(&ours)), &location, &shutdown).await.as_deref(), Ok("1"));
        assert_eq!(ask(&config(None), &location, &shutdown).await.as_deref(), Ok("1"));
        let refused = ask(&config(Some(&theirs)), &location, &shutdown).await.expect_err("another CA");
        assert!(refused.starts_with("tls: "), "{refused}");
        let unchecked = Location { trust: Trust::KubeletUnchecked, ..location.clone() };
        assert_eq!(ask(&config(Some(&theirs)), &unchecked, &shutdown).await.as_deref(), Ok("1"));
        // what is no kubelet never sees our certificate
        let anything = Location { trust: Trust::Anything, ..location };
        assert_eq!(ask(&config(None), &anything, &shutdown).await.as_deref(), Ok("0"));
        shutdown.cancel();
    }
}
