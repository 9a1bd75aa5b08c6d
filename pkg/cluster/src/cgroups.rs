//! A cgroup for each node in every hierarchy, below the one this process is in.
//!
//! Works on cgroup v1, v2 and hybrids: `/proc/self/cgroup` lists what there is (cgroups(7)).

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// One mounted hierarchy and this process's place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Controllers as the mount options name them (`cpu,cpuacct`), `name=systemd`, or empty for v2.
    pub(crate) controllers: String,
    /// Directory name below `/sys/fs/cgroup`: the controllers without `name=`, or `unified`; empty where v2 is all
    /// there is.
    pub(crate) mount: String,
    /// Path of this process in it.
    pub(crate) path: String,
}

/// The hierarchies of a process, given `/proc/PID/cgroup`.
fn parse(text: &str, unified_only: bool) -> Vec<Hierarchy> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let mount = match controllers.strip_prefix("name=").unwrap_or(controllers) {
                "" if unified_only => String::new(),
                "" => "unified".into(),
                name => name.into(),
            };
            Some(Hierarchy { controllers: controllers.into(), mount, path: path.into() })
        })
        .collect()
}

/// Whether `/sys/fs/cgroup` is cgroup v2 and nothing else.
pub(crate) fn unified_only() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The hierarchies of this process that are mounted.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>, Error> {
    let path = Path::new("/proc/self/cgroup");
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let all = parse(&text, unified_only());
    Ok(all.into_iter().filter(|h| Path::new("/sys/fs/cgroup").join(&h.mount).is_dir()).collect())
}

/// Directory of a named cgroup below this process's own.
fn directory(hierarchy: &Hierarchy, name: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(&hierarchy.mount).join(hierarchy.path.trim_start_matches('/')).join(name)
}

/// Makes the cgroup `name` in every hierarchy and moves this process into it. Children follow.
pub(crate) fn join(name: &str) -> Result<Vec<PathBuf>, Error> {
    let mut made = Vec::new();
    for hierarchy in hierarchies()? {
        let directory = directory(&hierarchy, name);
        if fs::create_dir_all(&directory).is_err() {
            // A hierarchy may be delegated read-only; what matters is where limits work.
            continue;
        }
        // A new cpuset is empty and takes no process until it has cores and memory nodes.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (own, parent) = (directory.join(file), directory.parent().map(|p| p.join(file)));
            if let (true, Some(parent)) = (directory.join("cpuset.mem_exclusive").exists(), parent)
                && let Ok(value) = fs::read_to_string(parent)
            {
                fs::write(&own, value.trim()).map_err(Error::file("write", &own))?;
            }
        }
        let procs = directory.join("cgroup.procs");
        fs::write(&procs, "0").map_err(Error::file("join cgroup", &procs))?;
        made.push(directory);
    }
    Ok(made)
}

/// Removes every cgroup whose name starts with `prefix`, wherever this machine's hierarchies hold one, with those below.
/// Cgroups that still hold processes stay; gives how many.
pub(crate) fn remove(prefix: &str) -> usize {
    let mut left = 0;
    let Ok(all) = hierarchies() else { return 0 };
    for hierarchy in all {
        let own = directory(&hierarchy, "");
        let Ok(entries) = fs::read_dir(own) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) && !remove_tree(&entry.path()) {
                left += 1;
            }
        }
    }
    left
}

/// Removes a cgroup, deepest first; only directories can be removed in a cgroup file system.
fn remove_tree(path: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_tree(&entry.path());
            }
        }
    }
    fs::remove_dir(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_v1_v2_and_hybrid_lists() {
        let hybrid = parse("9:name=systemd:/a\n2:cpu,cpuacct:/b:c\n0::/\n", false);
        let mounts: Vec<_> = hybrid.iter().map(|h| (h.mount.as_str(), h.path.as_str())).collect();
        assert_eq!(mounts, [("systemd", "/a"), ("cpu,cpuacct", "/b:c"), ("unified", "/")]);
        let v2 = parse("0::/user.slice\n", true);
        assert_eq!((v2[0].mount.as_str(), v2[0].path.as_str()), ("", "/user.slice"));
    }
}
