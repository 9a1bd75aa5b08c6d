//! The processes that are killed: kube-apiserver, one or several, and etcd.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use component::pki::{Ca, Host, signing_key};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a process to answer or to end.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Short, so that history is forgotten while others still read it.
const COMPACTION_INTERVAL: &str = "15s";

/// A program with its arguments, running or not.
pub(crate) struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    fn new(dir: &Path, name: &str, program: &Path, arguments: Vec<String>) -> Self {
        let log = dir.join(format!("{name}.log"));
        Self { name: name.to_owned(), program: program.to_owned(), arguments, log, child: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        kill(Pid::from_raw(child.id() as i32), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Ends it with a signal and waits until it is gone.
    pub(crate) async fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.signal(signal)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("{} did not end within {PATIENCE:?} of {signal}", self.name);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Fails when it has ended by itself.
    fn check(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            bail!("{} ended by itself: {status}; see {}", self.name, self.log.display());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // it may have ended already
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What keeps the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// The embedded store, under one server.
    Embedded,
    /// etcd, under two servers.
    Etcd,
}

/// A control plane on loopback.
pub(crate) struct Plane {
    pub(crate) servers: Vec<Process>,
    pub(crate) etcd: Option<Process>,
    /// One for each server.
    pub(crate) clients: Vec<Client>,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Plane {
    /// Starts everything in a directory, and waits until it is ready.
    pub(crate) async fn start(engine: Engine, apiserver: &Path, dir: &Path) -> anyhow::Result<Self> {
        let ca = Ca::new("soak")?;
        let serving = ca.issue_server("kube-apiserver", None, &[Host::Ip([127, 0, 0, 1].into())])?;
        let admin = ca.issue_client("soak", Some("system:masters"))?;
        let (signing, public) = signing_key()?;
        let files = [
            ("ca.crt", &ca.pem().cert),
            ("server.crt", &serving.cert),
            ("server.key", &serving.key),
            ("sa.key", &signing),
            ("sa.pub", &public),
        ];
        for (name, text) in files {
            std::fs::write(dir.join(name), text)?;
        }
        let (etcd, storage) = match engine {
            Engine::Embedded => (None, format!("--storage-dir={}", dir.join("store").display())),
            Engine::Etcd => {
                let (client, peer) = (free_port()?, free_port()?);
                (Some(etcd(dir, client, peer)), format!("--etcd-servers=http://127.0.0.1:{client}"))
            }
        };
        let count = if engine == Engine::Etcd { 2 } else { 1 };
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for i in 0..count {
            let port = free_port()?;
            let path = |name: &str| dir.join(name).display().to_string();
            let arguments = vec![
                storage.clone(),
                format!("--etcd-compaction-interval={COMPACTION_INTERVAL}"),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                format!("--secure-port={port}"),
                "--authorization-mode=RBAC".into(),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                "--request-timeout=20s".into(),
                format!("--client-ca-file={}", path("ca.crt")),
                format!("--tls-cert-file={}", path("server.crt")),
                format!("--tls-private-key-file={}", path("server.key")),
                format!("--service-account-key-file={}", path("sa.pub")),
                format!("--service-account-signing-key-file={}", path("sa.key")),
            ];
            servers.push(Process::new(dir, &format!("kube-apiserver-{i}"), apiserver, arguments));
            let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
            let kubeconfig = serde_json::json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "soak",
                "clusters": [{"name": "soak", "cluster": {
                    "server": format!("https://127.0.0.1:{port}"),
                    "certificate-authority-data": encode(&ca.pem().cert)}}],
                "users": [{"name": "soak", "user": {
                    "client-certificate-data": encode(&admin.cert), "client-key-data": encode(&admin.key)}}],
                "contexts": [{"name": "soak", "context": {"cluster": "soak", "user": "soak"}}],
            });
            let kubeconfig = Kubeconfig::from_yaml(&kubeconfig.to_string())?;
            let mut config =
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            // a write sent twice unseen could be refused for what the first one did
            config.default_retry = false;
            clients.push(Client::try_from(config)?);
        }
        let mut plane = Self { servers, etcd, clients };
        if let Some(etcd) = &mut plane.etcd {
            etcd.start()?;
        }
        for server in &mut plane.servers {
            server.start()?;
        }
        plane.wait_ready().await?;
        Ok(plane)
    }

    /// Waits until every server says that it is ready.
    pub(crate) async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for i in 0..self.servers.len() {
            loop {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                let answer =
                    tokio::time::timeout(Duration::from_secs(5), self.clients[i].request_text(request));
                if matches!(answer.await, Ok(Ok(_))) {
                    break;
                }
                self.servers[i].check()?;
                if let Some(etcd) = &mut self.etcd {
                    etcd.check()?;
                }
                if begun.elapsed() > PATIENCE {
                    bail!("{} is not ready after {PATIENCE:?}", self.servers[i].name());
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}

fn etcd(dir: &Path, client: u16, peer: u16) -> Process {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let arguments = vec![
        "--name=soak".into(),
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=soak={peer}"),
    ];
    Process::new(dir, "etcd", Path::new("etcd"), arguments)
}
