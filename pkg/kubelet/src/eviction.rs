//! Taking pods away before the node runs out of memory, disk or processes.
//!
//! Which pressure there is ([`Watch`]) and who goes first ([`rank`]) are pure decisions. Source: `pkg/kubelet/eviction`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::EventType;
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use crate::cgroups::pod_parent;
use crate::config::{Threshold, Thresholds};
use crate::decide::Ended;
use crate::kubelet::Kubelet;
use crate::metrics::METRICS;
use crate::node::Disk;
use crate::pods::Overview;
use crate::podutil::PodExt;
use crate::resources::{bytes_quantity, pod_sum, qos, request, value};
use crate::upkeep::{ImageUsage, collect_containers, collect_images};

/// How often signals are looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// Deepest directory whose size is counted, and most files.
const MAX_DEPTH: usize = 64;
const MAX_FILES: usize = 100_000;
/// Pods of this priority and above are not evicted.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// Seconds that a pod gets when it has to go at once (upstream's `immediateEvictionGracePeriodSeconds`).
const IMMEDIATE_GRACE: i64 = 1;

/// What is left of something, and how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Left.
    pub available: i64,
    /// In all.
    pub capacity: i64,
}

/// A threshold that is crossed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossed {
    /// Which signal.
    pub signal: String,
    /// Condition it sets.
    pub condition: &'static str,
    /// Resource that is short, as events name it.
    pub resource: &'static str,
    /// The threshold in units of the resource.
    pub threshold: i64,
    /// What is left.
    pub available: i64,
    /// It was crossed for as long as it may be: a pod has to go.
    pub due: bool,
    /// It is a soft one: the pod gets time to end.
    pub soft: bool,
}

fn meaning(signal: &str) -> Option<(&'static str, &'static str)> {
    Some(match signal {
        "memory.available" => ("MemoryPressure", "memory"),
        "nodefs.available" | "imagefs.available" | "containerfs.available" => {
            ("DiskPressure", "ephemeral-storage")
        }
        "nodefs.inodesFree" | "imagefs.inodesFree" | "containerfs.inodesFree" => ("DiskPressure", "inodes"),
        "pid.available" => ("PIDPressure", "pids"),
        _ => return None,
    })
}

/// One threshold.
#[derive(Debug, Clone)]
struct Rule {
    signal: String,
    threshold: Threshold,
    /// What must be free beyond the threshold before a crossed one counts as relieved.
    reclaim: Option<Threshold>,
    /// How long it may be crossed, for a soft one.
    grace: Option<Duration>,
}

/// Which thresholds are crossed, and since when.
#[derive(Debug)]
pub struct Watch {
    rules: Vec<(Rule, Option<Instant>)>,
}

impl Watch {
    /// Over these thresholds, none of them crossed.
    pub fn new(thresholds: &Thresholds) -> Self {
        let rule = |signal: &String, threshold, grace| {
            let reclaim = thresholds.reclaim.get(signal).copied();
            (Rule { signal: signal.clone(), threshold, reclaim, grace }, None)
        };
        let hard = thresholds.hard.iter().map(|(signal, threshold)| rule(signal, *threshold, None));
        let soft = thresholds.soft.iter().map(|(signal, s)| rule(signal, s.threshold, Some(s.grace)));
        Self { rules: hard.chain(soft).collect() }
    }

    /// Takes what is seen now; answers the thresholds crossed, memory first and hard ones before soft ones.
    pub fn observe(&mut self, seen: &BTreeMap<&str, Observation>, now: Instant) -> Vec<Crossed> {
        let mut out: Vec<Crossed> = Vec::new();
        for (rule, since) in &mut self.rules {
            let (Some(observed), Some((condition, resource))) =
                (seen.get(rule.signal.as_str()), meaning(&rule.signal))
            else {
                continue;
            };
            let threshold = rule.threshold.of(observed.capacity);
            let reclaim = rule.reclaim.filter(|_| since.is_some()).map_or(0, |r| r.of(observed.capacity));
            if observed.available >= threshold.saturating_add(reclaim) {
                *since = None;
                continue;
            }
            let first = *since.get_or_insert(now);
            out.push(Crossed {
                signal: rule.signal.clone(),
                condition,
                resource,
                threshold,
                available: observed.available,
                due: rule.grace.is_none_or(|grace| now.duration_since(first) >= grace),
                soft: rule.grace.is_some(),
            });
        }
        out.sort_by_key(|c| (c.condition != "MemoryPressure", c.condition, c.soft));
        out
    }
}

