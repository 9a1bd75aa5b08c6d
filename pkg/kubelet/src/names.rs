//! What the kubelet writes on the runtime's objects to find them again: labels, annotations, hashes, log paths.
//!
//! The names are upstream's, so that a node can change its kubelet without a container being touched
//! (`pkg/kubelet/kuberuntime/labels.go`).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::podutil::PodExt;

/// Pod name, on sandboxes and containers.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace, on sandboxes and containers.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod uid, on sandboxes and containers.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name, on containers.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Hash of what makes a container another one.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// How often the container was started before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Where in the container its last words are.
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The pre-stop hook as JSON, for containers whose pod is forgotten.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// The container's ports as JSON, likewise.
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// Grace period asked for at deletion.
pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Grace period of the spec.
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Root of the pods' log directories.
pub const POD_LOGS: &str = "/var/log/pods";
/// Where log collectors look: one link a container.
pub const CONTAINER_LOGS: &str = "/var/log/containers";

/// Labels of a pod's sandbox: the pod's own and ours.
pub fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(pod_labels(pod));
    labels
}

fn pod_labels(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME.to_owned(), pod.name().to_owned()),
        (POD_NAMESPACE.to_owned(), pod.ns().to_owned()),
        (POD_UID.to_owned(), pod.uid().to_owned()),
    ]
}

/// Labels of a container.
pub fn container_labels(pod: &Pod, container: &str) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = pod_labels(pod).into_iter().collect();
    labels.insert(CONTAINER_NAME.to_owned(), container.to_owned());
    labels
}

/// Annotations of a container.
pub fn container_annotations(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
) -> HashMap<String, String> {
    let mut out = HashMap::from([
        (CONTAINER_HASH.to_owned(), format!("{:x}", container_hash(container))),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (MESSAGE_PATH.to_owned(), container.termination_message_path.clone().unwrap_or_default()),
        (MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_default()),
    ]);
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        out.insert(DELETION_GRACE.to_owned(), seconds.to_string());
    }
    if let Some(seconds) = pod.spec().termination_grace_period_seconds {
        out.insert(TERMINATION_GRACE.to_owned(), seconds.to_string());
    }
    let hook = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    if let Some(json) = hook.and_then(|h| serde_json::to_string(h).ok()) {
        out.insert(PRE_STOP.to_owned(), json);
    }
    if let Some(json) = container.ports.as_ref().and_then(|p| serde_json::to_string(p).ok()) {
        out.insert(CONTAINER_PORTS.to_owned(), json);
    }
    out
}

/// The hash by which a running container is known to be of the spec it should be: of its name and image, which are
/// all that cannot change in place. 32-bit FNV-1a over the text Go's `%#v` dump gives for the JSON's bytes.
pub fn container_hash(container: &Container) -> u32 {
    let picked = BTreeMap::from([
        ("image", container.image.as_deref().unwrap_or_default()),
        ("name", &container.name),
    ]);
    let json = serde_json::to_string(&picked).expect("a map of strings is JSON");
    let bytes: Vec<String> = json.bytes().map(|b| b.to_string()).collect();
    fnv1a(format!("([]uint8)[{}]", bytes.join(" ")).as_bytes())
}

/// 32-bit FNV-1a.
pub fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// `/var/log/pods/NAMESPACE_NAME_UID`.
pub fn log_directory(namespace: &str, name: &str, uid: &str) -> String {
    format!("{POD_LOGS}/{namespace}_{name}_{uid}")
}

/// A container's log below its pod's log directory.
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// Name of the link for log collectors, `POD_NAMESPACE_CONTAINER-ID.log`, as long as a file name may be.
pub fn log_link(pod: &str, namespace: &str, container: &str, id: &str) -> String {
    const MAX_FILE_NAME: usize = 255;
    const SUFFIX: &str = ".log";
    let mut name = format!("{pod}_{namespace}_{container}-{id}");
    name.truncate(MAX_FILE_NAME - SUFFIX.len());
    format!("{CONTAINER_LOGS}/{name}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_is_fnv() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn only_name_and_image_make_another_container() {
        let base = Container { name: "a".into(), image: Some("i:1".into()), ..Container::default() };
        let same = Container { args: Some(vec!["x".into()]), ..base.clone() };
        let other = Container { image: Some("i:2".into()), ..base.clone() };
        assert_eq!(container_hash(&base), container_hash(&same));
        assert_ne!(container_hash(&base), container_hash(&other));
    }

    #[test]
    fn annotations_carry_what_a_kill_needs() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"terminationGracePeriodSeconds": 7, "containers": [{"name": "c", "image": "i",
                "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}, "ports": [{"containerPort": 80}]}]}
        }))
        .expect("a pod");
        let out = container_annotations(&pod, &pod.spec().containers[0], 3);
        assert_eq!(out[RESTART_COUNT], "3");
        assert_eq!(out[TERMINATION_GRACE], "7");
        assert_eq!(out[PRE_STOP], r#"{"exec":{"command":["x"]}}"#);
        assert_eq!(container_labels(&pod, "c")[CONTAINER_NAME], "c");
        assert_eq!(log_directory("n", "p", "u"), "/var/log/pods/n_p_u");
    }
}
