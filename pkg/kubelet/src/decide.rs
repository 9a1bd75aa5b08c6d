//! What to do next for one pod: a pure function of its spec, of what the runtime holds, and of what probes say.
//!
//! One step at a time: the worker carries the actions out, looks at the runtime again and asks again, until there is
//! nothing to do. So a step that failed half-way, or a kubelet that restarted in the middle, needs no special case.
//!
//! Source of the rules: `computePodActions` in `pkg/kubelet/kuberuntime/kuberuntime_manager.go` and KEP-753.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::backoff::Backoff;
use crate::podutil::{Kind, PodExt, ephemeral_containers, init_containers, is_sidecar};
use crate::restart::{restarts_after, should_start};
use crate::runtime::{ContainerRecord, PodRuntime, State, time};

/// What the probes of one container say; `None` where nothing was found out yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// The startup probe succeeded (`true`) or used up its failures (`false`).
    pub startup: Option<bool>,
    /// `false` once the liveness probe used up its failures.
    pub liveness: Option<bool>,
    /// The readiness probe's word.
    pub readiness: Option<bool>,
}

/// Health by container id.
pub type HealthView = HashMap<String, Health>;

/// Why the kubelet ended a pod by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// `status.reason`: `Evicted`, `DeadlineExceeded`, `Terminated`...
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// Grace period to use in seconds, where it is not the pod's own.
    pub grace: Option<i64>,
}

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The newest spec.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub runtime: &'a PodRuntime,
    /// What probes say.
    pub health: &'a HealthView,
    /// Back-off of containers, by [`backoff_key`].
    pub backoff: &'a Backoff,
    /// Set when the kubelet ended the pod.
    pub ended: Option<&'a Ended>,
    /// The pod's sources are gone (force deletion, unknown to the API server).
    pub removed: bool,
    /// Now.
    pub now: Timestamp,
}

/// Why a container is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    /// Its definition changed.
    Changed,
    /// Liveness probe.
    Liveness,
    /// Startup probe.
    Startup,
    /// The runtime lost track of it.
    Unknown,
    /// The pod goes.
    PodEnds,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Stop every container and every sandbox.
    KillPod {
        /// Seconds between SIGTERM and SIGKILL.
        grace: i64,
    },
    /// Make and start a sandbox.
    CreateSandbox {
        /// Which one of the pod it is.
        attempt: u32,
    },
    /// Stop one container.
    KillContainer {
        /// The runtime's id.
        id: String,
        /// Name in the spec.
        name: String,
        /// Which list it is of.
        kind: Kind,
        /// Why.
        reason: KillReason,
        /// Text of the event.
        message: String,
    },
    /// Pull the image, make and start a container.
    Start {
        /// Which list it is of.
        kind: Kind,
        /// Name in the spec.
        name: String,
        /// How often it was started before.
        attempt: u32,
    },
}

/// A container that waits for its back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which list it is of.
    pub kind: Kind,
    /// Name in the spec.
    pub name: String,
    /// The delay it is in.
    pub delay: Duration,
}

/// What to do, and when to ask again though nothing happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// In this order.
    pub actions: Vec<Action>,
    /// Containers in back-off.
    pub held: Vec<Held>,
    /// Ask again after this.
    pub wake: Option<Duration>,
    /// The pod ran longer than it may: end it with this.
    pub deadline: Option<Ended>,
    /// The pod is over and nothing of it runs any more.
    pub finished: bool,
}

impl Decision {
    fn wake_in(&mut self, delay: Duration) {
        self.wake = Some(self.wake.map_or(delay, |w| w.min(delay)));
    }
}

/// Key of a container's back-off: another image is another container.
pub fn backoff_key(pod: &Pod, container: &Container) -> String {
    format!("{}_{}_{:x}", pod.uid(), container.name, crate::names::container_hash(container))
}

/// Reason of a pod that ran into `activeDeadlineSeconds`.
pub const DEADLINE_REASON: &str = "DeadlineExceeded";
const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// Whether the pod is over: deleted, ended by the kubelet, or all its containers ended for good.
pub fn is_over(view: &View<'_>) -> bool {
    view.removed
        || view.ended.is_some()
        || view.pod.is_deleting()
        || matches!(view.pod.phase(), "Succeeded" | "Failed")
        || completed(view.pod, view.runtime)
}

/// Decides the next step.
pub fn decide(view: &View<'_>) -> Decision {
    let mut decision = Decision::default();
    if is_over(view) {
        if view.runtime.is_running() {
            let grace = view.ended.and_then(|e| e.grace).unwrap_or_else(|| view.pod.grace_seconds());
            decision.actions.push(Action::KillPod { grace });
        } else {
            decision.finished = true;
        }
        return decision;
    }
    if let Some(left) = deadline_left(view) {
        if left.is_zero() {
            decision.deadline =
                Some(Ended { reason: DEADLINE_REASON.into(), message: DEADLINE_MESSAGE.into(), grace: None });
            return decision;
        }
        decision.wake_in(left);
    }
    if let Some(attempt) = sandbox_change(view.pod, view.runtime) {
        if view.runtime.is_running() {
            decision.actions.push(Action::KillPod { grace: view.pod.grace_seconds() });
        }
        if will_run_more(view) {
            decision.actions.push(Action::CreateSandbox { attempt });
        }
        return decision;
    }
    let mut step = Step { view, decision };
    step.ephemeral();
    if step.init() {
        step.regular();
    }
    step.decision
}

