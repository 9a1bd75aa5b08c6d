//! A pod's volumes on this node: making them, keeping them current, taking them away.
//!
//! Layout as upstream: `ROOT/pods/UID/volumes/kubernetes.io~KIND/NAME`. Everything is idempotent: a second run finds
//! what the first one made, and repairs what it left half-done.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::config::Config;
use crate::env::Facts;
use crate::objects::{Objects, api_error};
use crate::podutil::PodExt;

pub mod atomic;
mod disk;
pub mod payload;

use atomic::{File, Payload};
pub use disk::{prepare_subpath, remove_pod_dir};

/// Why a volume could not be set up. The text is upstream's event `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Setting up a volume failed; tried again later.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
    Setup {
        /// Volume name.
        volume: String,
        /// Why.
        reason: String,
    },
    /// A kind of volume this kubelet does not have.
    #[error("no volume plugin matched volume {volume:?}: {kind} volumes are not supported by this kubelet")]
    Unsupported {
        /// Volume name.
        volume: String,
        /// Its kind.
        kind: &'static str,
    },
}

/// A volume that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is on the host.
    pub path: PathBuf,
    /// The kubelet keeps it, so containers may not write to it however they mount it.
    pub read_only: bool,
}

/// A pod's volumes by name.
pub type Volumes = HashMap<String, Mounted>;

/// Path of a volume the kubelet makes.
fn volume_dir(config: &Config, pod: &Pod, kind: &str, name: &str) -> PathBuf {
    config.pod_dir(pod.uid()).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
}

/// Sets up every volume of a pod, or brings it up to date.
pub async fn setup(config: &Config, objects: &Objects, pod: &Pod, facts: &Facts) -> Result<Volumes, Error> {
    let mut out = Volumes::new();
    for volume in pod.spec().volumes.iter().flatten() {
        let mounted = one(config, objects, pod, volume, facts).await?;
        out.insert(volume.name.clone(), mounted);
    }
    Ok(out)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec().security_context.as_ref().and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok())
}

async fn one(
    config: &Config,
    objects: &Objects,
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
) -> Result<Mounted, Error> {
    let name = &volume.name;
    let failed = |reason: String| Error::Setup { volume: name.clone(), reason };
    let io_failed = |error: io::Error| failed(error.to_string());
    if let Some(empty) = &volume.empty_dir {
        let dir = volume_dir(config, pod, "empty-dir", name);
        disk::empty_dir(&dir, empty, pod, fs_group(pod), facts).map_err(io_failed)?;
        return Ok(Mounted { path: dir, read_only: false });
    }
    if let Some(host) = &volume.host_path {
        disk::check_host_path(&host.path, host.type_.as_deref().unwrap_or_default()).map_err(failed)?;
        return Ok(Mounted { path: host.path.clone().into(), read_only: false });
    }
    let claim = volume
        .persistent_volume_claim
        .as_ref()
        .map(|c| c.claim_name.clone())
        .or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{name}", pod.name())));
    if let Some(claim) = claim {
        return persistent(objects, pod, name, &claim).await;
    }
    let Some((kind, files)) = files(objects, pod, volume, facts).await.map_err(failed)? else {
        return Err(Error::Unsupported { volume: name.clone(), kind: kind_of(volume) });
    };
    let dir = volume_dir(config, pod, kind, name);
    // Secrets and tokens never reach a disk.
    let memory = matches!(kind, "secret" | "projected");
    if memory {
        disk::tmpfs(&dir, None).map_err(io_failed)?;
    }
    let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let group = fs_group(pod);
    std::fs::create_dir_all(&dir).map_err(io_failed)?;
    atomic::write(&dir, &files, &stamp, |fresh| match group {
        Some(gid) => disk::own_by_group(fresh, gid, true),
        None => Ok(()),
    })
    .map_err(io_failed)?;
    if let Some(gid) = group {
        disk::own_dir(&dir, gid).map_err(io_failed)?;
    }
    Ok(Mounted { path: dir, read_only: true })
}

