//! Rollouts as tables: sets in, writes out; and whole rollouts played to their end.

use k8s_openapi::api::apps::v1::{
    DeploymentSpec, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::testing::{at, meta, time};

fn template(image: &str) -> PodTemplateSpec {
    let labels = [("app".to_owned(), "x".to_owned())];
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels.into()), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![Container { image: Some(image.into()), ..Container::default() }],
            ..PodSpec::default()
        }),
    }
}

fn deployment(replicas: i32, image: &str, surge: i32, unavailable: i32) -> Deployment {
    Deployment {
        metadata: meta("d"),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector {
                match_labels: Some([("app".to_owned(), "x".to_owned())].into()),
                ..LabelSelector::default()
            },
            template: template(image),
            strategy: Some(DeploymentStrategy {
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(unavailable)),
                }),
                type_: Some("RollingUpdate".into()),
            }),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(1),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn recreating(mut deployment: Deployment) -> Deployment {
    let strategy = DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None };
    deployment.spec.as_mut().expect("has a spec").strategy = Some(strategy);
    deployment
}

/// A set of an image, made at a second, with (size, available).
fn set(name: &str, image: &str, second: i64, size: i32, available: i32, desired: i32) -> ReplicaSet {
    let mut set = ReplicaSet { metadata: meta(name), ..ReplicaSet::default() };
    set.metadata.creation_timestamp = Some(time(second));
    let spec = set.spec.get_or_insert_default();
    spec.template = Some(template(image));
    spec.replicas = Some(size);
    set.status = Some(ReplicaSetStatus {
        replicas: size,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        observed_generation: Some(1),
        ..ReplicaSetStatus::default()
    });
    sets::annotate_size(&mut set, desired, desired + 1);
    set
}

fn run(deployment: &Deployment, sets: &[ReplicaSet], second: i64) -> Outcome {
    let running = HashMap::new();
    let sets = sets.iter().cloned().map(Arc::new).collect();
    decide(Input { deployment, sets, running: &running, now: at(second) })
}

fn notes(outcome: &Outcome) -> Vec<&str> {
    outcome.updates.iter().filter_map(|update| update.note.as_deref()).collect()
}

fn reason(outcome: &Outcome, kind: &str) -> Option<String> {
    let status = outcome.deployment.as_ref()?.status.as_ref()?;
    condition(status, kind)?.reason.clone()
}

#[test]
fn the_first_set_gets_everything() {
    let outcome = run(&deployment(3, "a", 1, 1), &[], 0);
    let created = outcome.create.as_ref().expect("a new set");
    let hash = &created.labels()[sets::HASH_LABEL];
    assert_eq!(created.name_any(), format!("d-{hash}"));
    assert_eq!(replicas(created), 3);
    assert_eq!(created.annotations()[sets::REVISION], "1");
    assert_eq!(
        created.spec.as_ref().and_then(|s| s.selector.match_labels.as_ref()).expect("labels").len(),
        2
    );
    assert_eq!(reason(&outcome, PROGRESSING).as_deref(), Some("NewReplicaSetCreated"));
    assert_eq!(reason(&outcome, "Available").as_deref(), Some("MinimumReplicasUnavailable"));
    assert_eq!(outcome.deployment.expect("changed").annotations()[sets::REVISION], "1");
}

#[test]
fn a_rolling_step_follows_surge_and_availability() {
    // (surge, unavailable), old (size, available), new (size, available): expected notes
    type Step = ((i32, i32), (i32, i32), (i32, i32), &'static [&'static str]);
    let cases: [Step; 7] = [
        ((1, 0), (3, 3), (0, 0), &["Scaled up replica set new from 0 to 1"]),
        ((1, 0), (3, 3), (1, 0), &[]),
        ((1, 0), (3, 3), (1, 1), &["Scaled down replica set old from 3 to 2"]),
        ((1, 0), (2, 2), (1, 1), &["Scaled up replica set new from 1 to 2"]),
        ((0, 1), (3, 3), (0, 0), &["Scaled down replica set old from 3 to 2"]),
        ((0, 1), (3, 2), (0, 0), &["Scaled down replica set old from 3 to 2"]),
        ((3, 0), (3, 3), (3, 3), &["Scaled down replica set old from 3 to 0"]),
    ];
    for ((surge, unavailable), old, new, expected) in cases {
        let deployment = deployment(3, "b", surge, unavailable);
        let sets = [set("old", "a", 0, old.0, old.1, 3), set("new", "b", 9, new.0, new.1, 3)];
        assert_eq!(notes(&run(&deployment, &sets, 10)), expected, "{surge} {unavailable} {old:?} {new:?}");
    }
}

