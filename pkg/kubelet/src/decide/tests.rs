//! Stories of pods: a spec, what the runtime holds, and what must happen next, one line each.

use super::*;
use crate::runtime::Sandbox;
use serde_json::json;

const NOW: i64 = 1_700_000_000;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .expect("a pod")
}

/// Reads `sandbox` and `name#attempt=state` words: `run`, `made`, `lost`, `exit0`, `exit1`; a leading `old:` puts the
/// container into the previous sandbox.
fn runtime(words: &str) -> PodRuntime {
    let mut out = PodRuntime::default();
    for word in words.split_whitespace() {
        if let Some(state) = word.strip_prefix("sandbox") {
            out.sandboxes.push(Sandbox {
                id: "s".into(),
                attempt: 0,
                ready: state != "-dead",
                created_at: 1,
                ips: if state == "-noip" { vec![] } else { vec!["10.0.0.1".into()] },
                host_network: false,
            });
            continue;
        }
        let (old, word) = word.strip_prefix("old:").map_or((false, word), |w| (true, w));
        let (name, state) = word.split_once('=').expect("name=state");
        let (name, attempt) = name.split_once('#').unwrap_or((name, "0"));
        let (state, exit_code) = match state {
            "run" => (State::Running, 0),
            "made" => (State::Created, 0),
            "lost" => (State::Unknown, 0),
            code => (State::Exited, code.strip_prefix("exit").expect("exitN").parse().expect("a code")),
        };
        out.containers.push(ContainerRecord {
            id: format!("{name}{attempt}"),
            name: name.into(),
            sandbox: if old { "before" } else { "s" }.into(),
            attempt: attempt.parse().expect("a number"),
            hash: None,
            state,
            created_at: 1,
            started_at: 1,
            finished_at: if state == State::Exited { (NOW - 1) * 1_000_000_000 } else { 0 },
            exit_code,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            image_id: String::new(),
            log_path: String::new(),
            message_file: None,
            message_policy: String::new(),
            resources: None,
            user: None,
        });
    }
    out
}

fn words(decision: &Decision) -> String {
    let mut out: Vec<String> = decision
        .actions
        .iter()
        .map(|action| match action {
            Action::KillPod { grace } => format!("kill-pod:{grace}"),
            Action::CreateSandbox { attempt } => format!("sandbox#{attempt}"),
            Action::KillContainer { id, reason, .. } => format!("kill:{id}:{reason:?}"),
            Action::Start { name, attempt, .. } => format!("start:{name}#{attempt}"),
        })
        .collect();
    out.extend(decision.held.iter().map(|h| format!("hold:{}:{}", h.name, h.delay.as_secs())));
    if decision.finished {
        out.push("finished".into());
    }
    if let Some(ended) = &decision.deadline {
        out.push(ended.reason.clone());
    }
    out.join(" ")
}

fn run(pod: &Pod, held: &str, health: &HealthView, backoff: &Backoff) -> String {
    let runtime = runtime(held);
    let now = Timestamp::from_second(NOW).expect("in range");
    words(&decide(&View { pod, runtime: &runtime, health, backoff, ended: None, removed: false, now }))
}

fn quiet() -> Backoff {
    Backoff::new(Duration::from_secs(10), Duration::from_secs(300))
}

fn check(spec: serde_json::Value, cases: &[(&str, &str)]) {
    let pod = pod(spec);
    for (held, expected) in cases {
        assert_eq!(run(&pod, held, &HealthView::new(), &quiet()), *expected, "runtime holds {held:?}");
    }
}

#[test]
fn always() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        &[
            ("", "sandbox#0"),
            ("sandbox", "start:a#0 start:b#0"),
            ("sandbox a=run b=run", ""),
            ("sandbox a=exit1 b=run", "start:a#1"),
            ("sandbox a=exit0 b=run", "start:a#1"),
            ("sandbox a#3=made b=run", "start:a#3"),
            ("sandbox a#3=lost b=run", "kill:a3:Unknown start:a#4"),
            ("sandbox-dead a=run b=exit0", "kill-pod:30 sandbox#1"),
            ("sandbox-dead a=exit137 b=exit0", "sandbox#1"),
            ("sandbox-noip", "kill-pod:30 sandbox#1"),
            ("sandbox old:a=exit137 old:b=exit0", "start:a#1 start:b#1"),
        ],
    );
}

#[test]
fn never_and_on_failure_end() {
    check(
        json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}),
        &[
            ("sandbox a=exit1 b=run", ""),
            ("sandbox a=exit1 b=exit0", "kill-pod:30"),
            ("sandbox-dead a=exit1 b=exit0", "finished"),
            ("sandbox-dead a=exit1", "sandbox#1"),
        ],
    );
    check(
        json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]}),
        &[
            ("sandbox a=exit0 b=run", ""),
            ("sandbox a=exit1 b=run", "start:a#1"),
            ("sandbox-dead a=exit0 b=exit0", "finished"),
            ("sandbox-dead a=exit0 b=exit137", "sandbox#1"),
        ],
    );
}

#[test]
fn init_containers_go_in_order() {
    check(
        json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}),
        &[
            ("sandbox", "start:i#0"),
            ("sandbox i=run", ""),
            ("sandbox i=exit1", "start:i#1"),
            ("sandbox i=exit0", "start:j#0"),
            ("sandbox j=exit0", "start:a#0"),
            ("sandbox i=exit0 j=exit0", "start:a#0"),
            ("sandbox a=run", ""),
            ("sandbox a=exit1", "start:a#1"),
            ("sandbox old:i=exit0 old:j=exit0 old:a=exit1", "start:i#1"),
        ],
    );
    check(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}),
        &[("sandbox i=exit1", "kill-pod:30"), ("sandbox-dead i=exit1", "finished")],
    );
}

