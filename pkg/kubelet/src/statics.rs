//! Static pods: manifests in a directory, run whether or not there is an API server, and mirrored in it when there is.
//!
//! Sources: `pkg/kubelet/config/file.go`, `pkg/kubelet/config/common.go`, `pkg/kubelet/pod/mirror_client.go`.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::pods::{Overview, StaticPods};
use crate::podutil::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SEEN, CONFIG_SOURCE, PodExt};

/// Wait before mirrors that could not be made or deleted are tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Bytes of events taken from the kernel at once.
const EVENT_BYTES: usize = 4096;
/// Wait for more changes of a directory: an editor makes several.
const SETTLE: Duration = Duration::from_millis(100);
/// Most manifests read; what is beyond is ignored with a warning.
const MAX_MANIFESTS: usize = 256;
/// Largest manifest.
const MAX_BYTES: u64 = 1 << 20;

/// Name, time of change and size of every manifest: what tells that something changed.
type Listing = Vec<(PathBuf, Option<SystemTime>, u64)>;

fn list(dir: &Path) -> Listing {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut out: Listing = entries
        .flatten()
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .filter_map(|e| {
            let meta = fs::metadata(e.path()).ok().filter(fs::Metadata::is_file)?;
            Some((e.path(), meta.modified().ok(), meta.len()))
        })
        .collect();
    out.sort();
    if out.len() > MAX_MANIFESTS {
        tracing::warn!(dir = %dir.display(), "too many manifests, only {MAX_MANIFESTS} are read");
        out.truncate(MAX_MANIFESTS);
    }
    out
}

/// The static pod of a manifest: named after its node, with what the API server would default.
fn read(text: &[u8], source: &Path, node: &str) -> Result<Pod, String> {
    let tree = apimachinery::yaml::parse(text).map_err(|e| e.to_string())?;
    if tree["kind"] != "Pod" || tree["apiVersion"] != "v1" {
        return Err("not a v1 Pod".to_owned());
    }
    let mut pod: Pod = apimachinery::from_value(tree).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("metadata.name is missing")?;
    if pod.spec().containers.is_empty() {
        return Err("spec.containers: Required value".to_owned());
    }
    // Of the contents, the file and the node, so that a changed manifest is another pod.
    let hash = |salt: &str| {
        let mut bytes = text.to_vec();
        bytes.extend_from_slice(source.as_os_str().as_encoded_bytes());
        bytes.extend_from_slice(node.as_bytes());
        bytes.extend_from_slice(salt.as_bytes());
        crate::names::fnv1a(&bytes)
    };
    let uid = format!("{:08x}{:08x}{:08x}{:08x}", hash("a"), hash("b"), hash("c"), hash("d"));
    pod.metadata.name = Some(format!("{name}-{node}"));
    pod.metadata.namespace =
        pod.metadata.namespace.filter(|n| !n.is_empty()).or_else(|| Some("default".to_owned()));
    pod.metadata.uid = Some(uid.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.to_owned(), uid);
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(CONFIG_SEEN.to_owned(), jiff::Timestamp::now().to_string());
    default(&mut pod, node);
    Ok(pod)
}

/// The defaults the API server would fill in, as far as the kubelet looks at them.
fn default(pod: &mut Pod, node: &str) {
    let Some(spec) = &mut pod.spec else { return };
    spec.node_name = Some(node.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(crate::podutil::DEFAULT_GRACE_SECONDS);
    // Only its manifest ends a static pod.
    spec.tolerations.get_or_insert_default().push(Toleration {
        effect: Some("NoExecute".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    });
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let image = container.image.clone().unwrap_or_default();
        let latest = crate::images::with_default_tag(&image).is_ok_and(|i| i.ends_with(":latest"));
        container
            .image_pull_policy
            .get_or_insert_with(|| if latest { "Always" } else { "IfNotPresent" }.to_owned());
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
        container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            if spec.host_network == Some(true) {
                port.host_port.get_or_insert(port.container_port);
            }
        }
    }
}

/// What the API's copy of a static pod looks like.
fn mirror(pod: &Pod, node_uid: Option<&str>, node: &str) -> Pod {
    let mut copy = pod.clone();
    let hash = pod.uid().to_owned();
    copy.metadata.uid = None;
    copy.status = None;
    copy.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR.to_owned(), hash);
    copy.metadata.owner_references = node_uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }]
    });
    copy
}

