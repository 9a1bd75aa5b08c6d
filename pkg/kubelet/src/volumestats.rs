//! What pods' volumes hold, measured when asked for and remembered for `volumeStatsAggPeriod`.
//!
//! Measured are emptyDirs (files counted) and claims of local volumes (their file system asked). Directories of the
//! host have no figures, as upstream's have none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Volume};
use parking_lot::Mutex;

use crate::eviction::tree_size;
use crate::node::Disk;
use crate::podutil::PodExt;
use crate::volumes::Volumes;

/// Figures of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Name in the pod.
    pub volume: String,
    /// The claim it is of, if any.
    pub claim: Option<String>,
    /// Bytes used by the volume.
    pub used: i64,
    /// The file system it is on.
    pub disk: Disk,
}

#[derive(Debug, Default)]
struct Entry {
    paths: Vec<(String, PathBuf)>,
    figures: Arc<Vec<Figures>>,
    measured: Option<Instant>,
}

/// Volumes of all pods by uid.
#[derive(Debug, Default)]
pub struct VolumeStats {
    pods: Mutex<HashMap<String, Entry>>,
}

impl VolumeStats {
    /// Notes where a pod's volumes are.
    pub fn note(&self, uid: &str, volumes: &Volumes) {
        let mut paths: Vec<(String, PathBuf)> =
            volumes.iter().map(|(name, mounted)| (name.clone(), mounted.path.clone())).collect();
        paths.sort();
        let mut pods = self.pods.lock();
        let entry = pods.entry(uid.to_owned()).or_default();
        if entry.paths != paths {
            *entry = Entry { paths, ..Entry::default() };
        }
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.pods.lock().remove(uid);
    }

    /// Figures of a pod's volumes, at most `age` old. Reads disks.
    pub fn of(&self, pod: &Pod, age: Duration) -> Arc<Vec<Figures>> {
        let paths = {
            let pods = self.pods.lock();
            let Some(entry) = pods.get(pod.uid()) else { return Arc::default() };
            if entry.measured.is_some_and(|at| at.elapsed() < age) {
                return entry.figures.clone();
            }
            entry.paths.clone()
        };
        let volumes = pod.spec().volumes.iter().flatten();
        let figures: Vec<Figures> = volumes
            .filter_map(|volume| {
                let (_, path) = paths.iter().find(|(name, _)| *name == volume.name)?;
                measure(pod, volume, path)
            })
            .collect();
        let figures = Arc::new(figures);
        if let Some(entry) = self.pods.lock().get_mut(pod.uid()) {
            entry.figures = figures.clone();
            entry.measured = Some(Instant::now());
        }
        figures
    }
}

fn measure(pod: &Pod, volume: &Volume, path: &Path) -> Option<Figures> {
    let disk = Disk::of(path)?;
    let name = volume.name.clone();
    if volume.empty_dir.is_some() {
        return Some(Figures { volume: name, claim: None, used: tree_size(path), disk });
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => claim.claim_name.clone(),
        (None, Some(_)) => format!("{}-{name}", pod.name()),
        (None, None) => return None,
    };
    Some(Figures { volume: name, claim: Some(claim), used: disk.size - disk.available, disk })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::Mounted;

    #[test]
    fn figures_are_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "claimed", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "host", "hostPath": {"path": "/"}}]}}))
        .expect("a pod");
        let stats = VolumeStats::default();
        let mounted = Mounted { path: dir.path().into(), read_only: false };
        let volumes = ["data", "claimed", "host"].map(|name| (name.to_owned(), mounted.clone()));
        assert!(stats.of(&pod, Duration::ZERO).is_empty(), "nothing is known of it yet");
        stats.note("u", &volumes.into());
        let age = Duration::from_secs(60);
        let first = stats.of(&pod, age);
        let names: Vec<_> = first.iter().map(|f| (f.volume.as_str(), f.claim.as_deref())).collect();
        assert_eq!(names, [("data", None), ("claimed", Some("c"))]);
        std::fs::write(dir.path().join("f"), vec![1; 100_000]).expect("written");
        assert_eq!(stats.of(&pod, age), first);
        assert!(stats.of(&pod, Duration::ZERO)[0].used >= 100_000);
        stats.forget("u");
        assert!(stats.of(&pod, age).is_empty());
    }
}
