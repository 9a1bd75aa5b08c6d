//! A real etcd on loopback, killed when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_etcd::{Config, Etcd};

/// Longest wait for etcd to answer after its start.
const START: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    child: Option<Child>,
    dir: tempfile::TempDir,
    client: u16,
    peer: u16,
    tls: bool,
    flags: Vec<String>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more flags.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut server = Self {
            child: None,
            dir: tempfile::tempdir().unwrap(),
            client: free_port(),
            peer: free_port(),
            tls: false,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        server.run();
        server
    }

    /// With certificates from `make`, which writes `ca.pem`, `server.pem` and `server.key` into the directory.
    pub(crate) fn start_with_tls(make: impl FnOnce(&Path)) -> Self {
        let mut server = Self {
            child: None,
            dir: tempfile::tempdir().unwrap(),
            client: free_port(),
            peer: free_port(),
            tls: true,
            flags: Vec::new(),
        };
        make(server.dir.path());
        server.run();
        server
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it again where it was.
    pub(crate) fn run(&mut self) {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let mut command = Command::new("etcd");
        command
            .args(["--name", "only", "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.file("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("only={peer}")])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.tls {
            command.arg("--client-cert-auth");
            for (flag, name) in
                [("--trusted-ca-file", "ca.pem"), ("--cert-file", "server.pem"), ("--key-file", "server.key")]
            {
                command.arg(flag).arg(self.file(name));
            }
        }
        self.child = Some(command.spawn().expect("etcd (Debian's package etcd-server) is installed"));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// `kill -STOP`: connections stay, answers do not come.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// `kill -CONT`.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(id.cast_signed()), signal).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("http{}://127.0.0.1:{}", if self.tls { "s" } else { "" }, self.client)
    }

    pub(crate) fn config(&self) -> Config {
        Config { request_timeout: Duration::from_secs(5), ..Config::new(vec![self.url()]) }
    }

    pub(crate) async fn connect(&self) -> Arc<Etcd> {
        self.connect_with(self.config()).await
    }

    pub(crate) async fn connect_with(&self, config: Config) -> Arc<Etcd> {
        let connected = async {
            loop {
                match Etcd::connect(config.clone()).await {
                    Ok(etcd) => break etcd,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(START, connected).await.expect("etcd answers after its start")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
