//! The cluster under test: one made by `kubewright up`, with everything of the suite running in its control plane's
//! network, which has no route to this machine's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use cluster::spec::{Paths, Spec};
use serde_json::Value;

/// How to find or make the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) kubewright: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) name: String,
    pub(crate) nodes: u8,
    /// Port on this machine's loopback of a cluster that is started.
    pub(crate) port: u16,
    /// `embedded` or `etcd`; nothing leaves it to the running cluster.
    pub(crate) storage: Option<String>,
}

/// A running cluster.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) spec: Spec,
    /// Administrator's kubeconfig with the address that holds in the cluster's network.
    pub(crate) kubeconfig: PathBuf,
    /// Whether this program started it, and so takes it down.
    pub(crate) started: bool,
    wanted: Wanted,
}

fn kubewright(wanted: &Wanted, arguments: &[&str]) -> Command {
    let mut command = Command::new(&wanted.kubewright);
    command.args(arguments).arg("--data-dir").arg(&wanted.data).args(["--name", &wanted.name]);
    command
}

fn succeed(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot {what}"))?;
    ensure!(status.success(), "cannot {what}: {status}");
    Ok(())
}

/// Whether the cluster runs and is healthy.
fn healthy(wanted: &Wanted) -> bool {
    let out = kubewright(wanted, &["status"]).args(["-o", "json"]).stderr(Stdio::null()).output();
    let status: Option<Value> = out.ok().and_then(|out| serde_json::from_slice(&out.stdout).ok());
    status.is_some_and(|status| status["healthy"] == true)
}

impl Target {
    /// Takes the running cluster, or starts one.
    pub(crate) fn find_or_start(wanted: &Wanted, work: &Path) -> anyhow::Result<Self> {
        let paths = Paths::new(&wanted.data, &wanted.name);
        let started = !healthy(wanted);
        if started {
            let storage = wanted.storage.as_deref().unwrap_or("embedded");
            let (nodes, port) = (wanted.nodes.to_string(), wanted.port.to_string());
            let mut up = kubewright(wanted, &["up"]);
            up.args(["--nodes", &nodes, "--storage", storage, "--port", &port]);
            succeed(&mut up, "start a cluster")?;
        }
        let spec = paths.load()?.context("the cluster has no specification")?;
        if let Some(storage) = &wanted.storage {
            let is = storage_name(&spec);
            ensure!(
                is == storage,
                "the running cluster keeps its objects in {is}, not {storage}; take it down"
            );
        }
        ensure!(
            spec.nodes == wanted.nodes,
            "the running cluster has {} nodes, not {}; take it down or set NODES",
            spec.nodes,
            wanted.nodes
        );
        let kubeconfig = work.join("kubeconfig");
        let text = std::fs::read_to_string(paths.admin_kubeconfig())?;
        ensure!(text.contains(&spec.local_url()), "the administrator's kubeconfig names another address");
        // It holds the administrator's key.
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&kubeconfig)?;
        file.write_all(text.replace(&spec.local_url(), &Spec::internal_url()).as_bytes())?;
        Ok(Self { spec, kubeconfig, started, wanted: wanted.clone() })
    }

    /// Where the cluster keeps its objects.
    pub(crate) fn storage(&self) -> &'static str {
        storage_name(&self.spec)
    }

    /// A command in the control plane's network namespace: it reaches nodes, pods and the API server, and nothing else. It
    /// is interrupted when this program ends.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let handle = cluster::network::handle(&self.spec.netns("ctl"));
        command.arg(format!("--net={}", handle.display()));
        command.args(["--", "setpriv", "--pdeathsig", "INT"]).arg(program).stdin(Stdio::null());
        command
    }

    /// Makes sure that what runs there cannot reach beyond the cluster: its only link leads to the cluster's bridge, whose
    /// namespace has no other link and forwards nothing.
    pub(crate) fn ensure_isolated(&self) -> anyhow::Result<()> {
        let fabric = self.spec.netns("fabric");
        let links = cluster::command::run("ip", &["-n", &fabric, "-o", "link", "show"])?;
        let strange = links
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .find(|name| *name != "lo" && *name != "br0" && !name.starts_with("v-"));
        if let Some(name) = strange {
            bail!("the cluster's network has a link {name} that is not the cluster's");
        }
        let forwards =
            cluster::command::run("ip", &["netns", "exec", &fabric, "sysctl", "-n", "net.ipv4.ip_forward"])?;
        ensure!(forwards.trim() == "0", "the cluster's bridge forwards packets");
        Ok(())
    }

    /// Version of the server, as it tells.
    pub(crate) fn server_version(&self, kubectl: &Path) -> anyhow::Result<String> {
        let out = self
            .command(kubectl)
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .args(["get", "--raw", "/version"])
            .output()
            .context("cannot run kubectl")?;
        let version: Value = serde_json::from_slice(&out.stdout)
            .with_context(|| format!("no version: {}", String::from_utf8_lossy(&out.stderr)))?;
        Ok(version["gitVersion"].as_str().unwrap_or_default().to_owned())
    }

    /// Imports an archive of images into every node.
    pub(crate) fn import(&self, archive: &Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.wanted.kubewright);
        command.arg("images").arg("--data-dir").arg(&self.wanted.data).args(["--name", &self.wanted.name]);
        succeed(command.arg("import").arg(archive), "import the images")
    }

    /// Takes down the cluster and its data, if this program started it.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        if self.started {
            succeed(kubewright(&self.wanted, &["down"]).arg("--purge"), "take the cluster down")?;
        }
        Ok(())
    }
}

fn storage_name(spec: &Spec) -> &'static str {
    match spec.storage {
        cluster::spec::Storage::Embedded => "embedded",
        cluster::spec::Storage::Etcd | cluster::spec::Storage::External(_) => "etcd",
    }
}
