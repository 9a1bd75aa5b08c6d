//! Single binaries against a server in this process: starting, asking, ending them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Below what systems give to connections and the range of node ports.
const PORTS: Range<u16> = 10_000..30_000;

/// A program under test, killed when it is dropped.
pub struct Binary(Child);

impl Binary {
    /// Starts a program.
    pub fn start(path: &str, arguments: &[String]) -> anyhow::Result<Self> {
        let child = Command::new(path).args(arguments).spawn().with_context(|| path.to_owned())?;
        Ok(Self(child))
    }

    /// Waits until `found` finds something; fails when the program ends before.
    pub async fn until<T>(
        &mut self,
        what: &str,
        mut found: impl AsyncFnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            if let Some(value) = found().await {
                return Ok(value);
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("the program ended with {status} while waiting: {what}");
            }
            if started.elapsed() > PATIENCE {
                bail!("waited too long: {what}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the program to end, as a service manager does.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Stops the program where it is, until it is resumed.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a paused program go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.0.id().cast_signed()), signal)?)
    }

    /// Whether the program runs.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// Waits for the end of a program that was asked to, and tells whether it ended well.
    pub async fn ended(mut self) -> anyhow::Result<bool> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.success());
            }
            if started.elapsed() > PATIENCE {
                bail!("the program does not end");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the program to end and tells whether it ended well.
    pub async fn stop(self) -> anyhow::Result<bool> {
        self.terminate()?;
        self.ended().await
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of loopback that nobody listens on, and that this process has not given out lately. The system would choose one of
/// those it gives to connections too: some connection of another test may have it by the time a server asks for it.
pub fn free_port() -> anyhow::Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // far from those of a process with a number nearby
    let first = std::process::id().wrapping_mul(97);
    for _ in PORTS {
        let next = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (next % PORTS.len() as u32) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// Status and body of a plain HTTP request to loopback; `None` without an answer.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

/// Whether this process may make namespaces and has these programs. Says what is missing; with `CI` set that is a
/// failure, as a test that shows nothing must not pass there.
#[allow(clippy::print_stderr, reason = "the harness shows it to whoever runs the tests")]
pub fn able(programs: &[&str]) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut missing = Vec::new();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        missing.push("root");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&&str| {
        Path::new(program).is_absolute() && Path::new(program).exists()
            || std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    };
    missing.extend(programs.iter().filter(|p| !there(p)));
    if missing.is_empty() {
        return true;
    }
    let text = format!("SKIPPED, for want of {}", missing.join(", "));
    assert!(std::env::var_os("CI").is_none(), "{text}");
    eprintln!("{text}");
    false
}
