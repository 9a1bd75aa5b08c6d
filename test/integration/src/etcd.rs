//! An etcd on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use controlplane::StorageConfig;

use crate::binary::free_port;

/// Longest wait for it to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd, killed when it is dropped.
pub struct Etcd {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Etcd {
    /// Starts one with an empty store.
    pub fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (port, peer) = (free_port()?, format!("http://127.0.0.1:{}", free_port()?));
        let client = format!("http://127.0.0.1:{port}");
        let process = Command::new("etcd")
            .args(["--name", "only", "--log-level", "error"])
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("only={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("etcd, of Debian's package etcd-server")?;
        let etcd = Self { process, port, _dir: dir };
        let started = Instant::now();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while TcpStream::connect(address).is_err() {
            ensure!(started.elapsed() < PATIENCE, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(etcd)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// It as the store of a server.
    pub fn storage(&self) -> StorageConfig {
        StorageConfig::Etcd { servers: vec![self.url()], ca: None, client: None }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