/// Time left of `activeDeadlineSeconds`; `None` without a deadline.
fn deadline_left(view: &View<'_>) -> Option<Duration> {
    let seconds = view.pod.spec().active_deadline_seconds?;
    let start = view.pod.status.as_ref()?.start_time.as_ref()?.0;
    let spent = Duration::try_from(view.now.duration_since(start)).unwrap_or_default();
    Some(Duration::from_secs(seconds.max(0) as u64).saturating_sub(spent))
}

/// Whether the pod needs another sandbox, and which attempt it would be.
fn sandbox_change(pod: &Pod, runtime: &PodRuntime) -> Option<u32> {
    let Some(newest) = runtime.sandbox() else { return Some(0) };
    let next = newest.attempt + 1;
    let ready = runtime.sandboxes.iter().filter(|s| s.ready).count();
    let usable = ready == 1
        && newest.ready
        && newest.host_network == pod.host_network()
        && (newest.host_network || !newest.ips.is_empty());
    if usable { None } else { Some(next) }
}

/// Whether a new sandbox would have anything to run: false for what ran to its end.
fn will_run_more(view: &View<'_>) -> bool {
    let (pod, runtime) = (view.pod, view.runtime);
    if runtime.containers.is_empty() {
        return true;
    }
    pod.spec().containers.iter().any(|c| should_start(pod, c, Kind::Regular, runtime.latest(&c.name)))
        || (!any_regular_started(pod, runtime)
            && init_containers(pod).iter().any(|c| should_start(pod, c, Kind::Init, runtime.latest(&c.name))))
}

fn any_regular_started(pod: &Pod, runtime: &PodRuntime) -> bool {
    pod.spec().containers.iter().any(|c| runtime.latest(&c.name).is_some())
}

/// Whether every container has ended for good, or an init container has failed for good.
pub fn completed(pod: &Pod, runtime: &PodRuntime) -> bool {
    let over = |container: &Container, kind: Kind| {
        runtime.latest(&container.name).is_some_and(|record| {
            record.state == State::Exited && !restarts_after(pod, container, kind, record.exit_code)
        })
    };
    let init_failed = init_containers(pod).iter().any(|c| {
        !is_sidecar(c) && over(c, Kind::Init) && runtime.latest(&c.name).is_some_and(|r| r.exit_code != 0)
    });
    let containers = &pod.spec().containers;
    (init_failed && !any_regular_started(pod, runtime))
        || (!containers.is_empty() && containers.iter().all(|c| over(c, Kind::Regular)))
}

/// The restart count a new start of this container gets.
pub fn next_attempt(pod: &Pod, runtime: &PodRuntime, kind: Kind, name: &str) -> u32 {
    if let Some(record) = runtime.latest(name) {
        // A container that was made and never started did not run: its number is free.
        return if record.state == State::Created { record.attempt } else { record.attempt + 1 };
    }
    known_restarts(pod, kind, name)
}

/// The restart count out of the API's status, for containers whose records were cleaned up.
fn known_restarts(pod: &Pod, kind: Kind, name: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let list = match kind {
        Kind::Init => &status.init_container_statuses,
        Kind::Regular => &status.container_statuses,
        Kind::Ephemeral => &status.ephemeral_container_statuses,
    };
    let known = list.iter().flatten().find(|s: &&ContainerStatus| s.name == name);
    known.map_or(0, |s| {
        let ran = s.container_id.as_deref().is_some_and(|id| !id.is_empty());
        u32::try_from(s.restart_count).unwrap_or(0) + u32::from(ran)
    })
}

/// Whether a running container counts as started: its startup probe succeeded, or it has none.
pub fn started(container: &Container, record: &ContainerRecord, health: &HealthView) -> bool {
    record.is_running()
        && (container.startup_probe.is_none()
            || health.get(&record.id).is_some_and(|h| h.startup == Some(true)))
}

struct Step<'a> {
    view: &'a View<'a>,
    decision: Decision,
}

