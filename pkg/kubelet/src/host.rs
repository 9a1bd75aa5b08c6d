//! What a kubelet that owns its machine sets at start: limits of its own process, and the kernel's settings that pods
//! rely on.
//!
//! Kept apart from [`crate::run`], as a kubelet that shares the machine with others (a node in a namespace, a test) must
//! not touch these. Source: `pkg/kubelet/cm/container_manager_linux.go`, `pkg/util/sysctl`.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::HostSettings;

/// Kernel settings below `/proc/sys` with the values that upstream wants.
const SETTINGS: [(&str, i64); 6] = [
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// Why the machine cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings differ, and `protectKernelDefaults` forbids to change them.
    #[error("invalid kernel flag: {0}")]
    Protected(String),
    /// A setting could not be changed.
    #[error("cannot set {path}: {source}")]
    Kernel {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Settings that differ from what is wanted: name, value, wanted. What the kernel does not have does not differ.
fn differing(root: &Path) -> Vec<(&'static str, i64, i64)> {
    SETTINGS
        .iter()
        .filter_map(|(name, wanted)| {
            let have: i64 = fs::read_to_string(root.join(name)).ok()?.trim().parse().ok()?;
            (have != *wanted).then_some((*name, have, *wanted))
        })
        .collect()
}

fn kernel(root: &Path, protect: bool) -> Result<(), Error> {
    let differing = differing(root);
    if protect && !differing.is_empty() {
        let all: Vec<String> = differing
            .iter()
            .map(|(name, have, wanted)| format!("{name}, expected value: {wanted}, actual value: {have}"))
            .collect();
        return Err(Error::Protected(all.join("; ")));
    }
    for (name, have, wanted) in differing {
        tracing::info!(setting = name, from = have, to = wanted, "updating kernel flag");
        let path = root.join(name);
        fs::write(&path, wanted.to_string())
            .map_err(|source| Error::Kernel { path: path.display().to_string(), source })?;
    }
    Ok(())
}

/// Sets up the process and the kernel.
pub fn apply(settings: &HostSettings) -> Result<(), Error> {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", settings.oom_score_adj.to_string()) {
        tracing::warn!(%error, value = settings.oom_score_adj, "failed to apply OOM score adjustment");
    }
    let wanted = settings.max_open_files;
    if getrlimit(Resource::RLIMIT_NOFILE) != Ok((wanted, wanted)) {
        // A process without the right to raise its limits runs with those it has, as upstream's does.
        if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
            tracing::error!(%error, wanted, "failed to set rlimit on max file handles");
        }
    }
    kernel(Path::new("/proc/sys"), settings.protect_kernel_defaults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_settings_are_changed_or_protected() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("vm")).expect("made");
        let file = root.path().join("vm/overcommit_memory");
        fs::write(&file, "0\n").expect("written");
        let refused = kernel(root.path(), true).expect_err("it differs").to_string();
        assert_eq!(refused, "invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0");
        kernel(root.path(), false).expect("changed");
        assert_eq!(fs::read_to_string(&file).expect("read"), "1");
        kernel(root.path(), true).expect("as wanted");
    }
}
