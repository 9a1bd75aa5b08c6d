//! Statuses of pods: what the runtime holds, and what the API must show.

use super::*;
use crate::decide::Health;
use crate::runtime::Sandbox;
use serde_json::{Value, json};

fn pod(spec: Value, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2}, "spec": spec, "status": status
    }))
    .expect("a pod")
}

fn record(name: &str, attempt: u32, state: State, exit_code: i32) -> ContainerRecord {
    ContainerRecord {
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox: "s".into(),
        attempt,
        hash: None,
        state,
        created_at: i64::from(attempt) + 1,
        started_at: 1_000_000_000,
        finished_at: if state == State::Exited { 2_000_000_000 } else { 0 },
        exit_code,
        reason: if state == State::Exited { "Error".into() } else { String::new() },
        message: String::new(),
        image: "i".into(),
        image_ref: String::new(),
        image_id: "sha256:1".into(),
        log_path: String::new(),
        message_file: None,
        message_policy: String::new(),
        resources: None,
        user: None,
    }
}

fn runtime(containers: Vec<ContainerRecord>) -> PodRuntime {
    let sandbox = Sandbox {
        id: "s".into(),
        attempt: 0,
        ready: true,
        created_at: 1,
        ips: vec!["10.0.0.9".into()],
        host_network: false,
    };
    PodRuntime { sandboxes: vec![sandbox], containers }
}

struct Case {
    pod: Pod,
    runtime: PodRuntime,
    health: HealthView,
    reasons: Reasons,
    ended: Option<Ended>,
    finished: bool,
}

impl Case {
    fn new(spec: Value, containers: Vec<ContainerRecord>) -> Self {
        Self {
            pod: pod(spec, json!({})),
            runtime: runtime(containers),
            health: HealthView::new(),
            reasons: Reasons::new(),
            ended: None,
            finished: false,
        }
    }

    fn status(&self) -> PodStatus {
        generate(&Input {
            pod: &self.pod,
            runtime: &self.runtime,
            health: &self.health,
            reasons: &self.reasons,
            ended: self.ended.as_ref(),
            finished: self.finished,
            runtime_name: "containerd",
            host_ips: &["172.30.0.11".into()],
            now: Timestamp::from_second(100).expect("in range"),
        })
    }

    /// `Phase Type=Status:Reason ...` of the conditions that are not True.
    fn summary(&self) -> String {
        let status = self.status();
        let mut out = vec![status.phase.unwrap_or_default()];
        for c in status.conditions.into_iter().flatten().filter(|c| c.status != "True") {
            out.push(format!("{}:{}", c.type_, c.reason.unwrap_or_default()));
        }
        out.join(" ")
    }
}

#[test]
fn phases_and_conditions() {
    let one = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
    let with_init = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let unready = "Ready:ContainersNotReady ContainersReady:ContainersNotReady";
    let cases = [
        (one("Always"), vec![], format!("Pending {unready}")),
        (one("Always"), vec![record("a", 0, State::Running, 0)], "Running".into()),
        (one("Always"), vec![record("a", 0, State::Exited, 1)], format!("Running {unready}")),
        (
            one("Never"),
            vec![record("a", 0, State::Exited, 1)],
            "Failed Ready:PodFailed ContainersReady:PodFailed".into(),
        ),
        (
            one("Never"),
            vec![record("a", 0, State::Exited, 0)],
            "Succeeded Ready:PodCompleted ContainersReady:PodCompleted".into(),
        ),
        (one("OnFailure"), vec![record("a", 0, State::Exited, 3)], format!("Running {unready}")),
        (
            with_init.clone(),
            vec![record("i", 0, State::Running, 0)],
            format!("Pending Initialized:ContainersNotInitialized {unready}"),
        ),
        (with_init.clone(), vec![record("i", 0, State::Exited, 0)], format!("Pending {unready}")),
        (
            with_init,
            vec![record("a", 0, State::Running, 0), record("i", 0, State::Exited, 0)],
            "Running".into(),
        ),
    ];
    for (spec, containers, expected) in cases {
        assert_eq!(Case::new(spec.clone(), containers).summary(), expected, "{spec}");
    }
}

