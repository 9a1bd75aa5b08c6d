//! One look at a container, for probes and hooks: run a command, ask over HTTP, connect, ask over gRPC.
//!
//! Sources: `pkg/probe`, `pkg/kubelet/lifecycle/handlers.go`, the gRPC health checking protocol.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::net::TcpStream;

use crate::podutil::resolve_port;

/// Most bytes of an answer that are read.
const MAX_BODY: usize = 10 * 1024;
/// Most redirects followed.
const MAX_REDIRECTS: usize = 10;

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Success,
    /// As it should be as far as could be seen, and why not further.
    Warning(String),
    /// Not as it should be, and what it said.
    Failure(String),
    /// Could not be found out.
    Unknown(String),
}

/// A request over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// Over TLS, without checking the certificate.
    pub tls: bool,
    /// Host or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// Headers to send.
    pub headers: Vec<(String, String)>,
}

impl HttpTarget {
    /// The target of an action in a container of a pod with this address.
    pub fn new(
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: &str,
        user_agent: &str,
    ) -> Result<Self, String> {
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        let path = action.path.as_deref().unwrap_or("/");
        let mut headers: Vec<(String, String)> =
            action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        let has = |headers: &[(String, String)], name: &str| {
            headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
        };
        if !has(&headers, "user-agent") {
            headers.push(("User-Agent".to_owned(), user_agent.to_owned()));
        }
        if !has(&headers, "accept") {
            headers.push(("Accept".to_owned(), "*/*".to_owned()));
        }
        headers.retain(|(_, value)| !value.is_empty());
        Ok(Self {
            tls: action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host,
            port: resolve_port(&action.port, container)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers,
        })
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// Asks over HTTP: 200 to 399 is success, with a warning when it is a redirect that is not followed.
pub async fn http_get(target: &HttpTarget, limit: Duration) -> Outcome {
    match tokio::time::timeout(limit, follow(target.clone())).await {
        Ok(Ok((status, _))) if (200..300).contains(&status) => Outcome::Success,
        Ok(Ok((status, body))) if (300..400).contains(&status) => {
            let body = String::from_utf8_lossy(&body);
            Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        Ok(Ok((status, _))) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(why)) => Outcome::Failure(format!("Get {:?}: {why}", target.url())),
        Err(_) => Outcome::Failure(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            target.url()
        )),
    }
}

/// Follows redirects on the same host. One to another host ends it.
async fn follow(mut target: HttpTarget) -> Result<(u16, Bytes), String> {
    for _ in 0..=MAX_REDIRECTS {
        let (status, location, body) = request(&target).await?;
        let Some(location) = location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)) else {
            return Ok((status, body));
        };
        let Ok(uri) = location.parse::<http::Uri>() else { return Ok((status, body)) };
        if uri.host().is_some_and(|h| h.trim_matches(['[', ']']) != target.host) {
            return Ok((status, body));
        }
        if let Some(scheme) = uri.scheme_str() {
            target.tls = scheme == "https";
            target.port = uri.port_u16().unwrap_or(if target.tls { 443 } else { 80 });
        }
        target.path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        target.headers.retain(|(n, _)| !n.eq_ignore_ascii_case("host"));
    }
    Err("stopped after 10 redirects".to_owned())
}

async fn request(target: &HttpTarget) -> Result<(u16, Option<String>, Bytes), String> {
    let text = |e: &dyn std::error::Error| e.to_string();
    let authority = target.authority();
    let stream = connect(&target.host, target.port).await?;
    let mut builder = http::Request::get(&target.path);
    let host = target.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("host")).map(|(_, v)| v.clone());
    builder = builder.header(http::header::HOST, host.unwrap_or(authority));
    for (name, value) in target.headers.iter().filter(|(n, _)| !n.eq_ignore_ascii_case("host")) {
        builder = builder.header(name, value);
    }
    let request = builder
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| text(&e))?;
    if !target.tls {
        return exchange(TokioIo::new(stream), request).await;
    }
    let name = rustls::pki_types::ServerName::try_from(target.host.clone()).map_err(|e| text(&e))?;
    let tls =
        tokio_rustls::TlsConnector::from(unverified()?).connect(name, stream).await.map_err(|e| text(&e))?;
    exchange(TokioIo::new(tls), request).await
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|e| {
        let why = if e.kind() == std::io::ErrorKind::ConnectionRefused {
            "connect: connection refused".to_owned()
        } else {
            e.to_string()
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("dial tcp {host}:{port}: {why}")
    })
}

