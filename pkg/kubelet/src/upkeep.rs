//! What keeps the node from filling up: dead containers, unused images, long logs.
//!
//! Sources: `pkg/kubelet/kuberuntime/kuberuntime_gc.go`, `pkg/kubelet/images/image_gc_manager.go`,
//! `pkg/kubelet/logs/container_log_manager.go`. What to remove is decided by pure functions.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::EventType;
use cri::api;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::names;
use crate::node::Disk;
use crate::pods::Overview;

/// How often dead containers are collected.
const CONTAINER_GC: Duration = Duration::from_secs(60);
/// How often disk usage by images is looked at.
const IMAGE_GC: Duration = Duration::from_secs(300);

/// Collects and rotates until shutdown.
pub async fn run(kubelet: Arc<Kubelet>, overview: Arc<Overview>, shutdown: CancellationToken) {
    let mut rotate = tokio::time::interval(kubelet.config.log_monitor_interval.max(Duration::from_secs(1)));
    let start = tokio::time::Instant::now();
    let mut containers = tokio::time::interval_at(start + CONTAINER_GC, CONTAINER_GC);
    let mut images = tokio::time::interval_at(start + IMAGE_GC, IMAGE_GC);
    let mut usage = ImageUsage::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rotate.tick() => {
                // Nothing runs, nothing grows.
                if !overview.sketch.load().is_empty() {
                    rotate_logs(&kubelet).await;
                }
            }
            _ = containers.tick() => collect_containers(&kubelet, &overview).await,
            _ = images.tick() => collect_images(&kubelet, &mut usage, false).await,
        }
    }
}

/// Ids of dead containers beyond the newest of each name, which shows how the last attempt ended.
fn surplus(containers: &[api::Container]) -> Vec<&api::Container> {
    let mut dead: HashMap<(&str, &str), Vec<&api::Container>> = HashMap::new();
    for container in containers {
        let (Some(uid), Some(name)) =
            (container.labels.get(names::POD_UID), container.labels.get(names::CONTAINER_NAME))
        else {
            continue;
        };
        if container.state() == api::ContainerState::ContainerExited {
            dead.entry((uid, name)).or_default().push(container);
        }
    }
    let mut out = Vec::new();
    for mut group in dead.into_values() {
        group.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        out.extend(group.into_iter().skip(1));
    }
    out
}

/// Ids of dead sandboxes that are not their pod's newest and hold no container.
fn empty_sandboxes(sandboxes: &[api::PodSandbox], containers: &[api::Container]) -> Vec<String> {
    let used: HashSet<&str> = containers.iter().map(|c| c.pod_sandbox_id.as_str()).collect();
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for sandbox in sandboxes {
        if let Some(uid) = sandbox.labels.get(names::POD_UID) {
            let at = newest.entry(uid).or_default();
            *at = (*at).max(sandbox.created_at);
        }
    }
    sandboxes
        .iter()
        .filter(|s| s.state() == api::PodSandboxState::SandboxNotready && !used.contains(s.id.as_str()))
        .filter(|s| s.labels.get(names::POD_UID).is_some_and(|uid| newest[uid.as_str()] > s.created_at))
        .map(|s| s.id.clone())
        .collect()
}

/// Where a container's log is, by its labels.
fn log_file(container: &api::Container) -> Option<PathBuf> {
    let label = |key: &str| container.labels.get(key).map(String::as_str);
    let dir =
        names::log_directory(label(names::POD_NAMESPACE)?, label(names::POD_NAME)?, label(names::POD_UID)?);
    let attempt = container.annotations.get(names::RESTART_COUNT)?.parse().ok()?;
    Some(Path::new(&dir).join(names::log_path(label(names::CONTAINER_NAME)?, attempt)))
}

/// Removes dead containers nobody needs.
pub async fn collect_containers(kubelet: &Kubelet, overview: &Overview) {
    let runtime = &kubelet.runtime;
    let listed = tokio::try_join!(runtime.list_containers(&[]), runtime.list_sandboxes(&[]));
    let Ok((containers, sandboxes)) = listed else { return };
    let known = overview.pods.load();
    for container in surplus(&containers) {
        // A pod nobody wants is taken away whole, by its own worker.
        if !container.labels.get(names::POD_UID).is_some_and(|uid| known.contains_key(uid)) {
            continue;
        }
        if let Err(error) = runtime.remove_container(&container.id).await {
            tracing::warn!(id = container.id, %error, "failed to remove container");
            continue;
        }
        if let Some(log) = log_file(container) {
            for file in rotated(&log).into_iter().chain([log]) {
                let _ = fs::remove_file(file);
            }
        }
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let link = names::log_link(
            &label(names::POD_NAME),
            &label(names::POD_NAMESPACE),
            &label(names::CONTAINER_NAME),
            &container.id,
        );
        let _ = fs::remove_file(link);
    }
    for id in empty_sandboxes(&sandboxes, &containers) {
        if let Err(error) = runtime.remove_sandbox(&id).await {
            tracing::warn!(id, %error, "failed to remove sandbox");
        }
    }
}

