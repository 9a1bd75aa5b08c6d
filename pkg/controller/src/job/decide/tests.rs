//! Jobs as tables, and whole Jobs played to their end.

use serde_json::{Value, json};

use super::*;
use crate::testing::{PodBuilder, at, pod};

fn job(spec: Value) -> Job {
    let mut job = json!({"metadata": {"name": "j", "uid": "j", "namespace": "ns"}, "spec": {"template": {}}});
    for (key, value) in spec.as_object().expect("an object") {
        job["spec"][key] = value.clone();
    }
    serde_json::from_value(job).expect("a job")
}

fn tracked(builder: PodBuilder) -> Arc<Pod> {
    let mut pod = builder.build();
    pod.metadata.finalizers = Some(vec![FINALIZER.into()]);
    Arc::new(pod)
}

fn conditions(status: &JobStatus) -> Vec<String> {
    status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.status == "True")
        .map(|condition| format!("{}:{}", condition.type_, condition.reason.as_deref().unwrap_or("")))
        .collect()
}

#[test]
fn the_number_of_pods_follows_parallelism_and_completions() {
    let running = |count: usize| (0..count).map(|n| tracked(pod(&format!("p{n}")))).collect::<Vec<_>>();
    let cases = [
        (json!({}), 0, 1, 0),
        (json!({"parallelism": 3}), 1, 2, 0),
        (json!({"parallelism": 3, "completions": 2}), 0, 2, 0),
        (json!({"parallelism": 1, "completions": 5}), 3, 0, 2),
        (json!({"parallelism": 2, "suspend": true}), 2, 0, 2),
        (json!({"parallelism": 0}), 0, 0, 0),
    ];
    for (spec, pods, create, delete) in cases {
        let plan = decide(&job(spec.clone()), &running(pods), true, at(0));
        assert_eq!((plan.create.len(), plan.delete.len()), (create, delete), "{spec}");
    }
    let unsettled = decide(&job(json!({"parallelism": 3})), &[], false, at(0));
    assert!(unsettled.create.is_empty() && unsettled.status.is_some());
}

/// Plays a Job: pods finish as told by their number, until nothing changes.
fn play(
    mut job: Job,
    mut outcome: impl FnMut(usize, Option<i32>) -> Option<&'static str>,
) -> (JobStatus, usize) {
    let mut pods: Vec<Arc<Pod>> = Vec::new();
    let mut made = 0;
    for step in 0..200 {
        let now = at(step * 1000);
        let plan = decide(&job, &pods, true, now);
        if plan == Plan::default() && pods.iter().all(|pod| !has_finalizer(pod)) {
            return (job.status.unwrap_or_default(), made);
        }
        if let Some(status) = plan.status {
            job.status = Some(status);
        }
        for released in plan.release {
            for pod in &mut pods {
                if pod.metadata.uid == released.metadata.uid {
                    Arc::make_mut(pod).metadata.finalizers = None;
                }
            }
        }
        pods.retain(|pod| !plan.delete.iter().any(|gone| gone.metadata.uid == pod.metadata.uid));
        for new in plan.create {
            let mut builder = pod(&format!("p{made}"));
            if let Some(index) = new.index {
                builder = builder
                    .annotation(INDEX, &index.to_string())
                    .annotation(FAILURES, &new.failures.to_string());
            }
            if let Some(phase) = outcome(made, new.index) {
                builder = builder.phase(phase);
            }
            pods.push(tracked(builder));
            made += 1;
        }
    }
    panic!("the job does not end: {:?}", job.status);
}

#[test]
fn jobs_end_with_every_pod_counted_once() {
    let (status, made) = play(job(json!({"parallelism": 2, "completions": 5})), |_, _| Some("Succeeded"));
    assert_eq!((status.succeeded, status.failed, made), (Some(5), Some(0), 5));
    assert_eq!(conditions(&status), ["SuccessCriteriaMet:CompletionsReached", "Complete:CompletionsReached"]);
    assert!(status.completion_time.is_some());
    assert_eq!(
        (status.active, status.uncounted_terminated_pods),
        (None, Some(k8s_openapi::api::batch::v1::UncountedTerminatedPods::default()))
    );

    let (status, made) = play(job(json!({"backoffLimit": 2})), |_, _| Some("Failed"));
    assert_eq!((status.succeeded, status.failed, made), (Some(0), Some(3), 3));
    assert_eq!(conditions(&status), ["FailureTarget:BackoffLimitExceeded", "Failed:BackoffLimitExceeded"]);

    let mut failing = 2;
    let flaky = |_: usize, _: Option<i32>| {
        failing -= 1;
        Some(if failing >= 0 { "Failed" } else { "Succeeded" })
    };
    let (status, _) = play(job(json!({"completions": 1})), flaky);
    assert_eq!((status.succeeded, status.failed), (Some(1), Some(2)));
}

#[test]
fn indexed_jobs_complete_each_index_once() {
    let spec = json!({"completionMode": "Indexed", "parallelism": 3, "completions": 4});
    let mut seen = Vec::new();
    let (status, made) = play(job(spec), |_, index| {
        seen.push(index.expect("an index"));
        Some("Succeeded")
    });
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded, made), (Some("0-3"), Some(4), 4));
    assert_eq!(seen, [0, 1, 2, 3]);

    let spec = json!({"completionMode": "Indexed", "parallelism": 3, "completions": 3, "backoffLimitPerIndex": 1, "backoffLimit": 100});
    let (status, made) =
        play(job(spec), |_, index| Some(if index == Some(1) { "Failed" } else { "Succeeded" }));
    assert_eq!(
        (status.completed_indexes.as_deref(), status.failed_indexes.as_deref()),
        (Some("0,2"), Some("1"))
    );
    assert_eq!(made, 4, "the failing index is tried twice");
    assert_eq!(conditions(&status), ["FailureTarget:FailedIndexes", "Failed:FailedIndexes"]);
}

#[test]
fn failures_are_spaced_and_deadlines_kept() {
    let failed = tracked(pod("a").phase("Failed").deleted(100));
    let plan = decide(&job(json!({})), std::slice::from_ref(&failed), true, at(103));
    assert_eq!((plan.create.len(), plan.again), (0, Some(Duration::from_secs(7))));
    let mut late = job(json!({"activeDeadlineSeconds": 60}));
    late.status = Some(JobStatus { start_time: Some(crate::testing::time(0)), ..JobStatus::default() });
    let running = [tracked(pod("a"))];
    assert_eq!(decide(&late, &running, true, at(30)).again, Some(Duration::from_secs(30)));
    let plan = decide(&late, &running, true, at(60));
    assert_eq!(plan.delete.len(), 1);
    assert_eq!(conditions(&plan.status.expect("changed")), ["FailureTarget:DeadlineExceeded"]);
}

#[test]
fn suspending_and_resuming_is_noted() {
    let mut suspended = job(json!({"suspend": true}));
    let plan = decide(&suspended, &[], true, at(0));
    assert_eq!(plan.notes[0].reason, "Suspended");
    suspended.status = plan.status;
    suspended.spec.as_mut().expect("a spec").suspend = Some(false);
    let resumed = decide(&suspended, &[], true, at(9));
    assert_eq!((resumed.notes[0].reason.as_str(), resumed.create.len()), ("Resumed", 1));
    assert_eq!(resumed.status.expect("changed").start_time, Some(crate::testing::time(9)));
}