/// A pod and what it uses of the short resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// What it uses.
    pub usage: i64,
    /// What it asked for.
    pub requested: i64,
}

/// Order of eviction: who uses more than asked for, then the lowest priority, then the most beyond the request.
pub fn rank(candidates: &mut [Candidate]) {
    candidates
        .sort_by_key(|c| (c.usage <= c.requested, c.priority, std::cmp::Reverse(c.usage - c.requested)));
}

/// Watches until shutdown.
pub async fn run(kubelet: Arc<Kubelet>, overview: Arc<Overview>, shutdown: CancellationToken) {
    let mut last_seen: BTreeMap<&'static str, Instant> = BTreeMap::new();
    let mut images = ImageUsage::default();
    let mut watch = Watch::new(&kubelet.config.eviction);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let (measured, pods) = (kubelet.clone(), overview.clone());
        // Measuring directories reads disks.
        let _ = tokio::task::spawn_blocking(move || over_their_limits(&measured, &pods)).await;
        let mut found = watch.observe(&observe(&kubelet), Instant::now());
        if found.iter().any(|c| c.condition == "DiskPressure" && c.due) {
            // First what nobody uses, and perhaps no pod has to go.
            collect_containers(&kubelet, &overview).await;
            collect_images(&kubelet, &mut images, true).await;
            found = watch.observe(&observe(&kubelet), Instant::now());
        }
        for pressure in &found {
            last_seen.insert(pressure.condition, Instant::now());
        }
        // A condition stays for a while, so that it does not flap.
        last_seen.retain(|_, at| at.elapsed() < kubelet.config.eviction_pressure_transition);
        overview.set_pressure(last_seen.keys().copied().collect());
        if let Some(first) = found.into_iter().find(|c| c.due) {
            let note = format!("Attempting to reclaim {}", first.resource);
            kubelet.node_event(EventType::Warning, "EvictionThresholdMet", &note);
            let (evicting, pods) = (kubelet.clone(), overview.clone());
            let _ = tokio::task::spawn_blocking(move || evict_one(&evicting, &pods, &first)).await;
        }
    }
}

fn observe(kubelet: &Kubelet) -> BTreeMap<&'static str, Observation> {
    let mut out = BTreeMap::new();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| -> Option<i64> {
        meminfo.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    if let (Some(total), Some(available)) = (kib("MemTotal:"), kib("MemAvailable:")) {
        out.insert("memory.available", Observation { available: available * 1024, capacity: total * 1024 });
    }
    if let Some(disk) = Disk::of(&kubelet.config.root_dir) {
        let bytes = Observation { available: disk.available, capacity: disk.size };
        let inodes = Observation { available: disk.inodes_free, capacity: disk.inodes };
        out.extend([
            ("nodefs.available", bytes),
            ("imagefs.available", bytes),
            ("containerfs.available", bytes),
        ]);
        // File systems without a fixed number of inodes say 0.
        if disk.inodes > 0 {
            out.extend([
                ("nodefs.inodesFree", inodes),
                ("imagefs.inodesFree", inodes),
                ("containerfs.inodesFree", inodes),
            ]);
        }
    }
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<i64>().ok());
    let running = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|t| t.split(['/', ' ']).nth(4)?.parse::<i64>().ok());
    if let (Some(max), Some(running)) = (number("/proc/sys/kernel/pid_max"), running) {
        out.insert("pid.available", Observation { available: max - running, capacity: max });
    }
    out
}

fn active(kubelet: &Kubelet, overview: &Overview) -> Vec<Arc<Pod>> {
    let over = |p: &Arc<Pod>| {
        let phase = kubelet.statuses.get(p.uid()).and_then(|s| s.phase).unwrap_or_default();
        matches!(phase.as_str(), "Succeeded" | "Failed") || p.is_deleting()
    };
    overview.pods.load().values().filter(|p| !over(p)).cloned().collect()
}

