//! Starting a node: this process joins the node's cgroup and network, makes its other namespaces and starts the first
//! process in them.
//!
//! Must run before any thread is started, as it is the process itself that moves. It ends at once; the node goes on.

use std::fs::File;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

use crate::spec::{Paths, Spec};
use crate::{Error, cgroups, network, process};

/// Name of the subcommand that becomes a node's first process.
pub const INIT_COMMAND: &str = "node-init";
/// Name of the subcommand that runs [`node`].
pub const LAUNCH_COMMAND: &str = "node-launch";

/// Moves this process into a network namespace; what it opened before stays where it was opened.
pub fn enter_network(netns: &str) -> Result<(), Error> {
    let path = network::handle(netns);
    let file = File::open(&path).map_err(Error::file("open", &path))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(Error::system(format!("enter network namespace {netns}")))
}

/// Name of a node's cgroup.
pub(crate) fn cgroup(spec: &Spec, node: &str) -> String {
    format!("{}{node}", cgroup_prefix(&spec.name))
}

/// What the cgroup names of a cluster's nodes start with.
pub(crate) fn cgroup_prefix(cluster: &str) -> String {
    format!("kubewright-{cluster}-")
}

/// Starts the node and records its first process as `NODE-init`.
pub fn node(paths: &Paths, spec: &Spec, node: &str) -> Result<(), Error> {
    cgroups::join(&cgroup(spec, node))?;
    enter_network(&spec.netns(node))?;
    let new = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID;
    unshare(new).map_err(Error::system("make the node's namespaces"))?;
    let daemon = format!("{node}-init");
    let path = paths.log(&daemon);
    let log = process::open_log(&path)?;
    let errors = log.try_clone().map_err(Error::file("write", &path))?;
    // The PID namespace takes effect for children: this one is number 1 in it.
    let child = Command::new("/proc/self/exe")
        .args([INIT_COMMAND, "--data-dir"])
        .arg(paths.root.parent().unwrap_or(&paths.root))
        .args(["--name", &spec.name, "--node", node])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|e| Error::Command { command: INIT_COMMAND.into(), reason: e.to_string() })?;
    process::record(paths, &daemon, child.id() as i32).map(drop)
}
