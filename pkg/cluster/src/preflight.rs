//! What the machine must have before a cluster can start; each refusal says what to do.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::spec::{Spec, Storage};

/// Programs a node needs, with the Debian package that has them.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables-restore", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("sysctl", "procps"),
];

/// Where CNI plug-ins are looked for.
const CNI_DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// CNI plug-ins the pod network uses.
const CNI_PLUGINS: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];

/// Checks all of it; `server_running` leaves the port out, as it is ours then.
pub fn check(spec: &Spec, server_running: bool) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Refused(
            "a cluster needs root: it makes namespaces, mounts and packet filter rules; run it with sudo"
                .into(),
        ));
    }
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if cni_directory().is_none() {
        missing.push("containernetworking-plugins");
    }
    if spec.storage == Storage::Etcd && find("etcd").is_none() {
        missing.push("etcd-server");
    }
    missing.dedup();
    if !missing.is_empty() {
        return Err(Error::Refused(format!(
            "missing programs; on Debian: apt-get install -y --no-install-recommends {}",
            missing.join(" ")
        )));
    }
    if !server_running && let Err(error) = TcpListener::bind(("127.0.0.1", spec.port)) {
        return Err(Error::Refused(format!(
            "port {} on the loopback address is not free ({error}); stop what uses it (ss -ltnp 'sport = :{}') or \
             choose another with --port",
            spec.port, spec.port
        )));
    }
    Ok(())
}

/// A program on the search path, or where Debian keeps administration programs.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The directory that holds all CNI plug-ins needed.
pub fn cni_directory() -> Option<&'static str> {
    CNI_DIRECTORIES
        .into_iter()
        .find(|directory| CNI_PLUGINS.iter().all(|plugin| Path::new(directory).join(plugin).is_file()))
}