async fn exchange<S>(
    io: TokioIo<S>,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, Option<String>, Bytes), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location =
            response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        // An answer too long to read is an answer nevertheless.
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok((status, location, body.map(http_body_util::Collected::to_bytes).unwrap_or_default()))
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    // Both live in this future: dropping it at a time limit ends the connection.
    tokio::select! {
        result = &mut answer => result,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Connects and hangs up.
pub async fn tcp(host: &str, port: u16, limit: Duration) -> Outcome {
    match tokio::time::timeout(limit, connect(host, port)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(why)) => Outcome::Failure(why),
        Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// Runs a command: exit code 0 is success.
pub async fn exec(runtime: &cri::Runtime, container: &str, command: &[String], limit: Duration) -> Outcome {
    match runtime.exec_sync(container, command, limit).await {
        Ok(done) if done.exit_code == 0 => Outcome::Success,
        Ok(done) => {
            let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&done.stderr));
            text.truncate(text.floor_char_boundary(MAX_BODY));
            Outcome::Failure(text)
        }
        Err(cri::Error::Timeout { .. }) => {
            Outcome::Failure(format!("command timed out: {command:?} timed out after {}s", limit.as_secs()))
        }
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// Asks `grpc.health.v1.Health/Check`: SERVING is success.
pub async fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    match tokio::time::timeout(limit, grpc_check(host, port, service)).await {
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(status)) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                _ => "SERVICE_UNKNOWN",
            };
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err(why)) => Outcome::Failure(why),
        Err(_) => Outcome::Failure(format!(
            "timeout: failed to connect service \"{host}:{port}\" within {limit:?}: context deadline exceeded"
        )),
    }
}

async fn grpc_check(host: &str, port: u16, service: &str) -> Result<u64, String> {
    let stream = connect(host, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
    let ask = async move {
        let request = http::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            .body(Full::new(health_request(service)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let head = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| e.to_string())?;
        let code = body.trailers().and_then(|t| t.get("grpc-status")).cloned().or(head);
        let code = code.as_ref().and_then(|c| c.to_str().ok()).unwrap_or("0").to_owned();
        if code != "0" {
            return Err(format!("rpc error: code = {code}: error in gRPC health check"));
        }
        health_status(&body.to_bytes()).ok_or_else(|| "malformed gRPC health answer".to_owned())
    };
    tokio::pin!(connection);
    tokio::select! {
        result = ask => result,
        ended = &mut connection => Err(ended.err().map_or_else(|| "connection closed".to_owned(), |e| e.to_string())),
    }
}

/// A `HealthCheckRequest`: one string, field 1, in a gRPC frame.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// The status of a `HealthCheckResponse`: one number, field 1, in a gRPC frame.
fn health_status(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

/// A TLS configuration that accepts any certificate: probes check that something answers, not who.
fn unverified() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = component::tls::provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _name: &rustls::pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers each connection with the next of these texts.
    async fn server(answers: Vec<&'static str>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn target(port: u16) -> HttpTarget {
        HttpTarget { tls: false, host: "127.0.0.1".into(), port, path: "/x".into(), headers: vec![] }
    }

    #[tokio::test]
    async fn http_statuses() {
        let limit = Duration::from_secs(5);
        let ok = "HTTP/1.1 204 No Content\r\n\r\n";
        let bad = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        let away = "HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 4\r\n\r\nMove";
        let here = "HTTP/1.1 302 Found\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n";
        for (answers, expected) in [
            (vec![ok], Outcome::Success),
            (vec![bad], Outcome::Failure("HTTP probe failed with statuscode: 503".into())),
            (vec![away], Outcome::Warning("Probe terminated redirects, Response body: Move".into())),
            (vec![here, bad], Outcome::Failure("HTTP probe failed with statuscode: 503".into())),
        ] {
            let port = server(answers).await;
            assert_eq!(http_get(&target(port), limit).await, expected);
        }
        let closed = server(vec![]).await;
        assert!(matches!(http_get(&target(closed), limit).await, Outcome::Failure(_)));
        assert!(matches!(tcp("127.0.0.1", closed, limit).await, Outcome::Failure(_)));
    }

    #[test]
    fn health_messages() {
        assert_eq!(health_request("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(health_request("a").as_ref(), [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
        assert_eq!(health_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(health_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(health_status(&[0, 0]), None);
    }
}
