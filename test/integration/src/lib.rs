//! Integration tests: the API server in this process, no nodes.
//!
//! [`Cluster`] is a server on loopback with a store in memory. Most tests talk to its handler directly
//! ([`Cluster::call`]), which is the code that serves the network, without sockets; the others use kubectl and kube.

pub mod binary;
pub mod component;
pub mod etcd;
pub mod events;
pub mod servers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ::component::http::{Body, full};
use anyhow::{Context as _, bail};
use apiserver::InProcess;
use auth::UserInfo;
use bytes::Bytes;
use controlplane::dev::Dev;
use controlplane::{Config, ControlPlane, StorageConfig};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A running server.
pub struct Cluster {
    plane: ControlPlane,
    shutdown: CancellationToken,
    dir: tempfile::TempDir,
}

/// What a request was answered with.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub bytes: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body, which came compressed.
    pub fn unpacked(&self) -> Vec<u8> {
        use std::io::Read as _;
        assert_eq!(self.header("content-encoding"), "gzip");
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&self.bytes[..]).read_to_end(&mut out).expect("gzip");
        out
    }

    /// A header's text, empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// `message` of a Status.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or("").to_owned()
    }
}

impl Cluster {
    /// Starts a server with a store in memory.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(StorageConfig::Memory).await
    }

    /// Starts a server with a store.
    pub async fn with(storage: StorageConfig) -> anyhow::Result<Self> {
        Self::configured(storage, |_| {}).await
    }

    /// Starts a server with a store and changes to its configuration.
    pub async fn configured(
        storage: StorageConfig,
        configure: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        ::component::install_crypto();
        ::component::logs::init(&::component::logs::Options::default());
        let dir = tempfile::tempdir()?;
        let mut dev = Dev::new(SocketAddr::from(([127, 0, 0, 1], 0)), storage)?;
        configure(&mut dev.config);
        let shutdown = CancellationToken::new();
        let plane = ControlPlane::start(dev.config.clone(), shutdown.clone()).await?;
        dev.write(dir.path(), plane.address())?;
        Ok(Self { plane, shutdown, dir })
    }

    /// Ends the server and waits for it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.plane.wait().await;
    }

    /// The server.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// A kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Sends a request as the administrator. The content type is JSON unless a header says otherwise.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        self.call_with(method, path, body, &[]).await
    }

    /// Sends a request with headers.
    pub async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let user = UserInfo::new("admin", &["system:masters", "system:authenticated"]);
        self.call_as(user, method, path, full(body.to_owned()), headers).await
    }

    /// Sends a request as a user.
    pub async fn call_as(
        &self,
        user: UserInfo,
        method: &str,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let response = self.open(user, method, path, body, headers).await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map_err(|e| anyhow::anyhow!(e))?.to_bytes();
        Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, bytes })
    }

    /// Sends a request and leaves the body to be read, as watches need it.
    pub async fn open(
        &self,
        user: UserInfo,
        method: &str,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<http::Response<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body)?;
        request.extensions_mut().insert(InProcess(Arc::new(user)));
        Ok(Arc::clone(self.plane.server()).respond(request).await)
    }

    /// Sends a request that must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.call(method, path, &text).await?;
        if !(200..300).contains(&answer.code) {
            bail!("{method} {path}: {} {}", answer.code, answer.text());
        }
        Ok(answer.json())
    }

    /// Runs kubectl against the server over the network; `None` when there is no kubectl on this machine.
    pub async fn kubectl(&self, arguments: &[&str], stdin: &str) -> anyhow::Result<Option<String>> {
        use tokio::io::AsyncWriteExt as _;
        let Some(kubectl) = kubectl() else { return Ok(None) };
        let mut child = tokio::process::Command::new(kubectl)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(stdin.as_bytes()).await?;
        }
        let output = child.wait_with_output().await.context("kubectl")?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("kubectl {arguments:?}: {text}");
        }
        Ok(Some(text))
    }
}

/// The kubectl to test with: `$KUBECTL`, or the one on the path.
fn kubectl() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("KUBECTL") {
        return Some(given.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.is_file())
}