impl Step<'_> {
    /// Ephemeral containers start once, whatever else happens.
    fn ephemeral(&mut self) {
        for container in ephemeral_containers(self.view.pod) {
            if self.view.runtime.latest(&container.name).is_none() {
                self.start(Kind::Ephemeral, &container);
            }
        }
    }

    /// Takes init containers as far as they go; `true` when regular containers may run.
    fn init(&mut self) -> bool {
        let (pod, runtime) = (self.view.pod, self.view.runtime);
        let all = init_containers(pod);
        let Some(sandbox) = runtime.sandbox() else { return false };
        let in_sandbox = |name: &str| runtime.latest(name).filter(|r| r.sandbox == sandbox.id);
        let initialized = pod.spec().containers.iter().any(|c| in_sandbox(&c.name).is_some());
        // What has a record was reached; what stands before it was done, even if its record was cleaned up.
        let reached = all.iter().rposition(|c| in_sandbox(&c.name).is_some());
        for (index, container) in all.iter().enumerate() {
            let record = in_sandbox(&container.name);
            if is_sidecar(container) {
                let running = self.sidecar(container, record);
                if !initialized && !running {
                    return false;
                }
                continue;
            }
            if initialized {
                continue;
            }
            match record {
                None if reached.is_some_and(|r| index < r) => {}
                Some(record) if record.exited_with_zero() => {}
                Some(record) if record.is_running() => {
                    self.check_running(Kind::Init, container, record);
                    return false;
                }
                _ => {
                    if should_start(pod, container, Kind::Init, record) {
                        self.clear_unknown(Kind::Init, container, record);
                        self.start(Kind::Init, container);
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Keeps a sidecar running; `true` when it has started.
    fn sidecar(&mut self, container: &Container, record: Option<&ContainerRecord>) -> bool {
        match record {
            Some(record) if record.is_running() => {
                self.check_running(Kind::Init, container, record);
                started(container, record, self.view.health)
            }
            record => {
                self.clear_unknown(Kind::Init, container, record);
                self.start(Kind::Init, container);
                // A sidecar that ran before does not hold up the others while it comes back.
                record.is_some_and(|r| r.state == State::Exited && container.startup_probe.is_none())
            }
        }
    }

    fn regular(&mut self) {
        let (pod, runtime) = (self.view.pod, self.view.runtime);
        let sandbox = runtime.sandbox().map(|s| s.id.as_str());
        for container in &pod.spec().containers {
            let record = runtime.latest(&container.name);
            match record {
                Some(record) if record.is_running() && Some(record.sandbox.as_str()) == sandbox => {
                    self.check_running(Kind::Regular, container, record);
                }
                record => {
                    if should_start(pod, container, Kind::Regular, record) {
                        self.clear_unknown(Kind::Regular, container, record);
                        self.start(Kind::Regular, container);
                    }
                }
            }
        }
    }

    /// Kills a running container that must not go on, and starts it again if it restarts.
    fn check_running(&mut self, kind: Kind, container: &Container, record: &ContainerRecord) {
        let health = self.view.health.get(&record.id).copied().unwrap_or_default();
        let name = &container.name;
        let what = if kind == Kind::Init { "Init container" } else { "Container" };
        let changed = kind != Kind::Ephemeral
            && record.hash.is_some_and(|h| h != crate::names::container_hash(container));
        let (reason, text) = if changed {
            (KillReason::Changed, format!("{what} {name} definition changed"))
        } else if health.liveness == Some(false) {
            (KillReason::Liveness, format!("{what} {name} failed liveness probe"))
        } else if health.startup == Some(false) {
            (KillReason::Startup, format!("{what} {name} failed startup probe"))
        } else {
            return;
        };
        // A kill by the kubelet is a failure, whatever code the container will exit with.
        let again = changed || restarts_after(self.view.pod, container, kind, 137);
        let message = if again { format!("{text}, will be restarted") } else { text };
        self.decision.actions.push(Action::KillContainer {
            id: record.id.clone(),
            name: name.clone(),
            kind,
            reason,
            message,
        });
        if again {
            self.start(kind, container);
        }
    }

    /// A container the runtime lost track of might still run: stop it before another one starts.
    fn clear_unknown(&mut self, kind: Kind, container: &Container, record: Option<&ContainerRecord>) {
        let Some(record) = record.filter(|r| r.state == State::Unknown) else { return };
        self.decision.actions.push(Action::KillContainer {
            id: record.id.clone(),
            name: container.name.clone(),
            kind,
            reason: KillReason::Unknown,
            message: format!("Container is in {:?} state, try killing it before restart", "unknown"),
        });
    }

    /// Starts a container, or holds it back while its last failure is too fresh.
    fn start(&mut self, kind: Kind, container: &Container) {
        let View { pod, runtime, backoff, now, .. } = *self.view;
        let key = backoff_key(pod, container);
        let ended = runtime.containers.iter().find(|r| r.name == container.name && r.state == State::Exited);
        let remaining = ended
            .and_then(|r| time(r.finished_at))
            .and_then(|finished| backoff.remaining(&key, finished, now));
        if let Some(left) = remaining {
            self.decision.held.push(Held { kind, name: container.name.clone(), delay: backoff.delay(&key) });
            self.decision.wake_in(left);
            return;
        }
        let attempt = next_attempt(pod, runtime, kind, &container.name);
        self.decision.actions.push(Action::Start { kind, name: container.name.clone(), attempt });
    }
}

#[cfg(test)]
mod tests;
