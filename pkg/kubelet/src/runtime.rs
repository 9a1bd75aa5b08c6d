//! What the runtime holds for one pod, and how it is read.
//!
//! The kubelet keeps no state of its own about containers: every start, its own or the runtime's, begins with this
//! picture, found by the labels of [`crate::names`].

use std::collections::HashMap;

use cri::api;
use jiff::Timestamp;

use crate::names;

/// State of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

impl From<api::ContainerState> for State {
    fn from(state: api::ContainerState) -> Self {
        match state {
            api::ContainerState::ContainerCreated => Self::Created,
            api::ContainerState::ContainerRunning => Self::Running,
            api::ContainerState::ContainerExited => Self::Exited,
            api::ContainerState::ContainerUnknown => Self::Unknown,
        }
    }
}

/// A sandbox of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Which sandbox of the pod this is, from 0.
    pub attempt: u32,
    /// Whether it runs.
    pub ready: bool,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Its addresses, the primary first; empty in the host's network.
    pub ips: Vec<String>,
    /// Whether it uses the host's network.
    pub host_network: bool,
}

/// A container of a pod, of this or an earlier attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    /// The runtime's id.
    pub id: String,
    /// Its name in the spec.
    pub name: String,
    /// The sandbox it was made in.
    pub sandbox: String,
    /// How often the container was started before.
    pub attempt: u32,
    /// [`names::CONTAINER_HASH`], `None` when absent or unreadable.
    pub hash: Option<u32>,
    /// Its state.
    pub state: State,
    /// Nanoseconds since the epoch, 0 when unset; so the two after it.
    pub created_at: i64,
    /// When it started.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
    /// Exit code, of an ended one.
    pub exit_code: i32,
    /// The runtime's reason: `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// The runtime's message, or the container's last words.
    pub message: String,
    /// The image as asked for.
    pub image: String,
    /// The image as resolved.
    pub image_ref: String,
    /// The runtime's own id of the image.
    pub image_id: String,
    /// Full path of its log.
    pub log_path: String,
    /// Where its termination message is on the host.
    pub message_file: Option<String>,
    /// [`names::MESSAGE_POLICY`].
    pub message_policy: String,
    /// Resources in force, where the runtime tells.
    pub resources: Option<api::LinuxContainerResources>,
    /// Users in force, where the runtime tells.
    pub user: Option<api::LinuxContainerUser>,
}

impl ContainerRecord {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether it ended with this code.
    pub fn exited_with_zero(&self) -> bool {
        self.state == State::Exited && self.exit_code == 0
    }
}

/// A time from the runtime's nanoseconds; `None` for zero.
pub fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

/// Everything the runtime holds for a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRuntime {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Containers, newest first.
    pub containers: Vec<ContainerRecord>,
}

impl PodRuntime {
    /// The newest record of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// Whether anything still runs.
    pub fn is_running(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready) || self.containers.iter().any(ContainerRecord::is_running)
    }

    /// Containers that run or are about to.
    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown))
    }
}

/// What a relist knows of one pod: enough to see that something changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSketch {
    /// Name and namespace, for pods no source knows.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Ids of sandboxes and containers with their states, sorted.
    pub parts: Vec<(String, State)>,
    /// Those of containers alone.
    pub containers: Vec<(String, State)>,
}

/// One relist: the sketch of every pod by uid.
pub async fn relist(runtime: &cri::Runtime) -> cri::Result<HashMap<String, PodSketch>> {
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(&[]), runtime.list_containers(&[]))?;
    Ok(sketch(&sandboxes, &containers))
}

fn sketch(sandboxes: &[api::PodSandbox], containers: &[api::Container]) -> HashMap<String, PodSketch> {
    let mut pods: HashMap<String, PodSketch> = HashMap::new();
    let mut add = |labels: &HashMap<String, String>, id: &str, state: State, is_container: bool| {
        let Some(uid) = labels.get(names::POD_UID) else { return };
        let pod = pods.entry(uid.clone()).or_insert_with(|| PodSketch {
            name: labels.get(names::POD_NAME).cloned().unwrap_or_default(),
            namespace: labels.get(names::POD_NAMESPACE).cloned().unwrap_or_default(),
            ..PodSketch::default()
        });
        pod.parts.push((id.to_owned(), state));
        if is_container {
            pod.containers.push((id.to_owned(), state));
        }
    };
    for sandbox in sandboxes {
        let ready = sandbox.state() == api::PodSandboxState::SandboxReady;
        add(&sandbox.labels, &sandbox.id, if ready { State::Running } else { State::Exited }, false);
    }
    for container in containers {
        add(&container.labels, &container.id, container.state().into(), true);
    }
    for pod in pods.values_mut() {
        pod.parts.sort_by(|a, b| a.0.cmp(&b.0));
        pod.containers.sort_by(|a, b| a.0.cmp(&b.0));
    }
    pods
}

