//! The status of a pod as the API shows it: a pure function of spec, runtime, probes and the status before.
//!
//! Sources: `pkg/kubelet/kubelet_pods.go` (phases, container statuses), `pkg/kubelet/status/generate.go` (conditions).

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::decide::{Ended, HealthView, completed, started};
use crate::podutil::{Kind, PodExt, ephemeral_containers, init_containers, is_sidecar};
use crate::resources;
use crate::restart::should_start;
use crate::runtime::{ContainerRecord, PodRuntime, State, time};

mod conditions;

/// Why a container waits, by container name: what starting it ran into.
pub type Reasons = HashMap<String, (String, String)>;

const CREATING: &str = "ContainerCreating";
const INITIALIZING: &str = "PodInitializing";
/// Reason of a container nobody knows the end of.
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
const LOST_MESSAGE: &str = "The container could not be located when the pod was terminated";
const LOST_DELETED_MESSAGE: &str =
    "The container could not be located when the pod was deleted.  The container used to be Running";
/// Exit code given to containers nobody knows the end of: killed.
const LOST_EXIT_CODE: i32 = 137;

/// What a status is made from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The newest spec, with the newest status the API server has.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub runtime: &'a PodRuntime,
    /// What probes say.
    pub health: &'a HealthView,
    /// Why containers wait.
    pub reasons: &'a Reasons,
    /// Set when the kubelet ended the pod.
    pub ended: Option<&'a Ended>,
    /// Everything of the pod has stopped for good.
    pub finished: bool,
    /// Prefix of container ids: the runtime's name, as in `containerd://ID`.
    pub runtime_name: &'a str,
    /// The node's addresses, the primary first.
    pub host_ips: &'a [String],
    /// Now.
    pub now: Timestamp,
}

/// The status a pod should have.
pub fn generate(input: &Input<'_>) -> PodStatus {
    let pod = input.pod;
    let old = pod.status.clone().unwrap_or_default();
    if let Some(why) =
        input.ended.filter(|_| input.runtime.containers.is_empty() && old.container_statuses.is_none())
    {
        return never_ran(pod, why, old);
    }
    let list = |kind, containers: &[Container], before: Option<&Vec<ContainerStatus>>| {
        let before = before.map(Vec::as_slice).unwrap_or_default();
        let statuses: Vec<ContainerStatus> =
            containers.iter().map(|c| container_status(input, kind, c, before)).collect();
        (!statuses.is_empty()).then_some(statuses)
    };
    let init = list(Kind::Init, init_containers(pod), old.init_container_statuses.as_ref());
    let regular = list(Kind::Regular, &pod.spec().containers, old.container_statuses.as_ref());
    let ephemeral =
        list(Kind::Ephemeral, &ephemeral_containers(pod), old.ephemeral_container_statuses.as_ref());
    let mut status = PodStatus {
        init_container_statuses: init,
        container_statuses: regular,
        ephemeral_container_statuses: ephemeral,
        qos_class: Some(resources::qos(pod).as_str().to_owned()),
        start_time: old.start_time.clone().or(Some(Time(whole_seconds(input.now)))),
        observed_generation: pod.metadata.generation.or(old.observed_generation),
        reason: old.reason.clone(),
        message: old.message.clone(),
        ..old.clone()
    };
    let computed = phase(input, &status);
    // A phase that ended stays: nothing brings such a pod back.
    let ended = matches!(pod.phase(), "Failed" | "Succeeded");
    status.phase = Some(if ended { pod.phase().to_owned() } else { computed.to_owned() });
    if let Some(why) = input.ended {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(why.reason.clone());
        status.message = Some(why.message.clone());
    }
    addresses(input, &mut status);
    status.conditions = Some(conditions::all(input, &status, old.conditions.as_deref().unwrap_or_default()));
    status
}

/// The status of a pod that was refused or ended before any of its containers was made.
fn never_ran(pod: &Pod, why: &Ended, old: PodStatus) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(why.reason.clone()),
        message: Some(why.message.clone()),
        qos_class: Some(resources::qos(pod).as_str().to_owned()),
        observed_generation: pod.metadata.generation.or(old.observed_generation),
        ..old
    }
}

/// Puts the conditions that others write into a status of ours.
pub fn keep_foreign_conditions(status: &mut PodStatus, api: &PodStatus) {
    conditions::merge_foreign(status, api);
}

/// Times in statuses have no fractions.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn addresses(input: &Input<'_>, status: &mut PodStatus) {
    if let Some(primary) = input.host_ips.first() {
        status.host_ip = Some(primary.clone());
        status.host_ips = Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    }
    let ips: Vec<String> = if input.pod.host_network() {
        input.host_ips.to_vec()
    } else {
        input.runtime.sandbox().filter(|s| s.ready).map(|s| s.ips.clone()).unwrap_or_default()
    };
    // Without a sandbox the last known addresses stay: the pod may be just going away.
    if let Some(primary) = ips.first() {
        status.pod_ip = Some(primary.clone());
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
        ..ContainerState::default()
    }
}

