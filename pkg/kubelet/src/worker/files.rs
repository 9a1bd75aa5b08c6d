//! A pod's files on the node: its directory, mounts of its containers, their last words.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cri::api;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::Worker;
use crate::container::{file_mount, mount};
use crate::env::expand;
use crate::podutil::PodExt;
use crate::runtime::State;
use crate::status::MAX_MESSAGE_BYTES;
use crate::{logs, network, volumes};

/// Most of a log that stands in for a termination message.
const FALLBACK_BYTES: usize = 2048;
const FALLBACK_LINES: usize = 80;

/// Whether any volume of a pod can change while it runs.
pub(super) fn changes(pod: &Pod) -> bool {
    pod.spec().volumes.iter().flatten().any(|v| {
        v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some()
    })
}

impl Worker {
    pub(super) fn dir(&self) -> PathBuf {
        self.kubelet.config.pod_dir(self.pod.uid())
    }

    pub(super) fn make_dirs(&self) -> io::Result<()> {
        let dir = self.dir();
        for sub in ["", "volumes", "plugins", "containers"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))
    }

    /// Everything mounted into a container.
    pub(super) fn mounts(
        &self,
        spec: &Container,
        env: &[(String, String)],
    ) -> Result<Vec<api::Mount>, String> {
        let empty = volumes::Volumes::new();
        let ready = self.volumes.as_ref().map_or(&empty, |v| &v.volumes);
        let mut out = Vec::new();
        let wanted = spec.volume_mounts.as_deref().unwrap_or_default();
        for (index, want) in wanted.iter().enumerate() {
            let Some(volume) = ready.get(&want.name) else {
                return Err(format!(
                    "cannot find volume {:?} to mount into container {:?}",
                    want.name, spec.name
                ));
            };
            let sub = match (want.sub_path.as_deref(), want.sub_path_expr.as_deref()) {
                (_, Some(expression)) if !expression.is_empty() => {
                    let lookup = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
                    let path = expand(expression, lookup);
                    if path.contains("$(") {
                        return Err(format!("missing value for {expression:?}"));
                    }
                    path
                }
                (Some(path), _) => path.to_owned(),
                (None, _) => String::new(),
            };
            let path = if sub.is_empty() {
                volume.path.clone()
            } else {
                let target = self.subpath_dir(&want.name, &spec.name).join(index.to_string());
                check_subpath(&sub)?;
                volumes::prepare_subpath(&volume.path, &sub, &target).map_err(|e| {
                    format!(
                        "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                        want.name, spec.name
                    )
                })?;
                target
            };
            out.push(mount(want, &path, volume.read_only, spec.working_dir.as_deref()));
        }
        let mounts_hosts = wanted.iter().any(|m| m.mount_path == "/etc/hosts");
        if !mounts_hosts && let Some(path) = self.hosts_file().map_err(|e| e.to_string())? {
            out.push(file_mount(&path, "/etc/hosts"));
        }
        let message = spec.termination_message_path.as_deref().unwrap_or_default();
        if !message.is_empty() {
            let path = self.message_file(&spec.name).map_err(|e| format!("termination message file: {e}"))?;
            out.push(file_mount(&path, message));
        }
        Ok(out)
    }

    fn subpath_dir(&self, volume: &str, container: &str) -> PathBuf {
        self.dir().join("volume-subpaths").join(volume).join(container)
    }

    /// The pod's `/etc/hosts`, written anew: addresses change with the sandbox.
    fn hosts_file(&self) -> io::Result<Option<PathBuf>> {
        let ips = self.ips();
        if ips.is_empty() && !self.pod.host_network() {
            return Ok(None);
        }
        let node = if self.pod.host_network() {
            fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            String::new()
        };
        let text = network::hosts_file(&self.pod, &ips, &self.kubelet.config.cluster_domain, &node);
        let path = self.dir().join("etc-hosts");
        // Written in place: it is mounted into containers that run.
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(Some(path))
    }

    /// A new file for a container's last words, writable by whoever it runs as.
    fn message_file(&self, container: &str) -> io::Result<PathBuf> {
        let dir = self.dir().join("containers").join(container);
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{:08x}", rand::random::<u32>()));
        fs::File::create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(path)
    }

    /// Reads the last words of containers that ended, once each.
    pub(super) fn read_messages(&mut self) {
        let records = &mut self.runtime.containers;
        self.messages.retain(|id, _| records.iter().any(|r| r.id == *id));
        for record in records.iter_mut().filter(|r| r.state == State::Exited) {
            let text = self.messages.entry(record.id.clone()).or_insert_with(|| {
                let mut text = record
                    .message_file
                    .as_deref()
                    .map(|p| read_tail(Path::new(p), MAX_MESSAGE_BYTES))
                    .unwrap_or_default();
                if text.is_empty()
                    && record.message_policy == "FallbackToLogsOnError"
                    && record.exit_code != 0
                {
                    text = logs::tail_text(Path::new(&record.log_path), FALLBACK_LINES, FALLBACK_BYTES);
                }
                text
            });
            if !text.is_empty() {
                record.message = if record.message.is_empty() {
                    text.clone()
                } else {
                    format!("{}: {text}", record.message)
                };
            }
        }
    }
}

/// A sub-path must stay inside its volume.
fn check_subpath(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Err(format!("subPath {path:?} must be a relative path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("subPath {path:?} must not contain '..'"));
    }
    Ok(())
}

/// The last bytes of a file as text.
fn read_tail(path: &Path, most: usize) -> String {
    use io::{Read, Seek};
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(most as u64)))?;
        let mut out = Vec::new();
        file.take(most as u64).read_to_end(&mut out)?;
        Ok(out)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