#[test]
fn sidecars_run_beside() {
    check(
        json!({"restartPolicy": "Never",
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "a"}]}),
        &[
            ("sandbox", "start:s#0"),
            ("sandbox s=run", "start:i#0"),
            ("sandbox s=exit1 i=run", "start:s#1"),
            ("sandbox s=run i=exit0", "start:a#0"),
            ("sandbox s=exit0 a=run", "start:s#1"),
            ("sandbox s=run a=exit0", "kill-pod:30"),
        ],
    );
    let pod = pod(json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}],
        "containers": [{"name": "a"}]}));
    let health = |startup| HealthView::from([("s0".to_owned(), Health { startup, ..Health::default() })]);
    for (startup, expected) in
        [(None, ""), (Some(true), "start:a#0"), (Some(false), "kill:s0:Startup start:s#1")]
    {
        assert_eq!(run(&pod, "sandbox s=run", &health(startup), &quiet()), expected);
    }
}

#[test]
fn probes_kill() {
    let unhealthy =
        HealthView::from([("a0".to_owned(), Health { liveness: Some(false), ..Health::default() })]);
    for (policy, expected) in [("Always", "kill:a0:Liveness start:a#1"), ("Never", "kill:a0:Liveness")] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        assert_eq!(run(&pod, "sandbox a=run", &unhealthy, &quiet()), expected);
    }
}

#[test]
fn failures_back_off() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut backoff = quiet();
    let earlier = Timestamp::from_second(NOW - 30).expect("in range");
    backoff.next(&backoff_key(&pod, &pod.spec().containers[0]), earlier);
    assert_eq!(run(&pod, "sandbox a=exit1", &HealthView::new(), &backoff), "hold:a:10");
    let runtime = runtime("sandbox a=exit1");
    let now = Timestamp::from_second(NOW).expect("in range");
    let view = View {
        pod: &pod,
        runtime: &runtime,
        health: &HealthView::new(),
        backoff: &backoff,
        ended: None,
        removed: false,
        now,
    };
    assert_eq!(decide(&view).wake, Some(Duration::from_secs(9)));
}

#[test]
fn endings() {
    let mut deleted = pod(json!({"containers": [{"name": "a"}], "terminationGracePeriodSeconds": 5}));
    deleted.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    assert_eq!(run(&deleted, "sandbox a=run", &HealthView::new(), &quiet()), "kill-pod:5");
    deleted.metadata.deletion_grace_period_seconds = Some(1);
    assert_eq!(run(&deleted, "sandbox a=exit0", &HealthView::new(), &quiet()), "kill-pod:1");
    assert_eq!(run(&deleted, "sandbox-dead a=exit0", &HealthView::new(), &quiet()), "finished");
    assert_eq!(run(&deleted, "", &HealthView::new(), &quiet()), "finished");

    let mut late = pod(json!({"containers": [{"name": "a"}], "activeDeadlineSeconds": 10}));
    late.status = serde_json::from_value(json!({"startTime": "2023-11-14T22:13:00Z"})).expect("a status");
    assert_eq!(run(&late, "sandbox a=run", &HealthView::new(), &quiet()), "DeadlineExceeded");
}

#[test]
fn ephemeral_containers_start_once() {
    check(
        json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "d"}]}),
        &[("sandbox a=run", "start:d#0"), ("sandbox a=run d=exit1", "")],
    );
}

#[test]
fn restart_counts_survive_clean_up() {
    let mut pod = pod(json!({"containers": [{"name": "a"}]}));
    pod.status = serde_json::from_value(json!({"containerStatuses": [
        {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 4, "containerID": "containerd://x"}]}))
    .expect("a status");
    assert_eq!(run(&pod, "sandbox", &HealthView::new(), &quiet()), "start:a#5");
}

mod laws {
    use super::*;
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["run", "made", "lost", "exit0", "exit1", ""])
    }

    proptest! {
        /// Whatever the runtime holds: no container is started twice in one step, nothing that runs healthily is
        /// killed or started while the sandbox is good, and a deleted pod starts nothing.
        #[test]
        fn steps_are_sane(i in state(), s in state(), a in state(), b in state(), deleting: bool, policy in 0..3usize) {
            let policy = ["Always", "OnFailure", "Never"][policy];
            let mut pod = pod(json!({"restartPolicy": policy,
                "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
                "containers": [{"name": "a"}, {"name": "b"}]}));
            if deleting {
                pod.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
            }
            let held: Vec<String> = [("i", i), ("s", s), ("a", a), ("b", b)]
                .iter().filter(|(_, state)| !state.is_empty()).map(|(n, state)| format!("{n}={state}")).collect();
            let text = run(&pod, &format!("sandbox {}", held.join(" ")), &HealthView::new(), &quiet());
            let starts: Vec<&str> = text.split(' ').filter_map(|w| w.strip_prefix("start:")).collect();
            let mut unique = starts.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), starts.len(), "{}", text);
            prop_assert!(!deleting || starts.is_empty(), "{}", text);
            for (name, state) in [("i", i), ("s", s), ("a", a), ("b", b)] {
                if state == "run" {
                    prop_assert!(!starts.iter().any(|w| w.starts_with(&format!("{name}#"))), "{}", text);
                    let killed = format!("kill:{name}");
                    prop_assert!(!text.contains(&killed), "{}", text);
                }
            }
        }
    }
}