fn terminated(state: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(state), ..ContainerState::default() }
}

/// Most bytes of a container's last words kept in the status (`MaxContainerTerminationMessageLength`).
pub const MAX_MESSAGE_BYTES: usize = 4096;

fn record_state(input: &Input<'_>, record: &ContainerRecord) -> ContainerState {
    let at = |nanos: i64| time(nanos).map(|t| Time(whole_seconds(t)));
    let id = Some(format!("{}://{}", input.runtime_name, record.id));
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    match record.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: at(record.started_at) }),
            ..ContainerState::default()
        },
        State::Exited => terminated(ContainerStateTerminated {
            container_id: id,
            exit_code: record.exit_code,
            finished_at: at(record.finished_at),
            started_at: at(record.started_at),
            reason: text(&record.reason),
            message: text(&record.message),
            signal: None,
        }),
        State::Created => waiting(CREATING, ""),
        State::Unknown => terminated(ContainerStateTerminated {
            container_id: id,
            exit_code: LOST_EXIT_CODE,
            reason: Some(STATUS_UNKNOWN.to_owned()),
            message: Some(LOST_MESSAGE.to_owned()),
            ..ContainerStateTerminated::default()
        }),
    }
}

fn container_status(
    input: &Input<'_>,
    kind: Kind,
    container: &Container,
    before: &[ContainerStatus],
) -> ContainerStatus {
    let old = before.iter().find(|s| s.name == container.name);
    let mut records = input.runtime.containers.iter().filter(|r| r.name == container.name);
    let Some(newest) = records.next() else { return missing(input, kind, container, old) };
    let previous = records.find(|r| r.state == State::Exited);
    let reason = input.reasons.get(&container.name);
    let mut state = record_state(input, newest);
    let mut last_state = previous
        .map(|r| record_state(input, r))
        .or_else(|| old.and_then(|o| last_of_old(o, newest, input.runtime_name)));
    if let Some((reason, message)) = reason
        && newest.state != State::Running
        && should_start(input.pod, container, kind, Some(newest))
        && !input.finished
    {
        if newest.state == State::Exited {
            last_state = Some(state);
        }
        state = waiting(reason, message);
    }
    let is_started = started(container, newest, input.health);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: if newest.image.is_empty() {
            container.image.clone().unwrap_or_default()
        } else {
            newest.image.clone()
        },
        image_id: newest.image_id.clone(),
        container_id: Some(format!("{}://{}", input.runtime_name, newest.id)),
        restart_count: newest.attempt as i32,
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        started: Some(is_started),
        ready: ready(input, kind, container, newest, is_started),
        ..ContainerStatus::default()
    };
    resources_of(kind, container, newest, &mut status);
    status.volume_mounts = mounts_of(container);
    status.user = newest.user.as_ref().map(|u| k8s_openapi::api::core::v1::ContainerUser {
        linux: Some(k8s_openapi::api::core::v1::LinuxContainerUser {
            uid: u.uid,
            gid: u.gid,
            supplemental_groups: Some(u.supplemental_groups.clone()),
        }),
    });
    status
}

/// The last state of a status whose earlier container is gone from the runtime.
fn last_of_old(
    old: &ContainerStatus,
    newest: &ContainerRecord,
    runtime_name: &str,
) -> Option<ContainerState> {
    let same = old.container_id.as_deref() == Some(format!("{runtime_name}://{}", newest.id).as_str());
    if same {
        return old.last_state.clone();
    }
    old.state.clone().filter(|s| s.terminated.is_some()).or_else(|| old.last_state.clone())
}

fn ready(
    input: &Input<'_>,
    kind: Kind,
    container: &Container,
    record: &ContainerRecord,
    is_started: bool,
) -> bool {
    match kind {
        // An ordinary init container is ready when it is done.
        Kind::Init if !is_sidecar(container) => record.exited_with_zero(),
        Kind::Ephemeral => false,
        _ => {
            is_started
                && (container.readiness_probe.is_none()
                    || input.health.get(&record.id).is_some_and(|h| h.readiness == Some(true)))
        }
    }
}

/// What the container asked for is what it has: resources are set when it is made, and updated in place by a resize.
fn resources_of(kind: Kind, container: &Container, record: &ContainerRecord, status: &mut ContainerStatus) {
    let counted = kind == Kind::Regular || (kind == Kind::Init && is_sidecar(container));
    if counted {
        status.allocated_resources =
            container.resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty());
    }
    if record.is_running() || record.state == State::Exited {
        status.resources.clone_from(&container.resources);
    }
}