/// The kind and files of a volume made of API data; `None` for other volumes.
async fn files(
    objects: &Objects,
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
) -> Result<Option<(&'static str, Payload)>, String> {
    let mut out = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(payload::DEFAULT_MODE);
        let optional = source.optional == Some(true);
        config_map(objects, pod, &mut out, &source.name, source.items.as_deref(), mode, optional).await?;
        return Ok(Some(("configmap", out)));
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(payload::DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(objects, pod, &mut out, name, source.items.as_deref(), mode, source.optional == Some(true))
            .await?;
        return Ok(Some(("secret", out)));
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(payload::DEFAULT_MODE);
        payload::add_downward(&mut out, pod, source.items.as_deref().unwrap_or_default(), mode, facts)?;
        return Ok(Some(("downward-api", out)));
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let mode = projected.default_mode.unwrap_or(payload::DEFAULT_MODE);
    for source in projected.sources.iter().flatten() {
        if let Some(s) = &source.config_map {
            config_map(objects, pod, &mut out, &s.name, s.items.as_deref(), mode, s.optional == Some(true))
                .await?;
        } else if let Some(s) = &source.secret {
            secret(objects, pod, &mut out, &s.name, s.items.as_deref(), mode, s.optional == Some(true))
                .await?;
        } else if let Some(s) = &source.downward_api {
            payload::add_downward(&mut out, pod, s.items.as_deref().unwrap_or_default(), mode, facts)?;
        } else if let Some(s) = &source.service_account_token {
            const DEFAULT_SECONDS: i64 = 3600;
            let seconds = s.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
            let token = objects
                .token(pod, s.audience.as_deref().unwrap_or_default(), seconds)
                .await
                .map_err(|e| format!("failed to fetch token: {}", api_error(&e)))?;
            let user = payload::common_user(pod).and_then(|u| u32::try_from(u).ok());
            // Only who runs in the pod reads its token: its user, or its group.
            let mode = if user.is_some() || fs_group(pod).is_some() { 0o600 } else { mode as u32 & 0o777 };
            out.insert(s.path.clone(), File { data: token.into_bytes(), mode, uid: user });
        } else {
            return Err(
                "projected volumes of clusterTrustBundle and podCertificate are not supported".to_owned()
            );
        }
    }
    Ok(Some(("projected", out)))
}

async fn config_map(
    objects: &Objects,
    pod: &Pod,
    out: &mut Payload,
    name: &str,
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), String> {
    match objects.config_map(pod.ns(), name).await.map_err(|e| api_error(&e))? {
        Some(data) => payload::add_keys(out, &data, items, mode, optional, "config"),
        None if optional => Ok(()),
        None => Err(format!("configmap {name:?} not found")),
    }
}

async fn secret(
    objects: &Objects,
    pod: &Pod,
    out: &mut Payload,
    name: &str,
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), String> {
    match objects.secret(pod.ns(), name).await.map_err(|e| api_error(&e))? {
        Some(data) => payload::add_keys(out, &data, items, mode, optional, "secret"),
        None if optional => Ok(()),
        None => Err(format!("secret {name:?} not found")),
    }
}

/// A claim bound to a volume on this node.
async fn persistent(objects: &Objects, pod: &Pod, volume: &str, claim: &str) -> Result<Mounted, Error> {
    let failed = |reason: String| Error::Setup { volume: volume.to_owned(), reason };
    let (pvc, pv) = objects.claimed_volume(pod.ns(), claim).await.map_err(|e| failed(api_error(&e)))?;
    let bound = pvc.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let Some(spec) = pv.filter(|_| bound).and_then(|pv| pv.spec) else {
        return Err(failed(format!("PVC {}/{claim} is not bound", pod.ns())));
    };
    let read_only = spec.access_modes.as_ref().is_some_and(|modes| modes == &["ReadOnlyMany".to_owned()]);
    if let Some(host) = &spec.host_path {
        disk::check_host_path(&host.path, host.type_.as_deref().unwrap_or_default()).map_err(failed)?;
        return Ok(Mounted { path: host.path.clone().into(), read_only });
    }
    if let Some(local) = &spec.local {
        let path = Path::new(&local.path);
        if !path.exists() {
            return Err(failed(format!("path {:?} does not exist", local.path)));
        }
        if let Some(gid) = fs_group(pod) {
            disk::own_by_group(path, gid, false).map_err(|e| failed(e.to_string()))?;
        }
        return Ok(Mounted { path: path.to_owned(), read_only });
    }
    Err(Error::Unsupported {
        volume: volume.to_owned(),
        kind: "persistent volumes other than hostPath and local",
    })
}

fn kind_of(volume: &Volume) -> &'static str {
    let v = volume;
    let kinds: [(&'static str, bool); 10] = [
        ("csi", v.csi.is_some()),
        ("image", v.image.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("fc", v.fc.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("cephfs", v.cephfs.is_some()),
        ("rbd", v.rbd.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
    ];
    kinds.into_iter().find(|(_, is)| *is).map_or("such", |(kind, _)| kind)
}
