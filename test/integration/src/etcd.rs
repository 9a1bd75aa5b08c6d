//! A real etcd on loopback that can be paused, killed, started again and filled.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use controlplane::StorageConfig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binary::free_port;

/// Longest wait for etcd to answer after its start.
const START: Duration = Duration::from_secs(30);
/// Pause between looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The process and its directory; both go when it is dropped.
pub struct Etcd {
    child: Option<Child>,
    dir: tempfile::TempDir,
    client: u16,
    peer: u16,
    flags: Vec<String>,
}

impl Etcd {
    /// Starts it with more flags than those for its place, and waits until it answers.
    pub async fn start(flags: &[&str]) -> anyhow::Result<Self> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (client, peer) = (free_port()?, free_port()?);
        let mut etcd = Self { child: None, dir: tempfile::tempdir()?, client, peer, flags };
        etcd.run().await?;
        Ok(etcd)
    }

    /// Starts it again where it was.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let child = Command::new("etcd")
            .args(["--name", "only", "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("only={peer}")])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("etcd (Debian's package etcd-server) is not installed")?;
        self.child = Some(child);
        let started = Instant::now();
        while self.client().await.is_err() {
            if started.elapsed() > START {
                bail!("etcd does not answer after its start");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// A client that etcd has answered.
    pub async fn client(&self) -> anyhow::Result<etcd_client::Client> {
        let mut client = etcd_client::Client::connect([self.url()], None).await?;
        client.status().await?;
        Ok(client)
    }

    /// Kills it, as by `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops it in the middle of whatever it does: connections stay, answers do not come.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("etcd does not run")?;
        Ok(kill(Pid::from_raw(child.id().cast_signed()), signal)?)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// The store of a server over it.
    pub fn storage(&self) -> StorageConfig {
        StorageConfig::Etcd { servers: vec![self.url()], ca: None, client: None }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // what is paused is killed all the same
        let _ = self.kill();
    }
}