/// Plays a rollout with pods that become available at once, and checks the bounds at every step.
fn play(deployment: &Deployment, mut sets: Vec<ReplicaSet>) -> (Vec<ReplicaSet>, Deployment, usize) {
    let mut deployment = deployment.clone();
    let (wanted, recreate) = (sets::wanted(&deployment), is_recreate(&deployment));
    let most = wanted + sets::max_surge(&deployment);
    let least = wanted - sets::max_unavailable(&deployment);
    for step in 0..100 {
        let outcome = run(&deployment, &sets, 100 + step);
        if outcome.create.is_none() && outcome.updates.is_empty() && outcome.deployment.is_none() {
            return (sets, deployment, step as usize);
        }
        for update in outcome.updates {
            let held =
                sets.iter_mut().find(|held| held.metadata.name == update.set.metadata.name).expect("known");
            *held = update.set;
        }
        let total: i32 = sets.iter().map(replicas).sum();
        assert!(total <= most, "{total} of at most {most} at step {step}");
        let kept: i32 = sets.iter().map(|set| observed(set).available.min(replicas(set))).sum();
        assert!(recreate || kept >= least, "{kept} of at least {least} at step {step}");
        if let Some(mut created) = outcome.create {
            created.metadata.uid = created.metadata.name.clone();
            created.metadata.creation_timestamp = Some(time(200 + step));
            created.metadata.generation = Some(1);
            sets.push(created);
        }
        for set in &mut sets {
            let size = replicas(set);
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(size),
                available_replicas: Some(size),
                observed_generation: Some(1),
                ..ReplicaSetStatus::default()
            });
        }
        if let Some(changed) = outcome.deployment {
            deployment = changed;
        }
        let gone: Vec<_> = outcome.deletes.iter().map(|set| set.metadata.name.clone()).collect();
        sets.retain(|set| !gone.contains(&set.metadata.name));
    }
    panic!("the rollout does not end");
}

#[test]
fn rollouts_end_complete_and_within_bounds() {
    for (surge, unavailable) in [(1, 0), (0, 1), (2, 1), (5, 5)] {
        for replicas_wanted in [0, 1, 4, 10] {
            let mut first = set("one", "a", 0, replicas_wanted, replicas_wanted, replicas_wanted);
            sets::annotate_new(&Deployment::default(), &mut first, 1);
            let deployment = deployment(replicas_wanted, "b", surge, unavailable);
            let (sets, deployment, _) = play(&deployment, vec![first]);
            let sizes: Vec<i32> = sets.iter().map(replicas).collect();
            assert_eq!(sizes, [0, replicas_wanted]);
            let status = deployment.status.as_ref().expect("a status");
            let progressing = condition(status, PROGRESSING).expect("progressing");
            assert_eq!(progressing.reason.as_deref(), Some(status::NEW_SET_AVAILABLE));
            assert_eq!(deployment.annotations()[sets::REVISION], "2");
        }
    }
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let deployment = recreating(deployment(2, "b", 0, 0));
    let old = set("old", "a", 0, 2, 2, 2);
    let outcome = run(&deployment, std::slice::from_ref(&old), 1);
    assert_eq!(notes(&outcome), ["Scaled down replica set old from 2 to 0"]);
    assert!(outcome.create.is_none());
    let mut drained = set("old", "a", 0, 0, 0, 2);
    let running = HashMap::from([("old".to_owned(), 1)]);
    let input = |set: &ReplicaSet, running| Input {
        deployment: &deployment,
        sets: vec![Arc::new(set.clone())],
        running,
        now: at(2),
    };
    assert!(decide(input(&drained, &running)).create.is_none(), "a pod still runs");
    let none = HashMap::new();
    assert_eq!(decide(input(&drained, &none)).create.map(|set| replicas(&set)), Some(2));
    drained.status.as_mut().expect("a status").replicas = 1;
    assert!(decide(input(&drained, &none)).create.is_none());
    play(&deployment, vec![old]);
}

