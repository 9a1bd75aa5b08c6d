//! The cgroups above containers: `kubepods`, its QoS classes and one per pod, for the cgroupfs driver.
//!
//! The runtime makes the containers' own below them. Version 1 has a tree a controller, version 2 one for all; the
//! decisions ([`pod_parent`], [`v1_files`], [`v2_files`]) are pure. Source: `pkg/kubelet/cm`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::podutil::PodExt;
use crate::resources::{self, CPU_PERIOD, PodLimits, Qos};

/// The top of all pods.
const ROOT: &str = "kubepods";
/// Controllers of version 1 that have something set per pod.
const V1_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Controllers enabled for the cgroups below, on version 2.
const V2_CONTROLLERS: &str = "+cpu +memory +pids +cpuset +io +hugetlb";
/// Deepest tree that is removed.
const MAX_DEPTH: usize = 16;

/// The cgroup file system of this machine.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mount: PathBuf,
    root: String,
    v2: bool,
    pids: i64,
    enabled: bool,
}

/// Path of a pod's cgroup below the mount, such as `/kubepods/burstable/podUID`.
pub fn pod_parent(root: &str, qos: Qos, uid: &str) -> String {
    let class = match qos {
        Qos::Guaranteed => "",
        Qos::Burstable => "/burstable",
        Qos::BestEffort => "/besteffort",
    };
    format!("{}/{ROOT}{class}/pod{uid}", root.trim_end_matches('/'))
}

/// Files of version 1 as controller, name and value.
fn v1_files(limits: &PodLimits, pids: i64) -> Vec<(&'static str, &'static str, String)> {
    let mut files = vec![("cpu", "cpu.shares", limits.shares.to_string())];
    if let Some(quota) = limits.quota {
        files.push(("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string()));
        files.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
    }
    if let Some(memory) = limits.memory {
        files.push(("memory", "memory.limit_in_bytes", memory.to_string()));
    }
    if pids > 0 {
        files.push(("pids", "pids.max", pids.to_string()));
    }
    files
}

/// Files of version 2 as name and value.
fn v2_files(limits: &PodLimits, pids: i64) -> Vec<(&'static str, String)> {
    let mut files = vec![("cpu.weight", resources::shares_to_weight(limits.shares).to_string())];
    if let Some(quota) = limits.quota {
        files.push(("cpu.max", format!("{quota} {CPU_PERIOD}")));
    }
    if let Some(memory) = limits.memory {
        files.push(("memory.max", memory.to_string()));
    }
    if pids > 0 {
        files.push(("pids.max", pids.to_string()));
    }
    files
}

impl Cgroups {
    /// Looks at the machine. `root` is `cgroupRoot`, `pids` is `podPidsLimit`; disabled without `cgroupsPerQOS`.
    pub fn detect(root: &str, pids: i64, enabled: bool) -> Self {
        let mount = PathBuf::from("/sys/fs/cgroup");
        let v2 = mount.join("cgroup.controllers").exists();
        Self { mount, root: root.to_owned(), v2, pids, enabled }
    }

    /// Whether the machine uses the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// The cgroup a pod's sandbox is made in; empty leaves it to the runtime.
    pub fn parent(&self, pod: &Pod) -> String {
        if self.enabled { pod_parent(&self.root, resources::qos(pod), pod.uid()) } else { String::new() }
    }

    fn dir(&self, controller: &str, path: &str) -> PathBuf {
        let base = if self.v2 { self.mount.clone() } else { self.mount.join(controller) };
        base.join(path.trim_start_matches('/'))
    }

    fn make(&self, path: &str) -> io::Result<()> {
        if !self.v2 {
            for controller in V1_CONTROLLERS {
                if self.mount.join(controller).is_dir() {
                    fs::create_dir_all(self.dir(controller, path))?;
                }
            }
            return Ok(());
        }
        // Each level enables the controllers for the one below it.
        let mut at = self.mount.clone();
        for part in Path::new(path.trim_start_matches('/')) {
            enable_controllers(&at);
            at.push(part);
            if !at.is_dir() {
                fs::create_dir(&at)?;
            }
        }
        enable_controllers(&at);
        Ok(())
    }

    /// Makes the cgroups above all pods. `memory` bounds all pods together (allocatable plus what eviction keeps).
    pub fn setup(&self, memory: Option<i64>, cpu_shares: i64) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let top = format!("{}/{ROOT}", self.root.trim_end_matches('/'));
        for class in ["", "/burstable", "/besteffort"] {
            self.make(&format!("{top}{class}"))?;
        }
        let all = PodLimits { shares: cpu_shares, quota: None, memory };
        self.apply(&top, &all, 0)?;
        let least = PodLimits { shares: resources::MIN_SHARES, quota: None, memory: None };
        self.apply(&format!("{top}/besteffort"), &least, 0)
    }

    /// Gives the burstable class the CPU shares of all its pods together.
    pub fn set_burstable_shares(&self, shares: i64) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let path = format!("{}/{ROOT}/burstable", self.root.trim_end_matches('/'));
        self.apply(&path, &PodLimits { shares, quota: None, memory: None }, 0)
    }

    fn apply(&self, path: &str, limits: &PodLimits, pids: i64) -> io::Result<()> {
        if self.v2 {
            for (file, value) in v2_files(limits, pids) {
                fs::write(self.dir("", path).join(file), value)?;
            }
            return Ok(());
        }
        for (controller, file, value) in v1_files(limits, pids) {
            if self.mount.join(controller).is_dir() {
                fs::write(self.dir(controller, path).join(file), value)?;
            }
        }
        Ok(())
    }

    /// Makes or updates a pod's cgroup.
    pub fn ensure_pod(&self, pod: &Pod, enforce_quota: bool) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let path = self.parent(pod);
        self.make(&path)?;
        self.apply(&path, &resources::pod_limits(pod, enforce_quota), self.pids)
    }

    /// Removes a pod's cgroups, whatever class it had. Those with processes in them stay, as an error.
    pub fn remove_pod(&self, uid: &str) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = pod_parent(&self.root, qos, uid);
            for base in self.hierarchies()? {
                remove_tree(&base.join(path.trim_start_matches('/')), MAX_DEPTH)?;
            }
        }
        Ok(())
    }

    /// Uids of all pods that have a cgroup.
    pub fn pods(&self) -> Vec<String> {
        let base = self.dir("memory", &format!("{}/{ROOT}", self.root.trim_end_matches('/')));
        let mut out = Vec::new();
        for class in ["", "burstable", "besteffort"] {
            let Ok(entries) = fs::read_dir(base.join(class)) else { continue };
            let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
            out.extend(names.filter_map(|n| n.strip_prefix("pod").map(str::to_owned)));
        }
        out
    }

    /// Every hierarchy mounted: the runtime makes cgroups in those too where nothing is set.
    fn hierarchies(&self) -> io::Result<Vec<PathBuf>> {
        if self.v2 {
            return Ok(vec![self.mount.clone()]);
        }
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.mount)? {
            let entry = entry?;
            // Links are second names: cpu is cpu,cpuacct.
            if entry.file_type()?.is_dir() {
                out.push(entry.path());
            }
        }
        Ok(out)
    }

    /// Memory used by a cgroup without its reclaimable pages, and CPU time used in nanoseconds.
    pub fn usage(&self, path: &str) -> Option<Usage> {
        if self.v2 {
            let dir = self.dir("", path);
            let current = read_number(&dir.join("memory.current"))?;
            let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
            let cpu = fs::read_to_string(dir.join("cpu.stat")).ok()?;
            return Some(Usage {
                working_set: current.saturating_sub(field(&stat, "inactive_file").unwrap_or(0)),
                memory: current,
                rss: field(&stat, "anon").unwrap_or(0),
                page_faults: field(&stat, "pgfault").unwrap_or(0),
                major_page_faults: field(&stat, "pgmajfault").unwrap_or(0),
                cpu_nanos: field(&cpu, "usage_usec").unwrap_or(0).saturating_mul(1000),
                processes: read_number(&dir.join("pids.current")).unwrap_or(0),
            });
        }
        let memory = self.dir("memory", path);
        let current = read_number(&memory.join("memory.usage_in_bytes"))?;
        let stat = fs::read_to_string(memory.join("memory.stat")).ok()?;
        Some(Usage {
            working_set: current.saturating_sub(field(&stat, "total_inactive_file").unwrap_or(0)),
            memory: current,
            rss: field(&stat, "total_rss").unwrap_or(0),
            page_faults: field(&stat, "total_pgfault").unwrap_or(0),
            major_page_faults: field(&stat, "total_pgmajfault").unwrap_or(0),
            cpu_nanos: read_number(&self.dir("cpuacct", path).join("cpuacct.usage")).unwrap_or(0),
            processes: read_number(&self.dir("pids", path).join("pids.current")).unwrap_or(0),
        })
    }
}

