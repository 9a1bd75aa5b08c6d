//! Ending a cluster: nothing is left but its directory, and not that with `--purge`.

use std::path::Path;
use std::time::Duration;

use crate::launch::cgroup_prefix;
use crate::spec::Paths;
use crate::{Error, cgroups, network, process};

/// How long the server may take to finish requests and close its store.
const SERVER_GRACE: Duration = Duration::from_secs(20);
/// How often removing cgroups is tried, as the kernel lets go of dead processes a moment later.
const CGROUP_ATTEMPTS: u32 = 50;

/// Stops whatever of the cluster runs, also the remains of one that was killed.
pub fn down(data: &Path, name: &str, purge: bool) -> Result<(), Error> {
    let paths = Paths::new(data, name);
    // A node's first process first: with it everything in the node ends, and nothing writes to the server any more.
    for daemon in recorded(&paths) {
        if daemon.ends_with("-init") {
            stop(&paths, &daemon, Duration::ZERO)?;
        }
    }
    for daemon in ["server", "etcd"] {
        stop(&paths, daemon, SERVER_GRACE)?;
    }
    remove_kernel_objects(name)?;
    if purge && paths.root.exists() {
        std::fs::remove_dir_all(&paths.root).map_err(Error::file("remove", &paths.root))?;
    }
    Ok(())
}

fn stop(paths: &Paths, daemon: &str, grace: Duration) -> Result<(), Error> {
    if let Some(record) = process::running(paths, daemon) {
        record.stop(grace)?;
    }
    drop(std::fs::remove_file(paths.pid(daemon)));
    Ok(())
}

/// Names of the daemons that were recorded, running or not.
pub(crate) fn recorded(paths: &Paths) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(paths.root.join("run")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Removes namespaces with their links and rules, and cgroups.
fn remove_kernel_objects(name: &str) -> Result<(), Error> {
    for netns in network::namespaces(name) {
        network::remove(&netns);
    }
    let prefix = cgroup_prefix(name);
    for _ in 0..CGROUP_ATTEMPTS {
        if cgroups::remove(&prefix) == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(Error::Refused(format!("cgroups {prefix}* still hold processes")))
}

/// Removes what a node that no longer runs has left, so that it can be started anew.
pub(crate) fn clear_node(netns: &str, cgroup: &str) {
    network::remove(netns);
    cgroups::remove(cgroup);
}