/// When images were first and last seen in use.
#[derive(Debug, Default)]
pub struct ImageUsage {
    seen: HashMap<String, (Instant, Instant)>,
}

/// What images are removed for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// Bytes to free.
    free: i64,
    /// Images seen first more recently stay.
    min_age: Duration,
    /// Images unused for longer go, whatever is free (`imageMaximumGCAge`).
    max_age: Option<Duration>,
}

/// Images to remove: those unused for too long, and to free so many bytes, the longest unused first.
fn victims(
    images: &[api::Image],
    in_use: &HashSet<String>,
    usage: &mut ImageUsage,
    keep: &str,
    wanted: Wanted,
    now: Instant,
) -> Vec<String> {
    usage.seen.retain(|id, _| images.iter().any(|i| i.id == *id));
    for image in images {
        let entry = usage.seen.entry(image.id.clone()).or_insert((now, now));
        if in_use.contains(&image.id) {
            entry.1 = now;
        }
    }
    let mut candidates: Vec<&api::Image> = images
        .iter()
        .filter(|i| !in_use.contains(&i.id) && !i.pinned && !i.repo_tags.iter().any(|t| t == keep))
        .filter(|i| now.duration_since(usage.seen[&i.id].0) >= wanted.min_age)
        .collect();
    candidates.sort_by_key(|i| (usage.seen[&i.id].1, usage.seen[&i.id].0));
    let mut left = wanted.free;
    let mut out = Vec::new();
    for image in candidates {
        let old = wanted.max_age.is_some_and(|max| now.duration_since(usage.seen[&image.id].1) > max);
        if left <= 0 && !old {
            break;
        }
        left -= image.size as i64;
        out.push(image.id.clone());
    }
    out
}

/// Removes unused images when the disk is too full, or all of them when `all`.
pub async fn collect_images(kubelet: &Kubelet, usage: &mut ImageUsage, all: bool) {
    let config = &kubelet.config;
    let place =
        kubelet.runtime.image_fs_info().await.ok().and_then(|f| f.into_iter().next()).and_then(|f| f.fs_id);
    let path = place.map_or_else(|| config.root_dir.clone(), |id| id.mountpoint.into());
    let Some(disk) = Disk::of(&path).or_else(|| Disk::of(&config.root_dir)) else { return };
    let runtime = &kubelet.runtime;
    let Ok((images, containers)) = tokio::try_join!(runtime.list_images(), runtime.list_containers(&[]))
    else {
        return;
    };
    let used = 100.0 * (1.0 - disk.available as f64 / disk.size.max(1) as f64);
    let free = if all {
        i64::MAX
    } else if used >= config.image_gc_high_percent {
        (disk.size as f64 * (100.0 - config.image_gc_low_percent) / 100.0) as i64 - disk.available
    } else {
        0
    };
    let mut in_use = HashSet::new();
    for container in &containers {
        in_use.insert(container.image_ref.clone());
        in_use.extend(container.image.as_ref().map(|i| i.image.clone()));
    }
    let keep = config.pause_image.as_deref().unwrap_or_default();
    let min_age = if all { Duration::ZERO } else { config.image_minimum_gc_age };
    let wanted = Wanted { free, min_age, max_age: config.image_maximum_gc_age };
    let mut freed = 0;
    for id in victims(&images, &in_use, usage, keep, wanted, Instant::now()) {
        let size = images.iter().find(|i| i.id == id).map_or(0, |i| i.size as i64);
        match runtime.remove_image(&id).await {
            Ok(()) => freed += size,
            Err(error) => tracing::warn!(id, %error, "failed to remove image"),
        }
    }
    if !all && free > 0 && freed < free {
        let note = format!(
            "Failed to garbage collect required amount of images. Attempted to free {free} bytes, but only found {freed} bytes eligible to free."
        );
        kubelet.node_event(EventType::Warning, "FreeDiskSpaceFailed", &note);
    }
}

/// Earlier parts of a log, oldest first.
fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) =
        (log.parent(), log.file_name().map(|n| format!("{}.", n.to_string_lossy())))
    else {
        return Vec::new();
    };
    let mut out: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&name))
        .map(|e| e.path())
        .collect();
    out.sort();
    out
}

/// Rotates logs of running containers that grew too long, `containerLogMaxWorkers` at once.
async fn rotate_logs(kubelet: &Kubelet) {
    let Ok(containers) = kubelet.runtime.list_containers(&[]).await else { return };
    let running = containers.iter().filter(|c| c.state() == api::ContainerState::ContainerRunning);
    let long = running.filter_map(|container| {
        let log = log_file(container)?;
        let long = fs::metadata(&log).is_ok_and(|m| m.len() >= kubelet.config.log_max_size);
        long.then_some((container.id.as_str(), log))
    });
    let rotations = futures::stream::iter(long);
    let workers = kubelet.config.log_max_workers;
    rotations.for_each_concurrent(workers, |(id, log)| rotate(kubelet, id, log)).await;
}