#[test]
fn readiness_follows_the_probe() {
    let mut case = Case::new(
        json!({"containers": [{"name": "a", "readinessProbe": {}}]}),
        vec![record("a", 0, State::Running, 0)],
    );
    assert_eq!(case.summary(), "Running Ready:ContainersNotReady ContainersReady:ContainersNotReady");
    case.health.insert("a0".into(), Health { readiness: Some(true), ..Health::default() });
    assert_eq!(case.summary(), "Running");
    case.pod.spec.as_mut().expect("a spec").readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "x/y".into() }]);
    assert_eq!(case.summary(), "Running Ready:ReadinessGatesNotReady");
    let message =
        case.status().conditions.into_iter().flatten().find(|c| c.type_ == "Ready").and_then(|c| c.message);
    assert_eq!(
        message.as_deref(),
        Some("corresponding condition of pod readiness gate \"x/y\" does not exist.")
    );
}

#[test]
fn crash_loops_show_why_they_wait() {
    let mut case = Case::new(
        json!({"containers": [{"name": "a"}]}),
        vec![record("a", 2, State::Exited, 1), record("a", 1, State::Exited, 7)],
    );
    case.reasons.insert("a".into(), ("CrashLoopBackOff".into(), "back-off 20s".into()));
    let status = case.status().container_statuses.expect("one").remove(0);
    let state = status.state.expect("a state");
    assert_eq!(state.waiting.and_then(|w| w.reason).as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(status.last_state.and_then(|l| l.terminated).map(|t| t.exit_code), Some(1));
    assert_eq!(status.restart_count, 2);
    assert_eq!(status.container_id.as_deref(), Some("containerd://a2"));
}

#[test]
fn image_errors_show_before_the_first_start() {
    let mut case = Case::new(json!({"containers": [{"name": "a"}]}), vec![]);
    case.reasons.insert("a".into(), ("ErrImagePull".into(), "no such host".into()));
    let state = case.status().container_statuses.expect("one").remove(0).state.expect("a state");
    assert_eq!(
        state.waiting.map(|w| (w.reason, w.message)),
        Some((Some("ErrImagePull".into()), Some("no such host".into())))
    );
}

#[test]
fn cleaned_up_records_keep_what_was_said() {
    let mut case = Case::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}), vec![]);
    case.pod.status = serde_json::from_value(json!({"phase": "Succeeded", "containerStatuses": [{
        "name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "containerID": "containerd://a0",
        "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}))
    .expect("a status");
    let status = case.status();
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    let state = status.container_statuses.expect("one").remove(0).state.expect("a state");
    assert_eq!(state.terminated.and_then(|t| t.reason).as_deref(), Some("Completed"));
}

#[test]
fn evicted_pods_fail_with_the_reason() {
    let mut case = Case::new(json!({"containers": [{"name": "a"}]}), vec![record("a", 0, State::Running, 0)]);
    case.ended = Some(Ended { reason: "Evicted".into(), message: "low".into(), grace: None });
    let status = case.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    let conditions = status.conditions.unwrap_or_default();
    let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget").expect("told");
    assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
}

#[test]
fn addresses_and_foreign_conditions_stay() {
    let mut case = Case::new(json!({"containers": [{"name": "a"}]}), vec![record("a", 0, State::Running, 0)]);
    case.pod.status = serde_json::from_value(json!({"conditions": [
        {"type": "mine", "status": "True"},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}))
    .expect("a status");
    let status = case.status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(status.host_ip.as_deref(), Some("172.30.0.11"));
    assert_eq!(status.observed_generation, Some(2));
    let conditions = status.conditions.expect("some");
    assert!(conditions.iter().any(|c| c.type_ == "mine"));
    let scheduled =
        conditions.iter().find(|c| c.type_ == "PodScheduled").and_then(|c| c.last_transition_time.clone());
    assert_eq!(scheduled.map(|t| t.0.as_second()), Some(1_577_836_800));
    // Nothing changed: the same input gives the same status, so nothing is sent.
    let again = Case {
        pod: Pod { status: Some(case.status()), ..case.pod.clone() },
        runtime: case.runtime.clone(),
        health: HealthView::new(),
        reasons: Reasons::new(),
        ended: None,
        finished: false,
    };
    assert_eq!(again.status(), case.status());
}

#[test]
fn containers_wait_for_the_initialization_of_their_pod() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let status = Case::new(spec, vec![record("i", 0, State::Exited, 1)]).status();
    let waits_for = |list: &Option<Vec<ContainerStatus>>, index: usize| {
        let state = list.as_ref().and_then(|l| l.get(index)).and_then(|s| s.state.clone()).expect("a state");
        state.waiting.and_then(|w| w.reason).expect("a reason")
    };
    assert_eq!(waits_for(&status.init_container_statuses, 1), "PodInitializing");
    assert_eq!(waits_for(&status.container_statuses, 0), "PodInitializing");
}
