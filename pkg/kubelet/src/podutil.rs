//! Small questions about a pod that many modules ask.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Marks where a pod came from: `api` or `file`.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// When this node first saw the pod.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// Hash of a static pod's manifest; its uid.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Set on the API object that mirrors a static pod; equals the static pod's [`CONFIG_HASH`].
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// Short forms for the fields of a pod that are always there once the API server accepted it.
pub trait PodExt {
    /// `metadata.uid`; for a static pod the hash of its manifest.
    fn uid(&self) -> &str;
    /// `metadata.namespace`.
    fn ns(&self) -> &str;
    /// `metadata.name`.
    fn name(&self) -> &str;
    /// The spec, empty when absent.
    fn spec(&self) -> &PodSpec;
    /// An annotation's value.
    fn annotation(&self, key: &str) -> Option<&str>;
    /// Whether deletion was asked for.
    fn is_deleting(&self) -> bool;
    /// `name_namespace(uid)`, as upstream's messages name a pod.
    fn full_id(&self) -> String;
    /// Whether it runs in the node's network.
    fn host_network(&self) -> bool;
    /// Whether it came from a manifest on this node.
    fn is_static(&self) -> bool;
    /// Whether it is the API's copy of a static pod.
    fn is_mirror(&self) -> bool;
    /// `status.phase`, empty when unset.
    fn phase(&self) -> &str;
    /// `spec.restartPolicy`, `Always` when unset.
    fn restart_policy(&self) -> &str;
    /// How long containers get between SIGTERM and SIGKILL, in seconds: the deletion's own, else the spec's.
    fn grace_seconds(&self) -> i64;
}

impl PodExt for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    fn ns(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    fn spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&EMPTY_SPEC)
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
    fn full_id(&self) -> String {
        format!("{}_{}({})", self.name(), self.ns(), self.uid())
    }
    fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }
    fn is_static(&self) -> bool {
        self.annotation(CONFIG_SOURCE).is_some_and(|s| s != "api")
    }
    fn is_mirror(&self) -> bool {
        self.annotation(CONFIG_MIRROR).is_some()
    }
    fn phase(&self) -> &str {
        self.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
    }
    fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or("Always")
    }
    fn grace_seconds(&self) -> i64 {
        let asked = if self.is_deleting() { self.metadata.deletion_grace_period_seconds } else { None };
        asked.or(self.spec().termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS)
    }
}

/// Grace period of a pod that names none.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Shortest time between SIGTERM and SIGKILL, whatever was asked for.
pub const MINIMUM_GRACE_SECONDS: i64 = 2;

/// Which list of the spec a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `spec.initContainers`, sidecars among them.
    Init,
    /// `spec.containers`.
    Regular,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

/// An init container that keeps running beside the regular ones (KEP-753).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The init containers, in order.
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec().init_containers.as_deref().unwrap_or_default()
}

/// The ephemeral containers as ordinary ones; their fields are a subset.
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    pod.spec()
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|e| Container {
            args: e.args.clone(),
            command: e.command.clone(),
            env: e.env.clone(),
            env_from: e.env_from.clone(),
            image: e.image.clone(),
            image_pull_policy: e.image_pull_policy.clone(),
            name: e.name.clone(),
            resources: e.resources.clone(),
            security_context: e.security_context.clone(),
            stdin: e.stdin,
            stdin_once: e.stdin_once,
            termination_message_path: e.termination_message_path.clone(),
            termination_message_policy: e.termination_message_policy.clone(),
            tty: e.tty,
            volume_mounts: e.volume_mounts.clone(),
            working_dir: e.working_dir.clone(),
            ..Container::default()
        })
        .collect()
}

/// A container of any kind by its name.
pub fn find_container(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    let named = |c: &&Container| c.name == name;
    if let Some(container) = pod.spec().containers.iter().find(named) {
        return Some((Kind::Regular, container.clone()));
    }
    if let Some(container) = init_containers(pod).iter().find(named) {
        return Some((Kind::Init, container.clone()));
    }
    ephemeral_containers(pod).into_iter().find(|c| c.name == name).map(|c| (Kind::Ephemeral, c))
}

/// The field path events about a container carry: `spec.containers{name}`.
pub fn field_path(kind: Kind, name: &str) -> String {
    let list = match kind {
        Kind::Init => "initContainers",
        Kind::Regular => "containers",
        Kind::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{name}}}")
}

/// A port by number or by its name in the container.
pub fn resolve_port(
    port: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
    container: &Container,
) -> Result<u16, String> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port: {name:?}"))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}
