//! A container as the runtime wants it. Pure, but for the mounts its caller prepared.
//!
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_container.go`.

use std::collections::HashMap;
use std::path::Path;

use cri::api;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::env::expand;
use crate::names;
use crate::podutil::Kind;
use crate::resources::{self, NodeFacts};
use crate::security::{self, ImageUser};

/// What a container is made from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// Which list it stands in.
    pub kind: Kind,
    /// Its spec.
    pub container: &'a Container,
    /// How often it was started before.
    pub attempt: u32,
    /// The image as the runtime resolved it.
    pub image_ref: &'a str,
    /// The user the image asks for.
    pub image_user: &'a ImageUser,
    /// Its environment.
    pub env: &'a [(String, String)],
    /// Its mounts.
    pub mounts: Vec<api::Mount>,
    /// The kubelet's directory, for seccomp profiles.
    pub root: &'a Path,
    /// `seccompDefault`.
    pub seccomp_default: bool,
    /// Facts about the node.
    pub node: &'a NodeFacts,
    /// Id of the container whose processes an ephemeral one shall see.
    pub target: Option<&'a str>,
}

/// The container's configuration.
pub fn config(parts: Parts<'_>) -> api::ContainerConfig {
    let container = parts.container;
    let env: HashMap<&str, &str> = parts.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expanded = |words: Option<&Vec<String>>| -> Vec<String> {
        words.into_iter().flatten().map(|w| expand(w, |name| env.get(name).copied())).collect()
    };
    api::ContainerConfig {
        metadata: Some(api::ContainerMetadata { name: container.name.clone(), attempt: parts.attempt }),
        image: Some(api::ImageSpec {
            image: parts.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(container.command.as_ref()),
        args: expanded(container.args.as_ref()),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: parts
            .env
            .iter()
            .map(|(key, value)| api::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts: parts.mounts,
        devices: Vec::new(),
        labels: names::container_labels(parts.pod, &container.name),
        annotations: names::container_annotations(parts.pod, container, parts.attempt),
        log_path: names::log_path(&container.name, parts.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(api::LinuxContainerConfig {
            resources: Some(resources::container_resources(parts.pod, container, parts.node)),
            security_context: Some(security::container(
                parts.pod,
                container,
                parts.image_user,
                parts.root,
                parts.seccomp_default,
                parts.target,
            )),
        }),
        ..Default::default()
    }
}

/// A mount of a volume at its place in the container.
pub fn mount(
    mount: &VolumeMount,
    host_path: &Path,
    read_only_volume: bool,
    image_dir: Option<&str>,
) -> api::Mount {
    let read_only = mount.read_only == Some(true) || read_only_volume;
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => api::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => api::MountPropagation::PropagationHostToContainer,
        _ => api::MountPropagation::PropagationPrivate,
    };
    // A relative path is below the working directory of the image, or the root.
    let container_path = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("{}/{}", image_dir.unwrap_or_default().trim_end_matches('/'), mount.mount_path)
    };
    api::Mount {
        container_path,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: read_only,
        propagation: propagation.into(),
        recursive_read_only: read_only && mount.recursive_read_only.as_deref() == Some("Enabled"),
        ..Default::default()
    }
}

/// A mount of one file the kubelet keeps.
pub fn file_mount(host_path: &Path, container_path: &str) -> api::Mount {
    api::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podutil::PodExt;
    use serde_json::json;

    #[test]
    fn commands_expand_and_mounts_map() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "command": ["$(A)"], "args": ["$(B)", "$$(A)"]}]}}))
        .expect("a pod");
        let config = config(Parts {
            pod: &pod,
            kind: Kind::Regular,
            container: &pod.spec().containers[0],
            attempt: 1,
            image_ref: "sha256:1",
            image_user: &ImageUser::default(),
            env: &[("A".into(), "x".into())],
            mounts: vec![],
            root: Path::new("/k"),
            seccomp_default: false,
            node: &NodeFacts::default(),
            target: None,
        });
        assert_eq!(config.command, ["x"]);
        assert_eq!(config.args, ["$(B)", "$(A)"]);
        assert_eq!(config.log_path, "c/1.log");
        assert_eq!(config.image.map(|i| i.image).as_deref(), Some("sha256:1"));
        let at = VolumeMount { mount_path: "d".into(), ..VolumeMount::default() };
        let got = mount(&at, Path::new("/v"), true, None);
        assert_eq!((got.container_path.as_str(), got.readonly), ("/d", true));
    }
}
