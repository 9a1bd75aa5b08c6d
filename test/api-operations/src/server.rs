//! The server under test: the kube-apiserver binary, over TLS, with a client certificate and RBAC, on a store on disk.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use component::pki::{Ca, Host, signing_key};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::client::Client;

/// Longest wait for a process to serve.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at whether it does.
const POLL: Duration = Duration::from_millis(20);
/// Longest wait for a process to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A storage engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Storage {
    /// The server's own store, in a directory.
    Embedded,
    /// etcd, as Debian packages it.
    Etcd,
}

/// A running server with its store.
pub(crate) struct Server {
    api: Child,
    etcd: Option<Child>,
    dir: tempfile::TempDir,
    /// Its administrator.
    pub(crate) client: Client,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn spawn(command: &mut Command, dir: &Path, name: &str) -> anyhow::Result<Child> {
    let log = std::fs::File::create(dir.join(name))?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{name}: {command:?}"))
}

async fn start_etcd(dir: &Path) -> anyhow::Result<(Child, String)> {
    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")]);
    let etcd = spawn(&mut command, dir, "etcd.log")?;
    let by = tokio::time::Instant::now() + START_LIMIT;
    while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        ensure!(tokio::time::Instant::now() < by, "etcd does not listen");
        tokio::time::sleep(POLL).await;
    }
    Ok((etcd, url))
}

/// Certificates and keys of a server at a port, in files, and a kubeconfig of its administrator.
fn credentials(dir: &Path, port: u16) -> anyhow::Result<Kubeconfig> {
    let ca = Ca::new("kubernetes")?;
    let host = Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let serving = ca.issue_server("kube-apiserver", None, &[host])?;
    let admin = ca.issue_client("kubernetes-admin", Some("system:masters"))?;
    let (private, public) = signing_key()?;
    let authority = ca.pem();
    for (name, text) in [
        ("ca.crt", &authority.cert),
        ("tls.crt", &serving.cert),
        ("tls.key", &serving.key),
        ("sa.key", &private),
        ("sa.pub", &public),
    ] {
        std::fs::write(dir.join(name), text)?;
    }
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "walk",
        "clusters": [{"name": "walk", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": STANDARD.encode(&authority.cert),
        }}],
        "contexts": [{"name": "walk", "context": {"cluster": "walk", "user": "admin"}}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": STANDARD.encode(&admin.cert),
            "client-key-data": STANDARD.encode(&admin.key),
        }}],
    });
    Ok(serde_json::from_value(config)?)
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub(crate) async fn start(binary: &Path, storage: Storage) -> anyhow::Result<Self> {
        component::install_crypto();
        let dir = tempfile::Builder::new().prefix("api-operations-").tempdir()?;
        let port = free_port()?;
        let kubeconfig = credentials(dir.path(), port)?;
        let file = |name: &str| dir.path().join(name).display().to_string();
        let (etcd, store) = match storage {
            Storage::Embedded => (None, format!("--storage-dir={}", file("store"))),
            Storage::Etcd => {
                let (etcd, url) = start_etcd(dir.path()).await?;
                (Some(etcd), format!("--etcd-servers={url}"))
            }
        };
        let mut command = Command::new(binary);
        command.arg(store).args(["--bind-address=127.0.0.1", &format!("--secure-port={port}")]).args([
            format!("--tls-cert-file={}", file("tls.crt")),
            format!("--tls-private-key-file={}", file("tls.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--anonymous-auth=false".to_owned(),
            "--allow-privileged=true".to_owned(),
        ]);
        let api = spawn(&mut command, dir.path(), "kube-apiserver.log")?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // A refusal has to be seen, not tried again.
        config.default_retry = false;
        let client = Client::new(kube::Client::try_from(config)?);
        let mut server = Self { api, etcd, dir, client };
        server.ready().await?;
        Ok(server)
    }

    /// Where the processes' logs are.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("kube-apiserver.log")
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let by = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if let Ok(answer) = self.client.get("/readyz").await
                && answer.code == 200
            {
                return Ok(());
            }
            if let Some(status) = self.api.try_wait()? {
                bail!("kube-apiserver ended ({status}): {}", std::fs::read_to_string(self.log())?);
            }
            if tokio::time::Instant::now() > by {
                bail!("kube-apiserver is not ready: {}", std::fs::read_to_string(self.log())?);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the processes; the server has to end by itself when asked.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.api.id().context("kube-apiserver ended")?;
        let asked = Command::new("kill").arg(id.to_string()).status().await?;
        ensure!(asked.success(), "kill {id}: {asked}");
        tokio::time::timeout(STOP_LIMIT, self.api.wait()).await.context("kube-apiserver does not end")??;
        if let Some(mut etcd) = self.etcd.take() {
            etcd.kill().await?;
        }
        Ok(())
    }
}