async fn rotate(kubelet: &Kubelet, container: &str, log: PathBuf) {
    let (path, files, now) = (log.clone(), kubelet.config.log_max_files, stamp());
    // Compressing takes as long as the log is large: not on a thread that others wait for.
    let shifted = tokio::task::spawn_blocking(move || shift(&path, files, &now)).await;
    let moved = match shifted.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(moved) => moved,
        Err(error) => {
            tracing::warn!(log = %log.display(), %error, "failed to rotate log");
            return;
        }
    };
    if let Err(error) = kubelet.runtime.reopen_log(container).await {
        tracing::warn!(log = %log.display(), %error, "failed to reopen log");
        // The runtime still writes to the old file: it gets its name back.
        let _ = fs::rename(&moved, &log);
    }
}

fn stamp() -> String {
    jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string()
}

/// Moves a log away and makes room: so many files in all, the log among them; all earlier parts but the newest are
/// compressed.
fn shift(log: &Path, max_files: usize, stamp: &str) -> io::Result<PathBuf> {
    let mut parts = rotated(log);
    // A compression that was cut short leaves a temporary file.
    parts.retain(|p| {
        let temporary = p.extension().is_some_and(|e| e == "tmp");
        if temporary {
            let _ = fs::remove_file(p);
        }
        !temporary
    });
    // The one moved now and the one the runtime makes count as well.
    while parts.len() + 2 > max_files.max(2) {
        fs::remove_file(parts.remove(0))?;
    }
    for part in parts.iter().filter(|p| p.extension().is_none_or(|e| e != "gz")) {
        compress(part)?;
    }
    let moved = PathBuf::from(format!("{}.{stamp}", log.display()));
    fs::rename(log, &moved)?;
    Ok(moved)
}

fn compress(path: &Path) -> io::Result<()> {
    let temporary = PathBuf::from(format!("{}.tmp", path.display()));
    let mut input = fs::File::open(path)?;
    let mut encoder =
        flate2::write::GzEncoder::new(fs::File::create(&temporary)?, flate2::Compression::fast());
    io::copy(&mut input, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&temporary, format!("{}.gz", path.display()))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, created_at: i64, state: i32) -> api::Container {
        api::Container {
            id: format!("{name}{created_at}"),
            labels: HashMap::from([
                (names::POD_UID.to_owned(), "u".to_owned()),
                (names::CONTAINER_NAME.to_owned(), name.to_owned()),
            ]),
            created_at,
            state,
            pod_sandbox_id: "s2".into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_newest_dead_container_stays() {
        let all = [
            container("a", 1, 2),
            container("a", 3, 2),
            container("a", 2, 2),
            container("a", 4, 1),
            container("b", 1, 2),
        ];
        let mut ids: Vec<&str> = surplus(&all).into_iter().map(|c| c.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["a1", "a2"]);
        let sandbox = |id: &str, created_at: i64, state: i32| api::PodSandbox {
            id: id.into(),
            labels: HashMap::from([(names::POD_UID.to_owned(), "u".to_owned())]),
            created_at,
            state,
            ..Default::default()
        };
        let sandboxes = [sandbox("s1", 1, 1), sandbox("s2", 2, 1), sandbox("s3", 3, 1)];
        assert_eq!(empty_sandboxes(&sandboxes, &all), ["s1"], "s2 holds containers, s3 is the newest");
    }

    #[test]
    fn images_unused_longest_go_first() {
        let image = |id: &str, size: u64| api::Image {
            id: id.into(),
            size,
            repo_tags: vec![format!("{id}:1")],
            ..Default::default()
        };
        let images = [image("a", 10), image("b", 10), image("c", 10), image("pause", 10)];
        let mut usage = ImageUsage::default();
        let start = Instant::now();
        let mut at = |seconds: u64, used: &[&str], free: i64| {
            let in_use = used.iter().map(|u| (*u).to_owned()).collect();
            let now = start + Duration::from_secs(seconds);
            let (min_age, max_age) = (Duration::from_secs(100), Some(Duration::from_secs(1000)));
            victims(&images, &in_use, &mut usage, "pause:1", Wanted { free, min_age, max_age }, now)
        };
        assert!(at(0, &["a", "b"], 100).is_empty(), "too young");
        assert_eq!(at(200, &["b"], 15), ["a", "c"]);
        assert_eq!(at(300, &[], 5), ["a"]);
        assert_eq!(at(301, &[], 0), Vec::<String>::new());
        assert_eq!(at(1100, &["b"], 0), ["a", "c"], "unused for more than 1000 s");
    }

    #[test]
    fn logs_shift() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        for round in 0..4 {
            fs::write(&log, format!("round {round}")).expect("written");
            shift(&log, 3, &format!("2024010{round}")).expect("moved");
        }
        let names: Vec<String> = rotated(&log)
            .iter()
            .map(|p| p.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["0.log.20240102.gz", "0.log.20240103"]);
    }
}