#[test]
fn resizing_in_a_rollout_is_shared_out() {
    // 10 wanted at 8+3 of 11; resized to 20: 23 pods, each set in proportion
    let sets = |old: i32, new: i32| {
        let mut sets = vec![set("old", "a", 0, old, old, 10), set("new", "b", 9, new, new, 10)];
        for set in &mut sets {
            sets::annotate_size(set, 10, 11);
        }
        sets
    };
    let outcome = run(&deployment(20, "b", 3, 0), &sets(8, 3), 10);
    let mut grown = notes(&outcome);
    grown.sort_unstable();
    assert_eq!(grown, ["Scaled up replica set new from 3 to 6", "Scaled up replica set old from 8 to 17"]);
    let outcome = run(&deployment(0, "b", 3, 0), &sets(8, 3), 10);
    assert_eq!(outcome.updates.iter().map(|update| replicas(&update.set)).sum::<i32>(), 0);
}

#[test]
fn a_paused_deployment_resizes_but_does_not_roll() {
    let mut paused = deployment(5, "b", 1, 0);
    paused.spec.as_mut().expect("a spec").paused = Some(true);
    let outcome = run(&paused, &[set("old", "a", 0, 3, 3, 3)], 10);
    assert_eq!(notes(&outcome), ["Scaled up replica set old from 3 to 5"]);
    assert!(outcome.create.is_none());
    assert_eq!(reason(&outcome, PROGRESSING).as_deref(), Some("DeploymentPaused"));
}

#[test]
fn a_rollout_that_stands_still_times_out_once() {
    let mut deployment = deployment(3, "b", 1, 0);
    let sets = [set("old", "a", 0, 3, 3, 3), set("new", "b", 9, 1, 0, 3)];
    let outcome = run(&deployment, &sets, 10);
    assert_eq!(outcome.again, Some(Duration::from_secs(601)));
    deployment = outcome.deployment.expect("counted");
    let later = run(&deployment, &sets, 10 + 601);
    assert_eq!(reason(&later, PROGRESSING).as_deref(), Some(status::TIMED_OUT));
    deployment = later.deployment.expect("timed out");
    let still = run(&deployment, &sets, 10 + 700);
    assert_eq!((still.deployment, still.again), (None, None));
}

#[test]
fn old_empty_sets_beyond_the_limit_go_lowest_revision_first() {
    let mut sets = vec![
        set("r3", "c", 3, 0, 0, 2),
        set("r1", "a", 1, 0, 0, 2),
        set("r2", "b", 2, 0, 0, 2),
        set("new", "d", 4, 2, 2, 2),
    ];
    for (set, revision) in sets.iter_mut().zip([3, 1, 2, 4]) {
        sets::annotate_new(&Deployment::default(), set, revision);
    }
    let outcome = run(&deployment(2, "d", 1, 0), &sets, 10);
    assert_eq!(outcome.deletes.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["r1", "r2"]);
}

#[test]
fn going_back_makes_the_old_set_new_again() {
    let mut sets = vec![set("a", "a", 0, 0, 0, 2), set("b", "b", 1, 2, 2, 2)];
    for (set, revision) in sets.iter_mut().zip([1, 2]) {
        sets::annotate_new(&Deployment::default(), set, revision);
    }
    let outcome = run(&deployment(2, "a", 1, 0), &sets, 10);
    let update = &outcome.updates[0];
    assert_eq!(
        (update.set.name_any().as_str(), update.set.annotations()[sets::REVISION].as_str()),
        ("a", "3")
    );
    assert!(outcome.create.is_none());
}