/// What a cgroup uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that cannot be taken back.
    pub working_set: u64,
    /// All bytes.
    pub memory: u64,
    /// Anonymous bytes.
    pub rss: u64,
    /// Page faults since the start.
    pub page_faults: u64,
    /// Those that needed a disk.
    pub major_page_faults: u64,
    /// CPU time since the start.
    pub cpu_nanos: u64,
    /// Processes and threads.
    pub processes: u64,
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Enables what can be enabled. A controller this machine lacks must not keep the others off.
fn enable_controllers(dir: &Path) {
    let file = dir.join("cgroup.subtree_control");
    if fs::write(&file, V2_CONTROLLERS).is_err() {
        for controller in V2_CONTROLLERS.split(' ') {
            let _ = fs::write(&file, controller);
        }
    }
}

fn remove_tree(dir: &Path, depth: usize) -> io::Result<()> {
    if !dir.is_dir() || depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path(), depth - 1)?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_files() {
        assert_eq!(pod_parent("/", Qos::Guaranteed, "u"), "/kubepods/podu");
        assert_eq!(pod_parent("/x", Qos::BestEffort, "u"), "/x/kubepods/besteffort/podu");
        let limits = PodLimits { shares: 1024, quota: Some(50_000), memory: Some(1 << 20) };
        let v1: Vec<String> = v1_files(&limits, 10).into_iter().map(|(_, f, v)| format!("{f}={v}")).collect();
        assert_eq!(
            v1,
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1048576",
                "pids.max=10"
            ]
        );
        let v2: Vec<String> = v2_files(&limits, -1).into_iter().map(|(f, v)| format!("{f}={v}")).collect();
        assert_eq!(v2, ["cpu.weight=39", "cpu.max=50000 100000", "memory.max=1048576"]);
    }

    #[test]
    fn a_tree_is_made_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("memory")).expect("made");
        let cgroups =
            Cgroups { mount: dir.path().into(), root: "/".into(), v2: false, pids: 0, enabled: true };
        cgroups.make("/kubepods/burstable/podu").expect("made");
        assert_eq!(cgroups.pods(), ["u"]);
        cgroups.remove_pod("u").expect("removed");
        assert!(cgroups.pods().is_empty());
        assert!(dir.path().join("memory/kubepods/burstable").is_dir());
    }
}