fn mounts_of(container: &Container) -> Option<Vec<k8s_openapi::api::core::v1::VolumeMountStatus>> {
    let mounts: Vec<_> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|m| k8s_openapi::api::core::v1::VolumeMountStatus {
            mount_path: m.mount_path.clone(),
            name: m.name.clone(),
            read_only: m.read_only,
            recursive_read_only: m.read_only.filter(|r| *r).map(|_| {
                m.recursive_read_only
                    .clone()
                    .filter(|r| r != "IfPossible")
                    .unwrap_or_else(|| "Disabled".into())
            }),
            ..Default::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// The status of a container the runtime has no record of.
fn missing(
    input: &Input<'_>,
    kind: Kind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let default_reason = if init_containers(input.pod).is_empty() { CREATING } else { INITIALIZING };
    let reason = input.reasons.get(&container.name);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    };
    if let Some(old) = old {
        status.restart_count = old.restart_count;
        status.last_state = old.last_state.clone().or(status.last_state);
        status.container_id.clone_from(&old.container_id);
        status.image_id.clone_from(&old.image_id);
        let state = old.state.clone().unwrap_or_default();
        if state.terminated.is_some() {
            // Its record was cleaned up: what was said of its end stays said.
            let done = kind == Kind::Init && state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
            status.ready = old.ready && done;
            if reason.is_none() || input.finished {
                status.state = Some(state);
                return status;
            }
            status.last_state = Some(state);
        } else if state.running.is_some() {
            let lost = terminated(ContainerStateTerminated {
                exit_code: LOST_EXIT_CODE,
                reason: Some(STATUS_UNKNOWN.to_owned()),
                message: Some(LOST_DELETED_MESSAGE.to_owned()),
                container_id: old.container_id.clone(),
                ..ContainerStateTerminated::default()
            });
            if input.finished || input.pod.is_deleting() {
                status.state = Some(lost);
                return status;
            }
            status.last_state = Some(lost);
        }
    }
    if input.finished && old.is_none_or(|o| o.container_id.is_none()) && input.pod.is_deleting() {
        // Never ran, and never will.
        status.state = Some(waiting(default_reason, ""));
        return status;
    }
    let (reason, message) = reason.map_or((default_reason, ""), |(r, m)| (r.as_str(), m.as_str()));
    status.state = Some(waiting(reason, message));
    status
}

#[derive(Default)]
struct Count {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

impl Count {
    fn add(&mut self, status: &ContainerStatus) {
        let Some(state) = &status.state else {
            self.unknown += 1;
            return;
        };
        if state.running.is_some() {
            self.running += 1;
        } else if let Some(ended) = &state.terminated {
            self.stopped += 1;
            self.succeeded += usize::from(ended.exit_code == 0);
        } else if state.waiting.is_some() {
            match status.last_state.as_ref().and_then(|l| l.terminated.as_ref()) {
                Some(_) => self.stopped += 1,
                None => self.waiting += 1,
            }
        } else {
            self.unknown += 1;
        }
    }
}

/// The phase the containers' states add up to.
fn phase(input: &Input<'_>, status: &PodStatus) -> &'static str {
    let pod = input.pod;
    if completed(pod, input.runtime) {
        let failed_init = init_containers(pod).iter().any(|c| {
            !is_sidecar(c)
                && input.runtime.latest(&c.name).is_some_and(|r| r.state == State::Exited && r.exit_code != 0)
        }) && pod.spec().containers.iter().all(|c| input.runtime.latest(&c.name).is_none());
        let all_zero = pod
            .spec()
            .containers
            .iter()
            .all(|c| input.runtime.latest(&c.name).is_some_and(ContainerRecord::exited_with_zero));
        return if all_zero && !failed_init { "Succeeded" } else { "Failed" };
    }
    let regular = status.container_statuses.as_deref().unwrap_or_default();
    let mut count = Count::default();
    for status in regular {
        count.add(status);
    }
    let any_started = count.running + count.stopped > 0;
    let pending_init =
        init_containers(pod).iter().zip(status.init_container_statuses.iter().flatten()).any(|(c, s)| {
            if is_sidecar(c) { !any_started && s.started != Some(true) } else { !any_started && !s.ready }
        });
    if input.finished && !pod.is_static() {
        // Everything stopped for good, whatever the policy would have restarted.
        return if !regular.is_empty() && count.succeeded == regular.len() { "Succeeded" } else { "Failed" };
    }
    if pending_init || count.waiting > 0 {
        return "Pending";
    }
    if count.unknown == 0 && any_started {
        return "Running";
    }
    "Pending"
}

#[cfg(test)]
mod tests;
