//! A cluster made by `kubewright up`, and everything of it that a test may look at.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::kubectl::{Arguments, Kubectl};
use crate::process::{Ended, Running, run};
use crate::settings::Settings;

/// Nodes of the clusters under test.
pub const NODES: u8 = 3;
/// Clusters made by this process, for their names.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Where a cluster keeps its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// The server's own store.
    Embedded,
    /// An etcd beside the server.
    Etcd,
}

impl Storage {
    /// The value of `--storage`.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
        }
    }
}

/// A running cluster; dropping it takes it down with its data.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    directory: TempDir,
    name: String,
    port: u16,
    nodes: u8,
    storage: Storage,
}

impl Cluster {
    /// Starts a cluster and imports the test images.
    pub fn start(settings: &Settings, storage: Storage, nodes: u8) -> anyhow::Result<Self> {
        let cluster = Self::prepare(settings, storage, nodes)?;
        cluster.up()?.success()?;
        let archives = settings.archives();
        let mut import = cluster.kubewright("images");
        import.arg("import").args(archives);
        run(&mut import, "")?.success()?;
        Ok(cluster)
    }

    /// A cluster that is not started: its name, a free port and a directory.
    pub fn prepare(settings: &Settings, storage: Storage, nodes: u8) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("kubewright-e2e-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let count = MADE.fetch_add(1, Ordering::Relaxed);
        // At most 12 characters: letter, process number (7 digits at most), letter, count.
        let name = format!("e{}x{count}", std::process::id());
        Ok(Self { settings: settings.clone(), directory, name, port, nodes, storage })
    }

    /// Name of the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Port of the API server on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its objects.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The cluster's directory.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    /// `kubewright SUBCOMMAND` for this cluster, not started.
    pub fn kubewright(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.settings.kubewright);
        command.arg(subcommand).arg("--data-dir").arg(self.directory.path()).args(["--name", &self.name]);
        command
    }

    /// `kubewright up`, run to its end.
    pub fn up(&self) -> anyhow::Result<Ended> {
        let mut command = self.kubewright("up");
        command.args(["--port", &self.port.to_string(), "--nodes", &self.nodes.to_string()]);
        command.args(["--storage", self.storage.flag()]);
        run(&mut command, "")
    }

    /// `kubewright down --purge`, run to its end.
    pub fn down(&self) -> anyhow::Result<Ended> {
        run(self.kubewright("down").arg("--purge"), "")
    }

    /// `kubewright status -o json`; it exits non-zero when something is not well, which is no failure here.
    pub fn status(&self) -> anyhow::Result<Value> {
        let ended = run(self.kubewright("status").args(["-o", "json"]), "")?;
        serde_json::from_str(&ended.stdout)
            .with_context(|| format!("no status: {}{}", ended.stdout, ended.stderr))
    }

    /// Number of a component's process, as `status` tells it.
    pub fn pid(&self, machine: &str, component: &str) -> anyhow::Result<i32> {
        let status = self.status()?;
        let components = status["components"].as_array().context("status has no components")?;
        components
            .iter()
            .find(|c| c["machine"] == machine && c["name"] == component)
            .and_then(|c| c["pid"].as_i64())
            .map(|pid| pid as i32)
            .with_context(|| format!("no process of {component} on {machine}: {status}"))
    }

    /// `kill -9` of a component's process; gives its number.
    pub fn kill(&self, machine: &str, component: &str) -> anyhow::Result<i32> {
        let pid = self.pid(machine, component)?;
        run(Command::new("kill").args(["-9", &pid.to_string()]), "")?.success()?;
        Ok(pid)
    }

    /// kubectl as the cluster's administrator: the next version of it with etcd, so that every topic meets both.
    pub fn kubectl(&self, namespace: &str) -> Kubectl {
        let home = self.directory.path();
        let program = match self.storage {
            Storage::Embedded => &self.settings.kubectl,
            Storage::Etcd => &self.settings.kubectl_next,
        };
        Kubectl::new(program, &self.root().join("admin.conf"), home, namespace)
    }

    /// Name of the network namespace of a machine: `fabric`, `ctl` or a node.
    pub fn netns(&self, machine: &str) -> String {
        format!("kw-{}-{machine}", self.name)
    }

    /// A program in the network of a machine, not started.
    pub fn on_machine(&self, machine: &str, arguments: impl Arguments) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns(machine)]).args(arguments.arguments());
        command
    }

    /// Runs a program in the network of a machine; it must succeed.
    pub fn run_on(&self, machine: &str, arguments: impl Arguments) -> anyhow::Result<String> {
        run(&mut self.on_machine(machine, arguments), "")?.success()
    }

    /// Starts a program in the network of a machine.
    pub fn start_on(&self, machine: &str, arguments: impl Arguments) -> anyhow::Result<Running> {
        Running::start(&mut self.on_machine(machine, arguments))
    }

    /// HTTP from a machine's own network: the body of the answer.
    pub fn fetch_from(&self, machine: &str, url: &str) -> anyhow::Result<String> {
        self.run_on(machine, ["busybox", "timeout", "5", "busybox", "wget", "-q", "-O", "-", url])
    }

    /// A program in a node's file system and processes; it must succeed.
    pub fn run_in_node(&self, node: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let init = self.pid(node, "init")?.to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &init, "--mount", "--pid", "--net", "--"]).args(arguments);
        run(&mut command, "")?.success()
    }

    /// What of the cluster is left on this machine: namespaces, cgroups, mounts, processes, files.
    pub fn remains(&self) -> anyhow::Result<Vec<String>> {
        let mut left = Vec::new();
        let prefix = format!("kw-{}-", self.name);
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) {
                left.push(format!("network namespace {name}"));
            }
        }
        let needle = self.directory.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(mounts.lines().filter(|line| line.contains(&needle)).map(|line| format!("mount {line}")));
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&needle) && pid != std::process::id() {
                left.push(format!("process {pid} {line}"));
            }
        }
        let cgroup = format!("kubewright-{}-", self.name);
        let found = run(Command::new("find").args(["/sys/fs/cgroup", "-name", &format!("{cgroup}*")]), "")?;
        left.extend(found.stdout.lines().map(|path| format!("cgroup {path}")));
        if self.root().exists() {
            left.push(format!("directory {}", self.root().display()));
        }
        Ok(left)
    }

    /// Fails unless every component is healthy.
    pub fn ensure_healthy(&self) -> anyhow::Result<()> {
        let status = self.status()?;
        ensure!(status["healthy"] == true, "not healthy: {status}");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.down().and_then(Ended::success) {
            // A destructor has no other way to tell.
            #[allow(clippy::print_stderr, reason = "the person running the tests must clean up by hand")]
            {
                eprintln!("cluster {} could not be taken down: {error:#}", self.name);
            }
        }
    }
}
