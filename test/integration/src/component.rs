//! Single binaries of the control plane, run as processes against a server in this process, with the files kubeadm makes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ::component::pki::{Ca, KeyPem};
use anyhow::Context as _;
use client::Informer;
use controlplane::dev::Dev;
use controlplane::{ControlPlane, FrontProxy, Pem, StorageConfig};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Longest wait for something a component does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with RBAC, and a directory as `/etc/kubernetes` of a control plane node.
pub struct Lab {
    plane: ControlPlane,
    dev: Dev,
    shutdown: CancellationToken,
    dir: tempfile::TempDir,
}

impl Lab {
    /// Starts the server.
    pub async fn start() -> anyhow::Result<Self> {
        ::component::install_crypto();
        let mut dev = Dev::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), StorageConfig::Memory)?;
        let proxies = Ca::new("front-proxy-ca")?;
        dev.config.front_proxy = Some(FrontProxy {
            client_ca: Pem::Inline(proxies.pem().cert),
            allowed_names: vec!["front-proxy-client".into()],
            username_headers: vec!["X-Remote-User".into()],
            uid_headers: vec!["X-Remote-Uid".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_header_prefixes: vec!["X-Remote-Extra-".into()],
        });
        let shutdown = CancellationToken::new();
        let plane = ControlPlane::start(dev.config.clone(), shutdown.clone()).await?;
        let dir = tempfile::tempdir()?;
        dev.write(dir.path(), plane.address())?;
        std::fs::write(dir.path().join("front-proxy-ca.crt"), proxies.pem().cert)?;
        Ok(Self { plane, dev, shutdown, dir })
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.plane.wait().await;
    }

    /// A file of the directory: `ca.crt`, `ca.key`, `sa.key`, `front-proxy-ca.crt`, `kubeconfig`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a kubeconfig for a user with a certificate of its own.
    pub fn kubeconfig(&self, user: &str) -> anyhow::Result<PathBuf> {
        let KeyPem { cert, key } = self.dev.ca.issue_client(user, None)?;
        let path = self.file(&format!("{user}.conf"));
        let (certificate, private) = (path.with_extension("crt"), path.with_extension("key"));
        std::fs::write(&certificate, cert)?;
        std::fs::write(&private, key)?;
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {
                "server": format!("https://{}", self.plane.address()), "certificate-authority": self.file("ca.crt")}}],
            "users": [{"name": user, "user": {"client-certificate": certificate, "client-key": private}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        });
        std::fs::write(&path, text.to_string())?;
        Ok(path)
    }

    /// A client of the administrator.
    pub async fn admin(&self) -> anyhow::Result<kube::Client> {
        let options = client::config::ClientOptions {
            kubeconfig: Some(self.file("kubeconfig")),
            component: "test".into(),
            ..client::config::ClientOptions::default()
        };
        Ok(client::config::client_from(&options).await?)
    }

    /// Gets a path of a component's own port, as the administrator.
    pub async fn get(&self, port: u16, path: &str) -> anyhow::Result<String> {
        let options = client::config::ClientOptions {
            kubeconfig: Some(self.file("kubeconfig")),
            component: "test".into(),
            ..client::config::ClientOptions::default()
        };
        let mut config = client::config::config_from(&options).await?;
        config.cluster_url = format!("https://127.0.0.1:{port}").parse()?;
        config.accept_invalid_certs = true;
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(kube::Client::try_from(config)?.request_text(request).await?)
    }

    /// Runs a binary; it is killed when dropped.
    pub fn run(&self, binary: &Path, flags: &[String]) -> anyhow::Result<Child> {
        Command::new(binary)
            .args(flags)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| binary.display().to_string())
    }
}

/// Waits until a list of objects is as wanted.
pub async fn until<K>(
    informer: &Informer<K>,
    what: &str,
    wanted: impl Fn(&[Arc<K>]) -> bool,
) -> anyhow::Result<Vec<Arc<K>>>
where
    K: std::any::Any + Send + Sync,
{
    let changed = Arc::new(Notify::new());
    let tell = changed.clone();
    informer.on_event(move |_| tell.notify_one());
    let waited = async {
        loop {
            let list = informer.store().list();
            if wanted(&list) {
                return list;
            }
            changed.notified().await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.with_context(|| format!("waited in vain for {what}"))
}