/// Reads everything the runtime holds for a pod. Objects that vanish meanwhile are left out.
pub async fn inspect(runtime: &cri::Runtime, uid: &str) -> cri::Result<PodRuntime> {
    let labels = [(names::POD_UID, uid)];
    let (sandboxes, containers) =
        tokio::try_join!(runtime.list_sandboxes(&labels), runtime.list_containers(&labels))?;
    let mut out = PodRuntime::default();
    for sandbox in sandboxes {
        match runtime.sandbox_status(&sandbox.id).await {
            Ok(status) => out.sandboxes.push(sandbox_record(&status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    for container in containers {
        match runtime.container_status(&container.id).await {
            Ok(status) => out.containers.push(container_record(&status, &container)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    out.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
    out.containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.attempt)));
    Ok(out)
}

fn sandbox_record(status: &api::PodSandboxStatus) -> Sandbox {
    let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
    let host_network = options.is_some_and(|o| o.network() == api::NamespaceMode::Node);
    let mut ips = Vec::new();
    if let Some(network) = &status.network
        && !host_network
        && !network.ip.is_empty()
    {
        ips.push(network.ip.clone());
        ips.extend(network.additional_ips.iter().map(|ip| ip.ip.clone()));
    }
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: status.state() == api::PodSandboxState::SandboxReady,
        created_at: status.created_at,
        ips,
        host_network,
    }
}

fn container_record(status: &api::ContainerStatus, listed: &api::Container) -> ContainerRecord {
    let metadata = status.metadata.clone().unwrap_or_default();
    let annotation = |key: &str| status.annotations.get(key);
    let message_path = annotation(names::MESSAGE_PATH).cloned().unwrap_or_default();
    let message_file = status
        .mounts
        .iter()
        .find(|m| !message_path.is_empty() && m.container_path == message_path)
        .map(|m| m.host_path.clone());
    let image = status.image.clone().unwrap_or_default();
    let asked = if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    let image_id = [&status.image_id, &listed.image_id, &listed.image_ref]
        .into_iter()
        .find(|id| !id.is_empty())
        .cloned()
        .unwrap_or_default();
    ContainerRecord {
        id: status.id.clone(),
        name: status.labels.get(names::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        sandbox: listed.pod_sandbox_id.clone(),
        attempt: annotation(names::RESTART_COUNT).and_then(|c| c.parse().ok()).unwrap_or(metadata.attempt),
        hash: annotation(names::CONTAINER_HASH).and_then(|h| u32::from_str_radix(h, 16).ok()),
        state: status.state().into(),
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: asked,
        image_ref: status.image_ref.clone(),
        image_id,
        log_path: status.log_path.clone(),
        message_file,
        message_policy: annotation(names::MESSAGE_POLICY).cloned().unwrap_or_default(),
        resources: status.resources.as_ref().and_then(|r| r.linux.clone()),
        user: status.user.as_ref().and_then(|u| u.linux.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sketches_group_by_uid() {
        let labels = HashMap::from([
            (names::POD_UID.to_owned(), "u".to_owned()),
            (names::POD_NAME.to_owned(), "p".to_owned()),
        ]);
        let sandbox =
            api::PodSandbox { id: "z".into(), labels: labels.clone(), state: 1, ..Default::default() };
        let foreign = api::PodSandbox { id: "f".into(), ..Default::default() };
        let container = api::Container { id: "a".into(), labels, state: 1, ..Default::default() };
        let pods = sketch(&[sandbox, foreign], &[container]);
        assert_eq!(pods.len(), 1, "what has no uid is not ours");
        assert_eq!(pods["u"].parts, [("a".to_owned(), State::Running), ("z".to_owned(), State::Exited)]);
        assert_eq!(pods["u"].name, "p");
    }

    #[test]
    fn zero_is_no_time() {
        assert_eq!(time(0), None);
        assert_eq!(time(1_000_000_000).map(Timestamp::as_second), Some(1));
    }
}