fn evict_one(kubelet: &Kubelet, overview: &Overview, pressure: &Crossed) {
    let pods = active(kubelet, overview);
    let memory = pressure.resource == "memory";
    let mut candidates: Vec<Candidate> = pods
        .iter()
        .filter(|p| !p.is_static() && !p.is_mirror() && p.spec().priority.unwrap_or(0) < CRITICAL_PRIORITY)
        .map(|pod| {
            let usage = if memory {
                let path = pod_parent(&kubelet.config.cgroup_root, qos(pod), pod.uid());
                kubelet.cgroups.usage(&path).map_or(0, |u| u.working_set as i64)
            } else if pressure.resource == "pids" {
                let path = pod_parent(&kubelet.config.cgroup_root, qos(pod), pod.uid());
                kubelet.cgroups.usage(&path).map_or(0, |u| u.processes as i64)
            } else {
                disk_usage(kubelet, pod)
            };
            let name = if memory { "memory" } else { "ephemeral-storage" };
            let requested = pod_sum(pod, |c| {
                Some(request(c.resources.as_ref(), name).as_ref().and_then(value).unwrap_or(0))
            });
            Candidate {
                uid: pod.uid().to_owned(),
                priority: pod.spec().priority.unwrap_or(0),
                usage,
                requested: requested.unwrap_or(0),
            }
        })
        .collect();
    rank(&mut candidates);
    let Some(first) = candidates.first() else {
        tracing::warn!(resource = pressure.resource, "eviction manager: no pods are active to evict");
        return;
    };
    let Some(pod) = pods.iter().find(|p| p.uid() == first.uid) else { return };
    let amount = |n: i64| {
        if matches!(pressure.resource, "inodes" | "pids") { n.to_string() } else { bytes_quantity(n).0 }
    };
    let message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. Pod was using {}, request is {}. ",
        pressure.resource,
        amount(pressure.threshold),
        amount(pressure.available),
        amount(first.usage),
        amount(first.requested)
    );
    let grace = if pressure.soft { soft_grace(kubelet, pod) } else { IMMEDIATE_GRACE };
    evict(kubelet, overview, pod, &pressure.signal, message, grace);
}

/// Seconds that a pod gets to end under a soft threshold: its own, bounded by `evictionMaxPodGracePeriod`.
fn soft_grace(kubelet: &Kubelet, pod: &Pod) -> i64 {
    let own = pod.spec().termination_grace_period_seconds.unwrap_or(crate::podutil::DEFAULT_GRACE_SECONDS);
    own.min(kubelet.config.eviction.max_pod_grace).max(0)
}

fn evict(kubelet: &Kubelet, overview: &Overview, pod: &Pod, signal: &str, message: String, grace: i64) {
    kubelet.pod_event(pod, EventType::Warning, "Evicted", &message);
    METRICS.evictions.get_or_create(&vec![("eviction_signal", signal.to_owned())]).inc();
    overview.end(pod.uid(), Ended { reason: "Evicted".to_owned(), message, grace: Some(grace) });
}

/// Bytes a pod keeps on the node's disk: its directory and its logs.
fn disk_usage(kubelet: &Kubelet, pod: &Pod) -> i64 {
    let logs = crate::names::log_directory(pod.ns(), pod.name(), pod.uid());
    tree_size(&kubelet.config.pod_dir(pod.uid())) + tree_size(Path::new(&logs))
}

/// Bytes allocated below a directory on its file system.
pub(crate) fn tree_size(root: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::symlink_metadata(root) else { return 0 };
    let device = meta.dev();
    let (mut total, mut files) = (0i64, 0usize);
    let mut stack = vec![(root.to_owned(), 0usize)];
    while let Some((dir, depth)) = stack.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            files += 1;
            if files > MAX_FILES {
                return total;
            }
            if meta.dev() != device {
                continue;
            }
            total += meta.blocks() as i64 * 512;
            if meta.is_dir() && depth < MAX_DEPTH {
                stack.push((entry.path(), depth + 1));
            }
        }
    }
    total
}

/// Ends pods whose volumes or containers hold more than they may.
fn over_their_limits(kubelet: &Kubelet, overview: &Overview) {
    for pod in active(kubelet, overview) {
        if let Some((signal, message)) = over_limit(kubelet, &pod) {
            evict(kubelet, overview, &pod, signal, message, IMMEDIATE_GRACE);
        }
    }
}

