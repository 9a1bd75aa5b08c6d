//! The conditions of a pod.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Input, PodExt, init_containers, is_sidecar, whole_seconds};

/// Conditions the kubelet owns, in the order it writes them.
const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
const COMPLETED: &str = "PodCompleted";
const FAILED: &str = "PodFailed";

struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { status: true, reason: "", message: String::new() }
    }
    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: false, reason, message: message.into() }
    }
}

/// Every condition: ours computed, others' kept as they are.
pub(super) fn all(input: &Input<'_>, status: &PodStatus, old: &[PodCondition]) -> Vec<PodCondition> {
    let containers_ready = containers_ready(input, status);
    let ready = ready(input, &containers_ready, old);
    let sandbox = input.runtime.sandbox();
    let has_sandbox = sandbox.is_some_and(|s| s.ready && (s.host_network || !s.ips.is_empty()));
    let verdicts = [
        Verdict { status: has_sandbox, reason: "", message: String::new() },
        initialized(input, status),
        ready,
        containers_ready,
        Verdict::yes(),
    ];
    let mut out: Vec<PodCondition> = Vec::with_capacity(old.len().max(OWNED.len()));
    for (kind, verdict) in OWNED.into_iter().zip(verdicts) {
        out.push(condition(input, kind, verdict, old.iter().find(|c| c.type_ == kind)));
    }
    // A pod is scheduled once: who said so and when is not ours to change.
    if let Some(scheduled) = old.iter().find(|c| c.type_ == "PodScheduled" && c.status == "True")
        && let Some(slot) = out.iter_mut().find(|c| c.type_ == "PodScheduled")
    {
        slot.clone_from(scheduled);
        slot.observed_generation = input.pod.metadata.generation.or(scheduled.observed_generation);
    }
    out.extend(old.iter().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned());
    if let Some(disruption) = disruption(input, old) {
        out.retain(|c| c.type_ != disruption.type_);
        out.push(disruption);
    }
    out
}

/// Says of an evicted pod that the node took it away, so that a job does not count it as failed.
fn disruption(input: &Input<'_>, old: &[PodCondition]) -> Option<PodCondition> {
    const KIND: &str = "DisruptionTarget";
    let why = input.ended.filter(|e| e.reason == "Evicted")?;
    let verdict = Verdict { status: true, reason: "TerminationByKubelet", message: why.message.clone() };
    Some(condition(input, KIND, verdict, old.iter().find(|c| c.type_ == KIND)))
}

fn condition(input: &Input<'_>, kind: &str, verdict: Verdict, old: Option<&PodCondition>) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let unchanged = old.filter(|o| o.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: text(verdict.reason),
        message: text(&verdict.message),
        last_transition_time: unchanged
            .and_then(|o| o.last_transition_time.clone())
            .or(Some(Time(whole_seconds(input.now)))),
        last_probe_time: None,
        observed_generation: input.pod.metadata.generation,
    }
}

/// `[a b]`, as Go prints a list.
fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn split<'a>(
    containers: impl Iterator<Item = &'a Container>,
    statuses: Option<&Vec<ContainerStatus>>,
    good: impl Fn(&Container, &ContainerStatus) -> bool,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for container in containers {
        match statuses.into_iter().flatten().find(|s| s.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !good(container, status) => bad.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    (unknown, bad)
}

fn messages(unknown: &[&str], bad: &[&str], what: &str) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", go_list(unknown)));
    }
    if !bad.is_empty() {
        parts.push(format!("containers with {what} status: {}", go_list(bad)));
    }
    parts.join(", ")
}

fn initialized(input: &Input<'_>, status: &PodStatus) -> Verdict {
    let good =
        |c: &Container, s: &ContainerStatus| if is_sidecar(c) { s.started == Some(true) } else { s.ready };
    let (unknown, bad) =
        split(init_containers(input.pod).iter(), status.init_container_statuses.as_ref(), good);
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { status: true, reason: COMPLETED, message: String::new() };
    }
    // Once a regular container ran, initialisation is over, whatever became of the records since.
    let past = status.container_statuses.iter().flatten().any(|s| {
        s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
            || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    });
    if past || (unknown.is_empty() && bad.is_empty()) {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotInitialized", messages(&unknown, &bad, "incomplete"))
}

fn containers_ready(input: &Input<'_>, status: &PodStatus) -> Verdict {
    match status.phase.as_deref() {
        Some("Succeeded") => return Verdict::no(COMPLETED, ""),
        Some("Failed") => return Verdict::no(FAILED, ""),
        _ => {}
    }
    let sidecars = init_containers(input.pod).iter().filter(|c| is_sidecar(c));
    let (mut unknown, mut bad) = split(sidecars, status.init_container_statuses.as_ref(), |_, s| s.ready);
    let (more_unknown, more_bad) =
        split(input.pod.spec().containers.iter(), status.container_statuses.as_ref(), |_, s| s.ready);
    unknown.extend(more_unknown);
    bad.extend(more_bad);
    if unknown.is_empty() && bad.is_empty() {
        return Verdict::yes();
    }
    Verdict::no("ContainersNotReady", messages(&unknown, &bad, "unready"))
}

fn ready(input: &Input<'_>, containers: &Verdict, old: &[PodCondition]) -> Verdict {
    if !containers.status {
        return Verdict::no(containers.reason, containers.message.clone());
    }
    let mut problems = Vec::new();
    for gate in input.pod.spec().readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match old.iter().find(|c| c.type_ == *name) {
            None => problems
                .push(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
            Some(c) if c.status != "True" => {
                problems.push(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                ));
            }
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ReadinessGatesNotReady", problems.join(", "))
    }
}

/// Takes the conditions the kubelet does not own from the API's status, as their writers left them.
pub(super) fn merge_foreign(status: &mut PodStatus, api: &PodStatus) {
    let owned = |c: &&PodCondition| OWNED.contains(&c.type_.as_str());
    let mut merged: Vec<PodCondition> = status.conditions.iter().flatten().filter(owned).cloned().collect();
    merged.extend(api.conditions.iter().flatten().filter(|c| !owned(c)).cloned());
    status.conditions = Some(merged);
}
