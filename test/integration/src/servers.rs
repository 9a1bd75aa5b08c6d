//! kube-apiserver as processes, and connections to them of which a test knows what is under way on them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ::component::http::{Body, full};
use ::component::pki::{Host, KeyPem};
use anyhow::Context as _;
use controlplane::StorageConfig;
use controlplane::dev::Dev;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::binary::{Binary, free_port};

/// What servers of one cluster share: certificates, keys, and the program.
pub struct ApiServers {
    program: String,
    dir: tempfile::TempDir,
    tls: Arc<rustls::ClientConfig>,
}

impl ApiServers {
    /// Makes certificates and keys; nothing runs yet.
    pub fn new(program: &str) -> anyhow::Result<Self> {
        ::component::install_crypto();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let dev = Dev::new(loopback, StorageConfig::Memory)?;
        let dir = tempfile::tempdir()?;
        dev.write(dir.path(), loopback)?;
        let hosts = [Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        let KeyPem { cert, key } = dev.ca.issue_server("kube-apiserver", None, &hosts)?;
        std::fs::write(dir.path().join("server.crt"), cert)?;
        std::fs::write(dir.path().join("server.key"), key)?;
        let chain = CertificateDer::pem_slice_iter(dev.admin.cert.as_bytes()).collect::<Result<_, _>>()?;
        let tls = rustls::ClientConfig::builder_with_provider(::component::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(::component::tls::roots(dev.ca.pem().cert.as_bytes())?)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(dev.admin.key.as_bytes())?)?;
        Ok(Self { program: program.to_owned(), dir, tls: Arc::new(tls) })
    }

    /// A file of the shared directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server on loopback and waits until it is ready.
    pub async fn start(&self, flags: &[String]) -> anyhow::Result<ApiServer> {
        let port = free_port()?;
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.file(name).display());
        let mut all = vec![
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            file("client-ca-file", "ca.crt"),
            file("tls-cert-file", "server.crt"),
            file("tls-private-key-file", "server.key"),
            file("service-account-key-file", "sa.key"),
            file("service-account-signing-key-file", "sa.key"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
        ];
        all.extend_from_slice(flags);
        let process = Binary::start(&self.program, &all)?;
        let mut server = ApiServer { process, port, tls: Arc::clone(&self.tls) };
        let door = server.door();
        server
            .process
            .until("it is ready", async || {
                let answer = door.get("/readyz").await.ok()?;
                (answer.0 == StatusCode::OK).then_some(())
            })
            .await?;
        Ok(server)
    }
}

/// A running server, killed when it is dropped.
pub struct ApiServer {
    /// The process.
    pub process: Binary,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

impl ApiServer {
    /// Where it listens.
    pub fn door(&self) -> Door {
        Door { port: self.port, tls: Arc::clone(&self.tls) }
    }
}

/// How to get to a server, as the administrator.
#[derive(Clone)]
pub struct Door {
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

impl Door {
    /// A new connection.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = self.encrypted(Arc::clone(&self.tls)).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// A new connection that speaks HTTP/2.
    pub async fn connect_http2(&self) -> anyhow::Result<Http2> {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = self.encrypted(Arc::new(tls)).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Http2 { sender })
    }

    async fn encrypted(&self, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<TlsStream<TcpStream>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        Ok(TlsConnector::from(tls).connect(name, stream).await?)
    }

    /// Gets a path by a connection of its own: status, headers and text.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, http::HeaderMap, String)> {
        let response = self.connect().await?.send("GET", path, full("")).await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok((parts.status, parts.headers, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Sends a request that must succeed by a connection of its own.
    pub async fn ok(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.connect().await?.send(method, path, full(text)).await?;
        let code = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(code.is_success(), "{method} {path}: {code} {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).context("an answer that is no JSON")
    }
}

/// A connection that many requests are sent on; clones are the same connection.
#[derive(Clone)]
pub struct Http2 {
    sender: http2::SendRequest<Body>,
}

impl Http2 {
    /// Gets a path: the status, or an error when the connection takes no more requests.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<StatusCode> {
        let response = self.send("GET", path, &[], "").await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }

    /// Sends a request and waits for the head of its answer; an error when the connection takes no more requests.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(format!("https://127.0.0.1{path}"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(full(body.to_owned()))?).await?)
    }
}

/// A connection that one request at a time is sent on.
pub struct Connection {
    sender: SendRequest<Body>,
}

impl Connection {
    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, method: &str, path: &str, body: Body) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(body)?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }
}