/// Reads manifests and keeps their mirrors until shutdown.
pub async fn run(
    kubelet: Arc<Kubelet>,
    overview: Arc<Overview>,
    api: client::Informer<Pod>,
    statics: StaticPods,
    shutdown: CancellationToken,
) {
    let mut seen = Listing::new();
    let mirrored = Arc::new(Notify::new());
    let changed = mirrored.clone();
    api.on_event(move |event| {
        if event.object().is_mirror() {
            changed.notify_one();
        }
    });
    let mut watched = kubelet.config.static_pod_path.as_deref().and_then(watch);
    loop {
        if let Some(dir) = &kubelet.config.static_pod_path {
            let now = list(dir);
            if now != seen {
                statics.store(Arc::new(load(&now, &kubelet.config.node_name)));
                seen = now;
                overview.poke();
            }
        }
        let settled = if api.has_synced() {
            reconcile_mirrors(&kubelet, &api, &statics).await
        } else {
            statics.load().is_empty()
        };
        let pause = if settled { kubelet.config.file_check } else { RETRY };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = mirrored.notified() => {}
            () = touched(watched.as_mut()) => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Has the kernel tell of changes in a directory. Without that, it is looked at every `fileCheckFrequency` only.
fn watch(dir: &Path) -> Option<pipe::Receiver> {
    let events = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    inotify.add_watch(dir, events).ok()?;
    // Read like a pipe: readiness and bytes are all there is to it.
    pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify)).ok()
}

/// Waits until something in the directory changed.
async fn touched(watched: Option<&mut pipe::Receiver>) {
    let Some(watched) = watched else { return std::future::pending().await };
    // What changed is found by looking: what the events say is thrown away.
    let mut events = [0; EVENT_BYTES];
    if watched.read(&mut events).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn load(listing: &Listing, node: &str) -> HashMap<String, Arc<Pod>> {
    let mut out = HashMap::new();
    for (path, _, size) in listing {
        let text = if *size > MAX_BYTES {
            Err("the file is too large".to_owned())
        } else {
            fs::read(path).map_err(|e| e.to_string())
        };
        match text.and_then(|text| read(&text, path, node)) {
            Ok(pod) => {
                out.insert(pod.uid().to_owned(), Arc::new(pod));
            }
            Err(why) => tracing::error!(path = %path.display(), why, "cannot use manifest"),
        }
    }
    out
}

/// Makes missing mirrors and deletes those whose manifest is gone or another one. `false` when something is left to do.
async fn reconcile_mirrors(kubelet: &Kubelet, api: &client::Informer<Pod>, statics: &StaticPods) -> bool {
    let mut settled = true;
    let statics = statics.load_full();
    let mirrors: Vec<Arc<Pod>> = api.store().list().into_iter().filter(|p| p.is_mirror()).collect();
    let client = kubelet.objects.client();
    for stale in mirrors
        .iter()
        .filter(|m| !m.annotation(CONFIG_MIRROR).is_some_and(|h| statics.contains_key(h)) || m.is_deleting())
    {
        let pods: Api<Pod> = Api::namespaced(client.clone(), stale.ns());
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(stale.uid().to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        if let Err(error) = pods.delete(stale.name(), &params).await
            && !client::is_not_found(&error)
        {
            tracing::warn!(pod = %stale.full_id(), %error, "cannot delete mirror pod");
            settled = false;
        }
    }
    for pod in statics.values() {
        if mirrors.iter().any(|m| m.ns() == pod.ns() && m.name() == pod.name()) {
            continue;
        }
        let node = &kubelet.config.node_name;
        let owner = kubelet.objects.node(node).and_then(|n| n.metadata.uid.clone());
        // The API server takes mirrors only from registered nodes.
        if owner.is_none() {
            settled = false;
            continue;
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), pod.ns());
        if let Err(error) = pods.create(&PostParams::default(), &mirror(pod, owner.as_deref(), node)).await
            && !client::is_already_exists(&error)
        {
            tracing::warn!(pod = %pod.full_id(), %error, "failed creating a mirror pod");
            settled = false;
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn manifests_become_pods_of_the_node() {
        let pod = read(MANIFEST.as_bytes(), Path::new("/m/p.yaml"), "node1").expect("a pod");
        assert_eq!((pod.name(), pod.ns()), ("p-node1", "default"));
        assert!(pod.is_static() && !pod.is_mirror());
        assert_eq!(pod.spec().containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(pod.annotation(CONFIG_HASH), Some(pod.uid()));
        let changed = MANIFEST.replace("image: i", "image: i:2");
        let other = read(changed.as_bytes(), Path::new("/m/p.yaml"), "node1").expect("a pod");
        assert_ne!(pod.uid(), other.uid());
        let copy = mirror(&pod, Some("nu"), "node1");
        assert_eq!(copy.annotation(CONFIG_MIRROR), Some(pod.uid()));
        assert_eq!(copy.metadata.uid, None);
        for bad in [
            "kind: Pod\n",
            "apiVersion: v1\nkind: Service\n",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
            ": :",
        ] {
            assert!(read(bad.as_bytes(), Path::new("/m/x"), "n").is_err(), "{bad}");
        }
    }

    #[test]
    fn hidden_files_are_not_read() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(".hidden"), MANIFEST).expect("written");
        fs::write(dir.path().join("a.yaml"), MANIFEST).expect("written");
        assert_eq!(list(dir.path()).len(), 1);
        assert_eq!(load(&list(dir.path()), "n").len(), 1);
    }
}