/// The limit that a pod is over, as metrics name it, and the text for its status.
fn over_limit(kubelet: &Kubelet, pod: &Pod) -> Option<(&'static str, String)> {
    for volume in pod.spec().volumes.iter().flatten() {
        let Some(empty) = &volume.empty_dir else { continue };
        let Some(limit) = empty.size_limit.as_ref().filter(|q| value(q).is_some_and(|v| v > 0)) else {
            continue;
        };
        // A tmpfs has its limit built in.
        if empty.medium.as_deref().is_some_and(|m| !m.is_empty()) {
            continue;
        }
        let dir =
            kubelet.config.pod_dir(pod.uid()).join("volumes/kubernetes.io~empty-dir").join(&volume.name);
        if tree_size(&dir) > value(limit)? {
            let message =
                format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0);
            return Some(("emptydirfs.limit", message));
        }
    }
    let limits = pod_sum(pod, |c| {
        c.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage").and_then(value).filter(|v| *v > 0)
    })
    .filter(|v| *v > 0)?;
    (disk_usage(kubelet, pod) > limits).then(|| {
        let limit = bytes_quantity(limits).0;
        let message =
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        ("ephemeralpodfs.limit", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Soft;

    fn seen(memory: i64, disk: i64) -> BTreeMap<&'static str, Observation> {
        BTreeMap::from([
            ("memory.available", Observation { available: memory, capacity: 1000 }),
            ("nodefs.available", Observation { available: disk, capacity: 1000 }),
        ])
    }

    #[test]
    fn thresholds_cross() {
        let thresholds = Thresholds {
            hard: BTreeMap::from([
                ("memory.available".to_owned(), Threshold::Amount(100)),
                ("nodefs.available".to_owned(), Threshold::Share(0.1)),
            ]),
            ..Thresholds::default()
        };
        for (memory, disk, expected) in [
            (100, 100, vec![]),
            (99, 99, vec!["memory", "ephemeral-storage"]),
            (500, 1, vec!["ephemeral-storage"]),
        ] {
            let crossed = Watch::new(&thresholds).observe(&seen(memory, disk), Instant::now());
            assert!(crossed.iter().all(|c| c.due && !c.soft));
            assert_eq!(crossed.iter().map(|c| c.resource).collect::<Vec<_>>(), expected, "{memory} {disk}");
        }
    }

    #[test]
    fn soft_thresholds_wait_and_reclaim_asks_for_more() {
        let soft = Soft { threshold: Threshold::Amount(300), grace: Duration::from_secs(60) };
        let memory = "memory.available".to_owned();
        let mut watch = Watch::new(&Thresholds {
            hard: BTreeMap::from([(memory.clone(), Threshold::Amount(100))]),
            soft: BTreeMap::from([(memory.clone(), soft)]),
            reclaim: BTreeMap::from([(memory, Threshold::Amount(50))]),
            max_pod_grace: 0,
        });
        let start = Instant::now();
        // Seconds, memory left, and what is crossed: whether it is soft, and due.
        for (at, left, expected) in [
            (0, 290, vec![(true, false)]),
            (59, 290, vec![(true, false)]),
            (60, 290, vec![(true, true)]),
            (61, 90, vec![(false, true), (true, true)]),
            (62, 149, vec![(false, true), (true, true)]),
            (63, 150, vec![(true, true)]),
            (64, 349, vec![(true, true)]),
            (65, 350, vec![]),
            (66, 310, vec![]),
            (67, 299, vec![(true, false)]),
        ] {
            let crossed = watch.observe(&seen(left, 1000), start + Duration::from_secs(at));
            let got: Vec<_> = crossed.iter().map(|c| (c.soft, c.due)).collect();
            assert_eq!(got, expected, "after {at} s");
        }
    }

    #[test]
    fn greedy_pods_go_first() {
        let c =
            |uid: &str, priority, usage, requested| Candidate { uid: uid.into(), priority, usage, requested };
        let mut all =
            [c("modest", 0, 10, 20), c("important", 5, 90, 0), c("greedy", 0, 80, 0), c("less", 0, 30, 10)];
        rank(&mut all);
        let order: Vec<&str> = all.iter().map(|c| c.uid.as_str()).collect();
        assert_eq!(order, ["greedy", "less", "important", "modest"]);
    }

    #[test]
    fn trees_are_measured() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("a")).expect("made");
        std::fs::write(dir.path().join("a/b"), vec![1; 100_000]).expect("written");
        assert!(tree_size(dir.path()) >= 100_000);
        assert_eq!(tree_size(Path::new("/nonexistent")), 0);
    }
}
