//! From measurements to a number of replicas. Pure.
//!
//! Source: "Horizontal Pod Autoscaling", section "Algorithm details", and upstream's `replica_calculator.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pods;

/// Pods are taken for starting up for this long: their CPU counts only once they are ready
/// (`--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that was never ready may say so this long after its start
/// (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What one pod used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// In thousandths.
    pub(super) value: i64,
    /// When it was taken.
    pub(super) at: Timestamp,
    /// Over how long.
    pub(super) window: SignedDuration,
}

/// Samples by pod name.
pub(super) type Samples = BTreeMap<String, Sample>;

/// A number of replicas and what was measured for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// Percent of what was asked for, with a target of that kind.
    pub(super) utilization: Option<i32>,
    /// Thousandths a pod.
    pub(super) average: i64,
}

#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// Whether a pod's CPU says nothing yet about its load.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let Some(started) = status.and_then(|s| s.start_time.as_ref()).map(|time| time.0) else { return true };
    let ready = status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    let Some(ready) = ready else { return true };
    let since = ready.last_transition_time.as_ref().map_or(started, |time| time.0);
    if started + CPU_INITIALIZATION > now {
        ready.status == "False" || sample.at < since + sample.window
    } else {
        ready.status == "False" && started + INITIAL_READINESS > since
    }
}

fn group(list: &[Arc<Pod>], samples: &Samples, is_cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in list {
        let name = pod.name_any();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if pods::is_terminating(pod) || phase == Some("Failed") {
            groups.ignored.insert(name);
        } else if phase == Some("Pending") {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if is_cpu && is_starting(pod, sample, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Percent of what the pods ask for.
    Utilization(i32),
    /// Thousandths a pod.
    Average(i64),
}

/// What pods ask for of a resource, in thousandths, by pod name.
fn asked(
    list: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in list {
        let mut sum = 0;
        let sidecars = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers).chain(sidecars);
        for held in containers.filter(|held| container.is_none_or(|name| held.name == name)) {
            let requests = held.resources.as_ref().and_then(|r| r.requests.as_ref());
            let quantity = requests.and_then(|requests| requests.get(resource));
            let parsed: Option<apimachinery::quantity::Quantity> = quantity.and_then(|q| q.0.parse().ok());
            let Some(parsed) = parsed else {
                return Err(format!(
                    "missing request for {resource} in container {} of Pod {}",
                    held.name,
                    pod.name_any()
                ));
            };
            sum += parsed.milli_value();
        }
        all.insert(pod.name_any(), sum);
    }
    Ok(all)
}

/// How far usage is from its target (1 is on it), and the utilization if that is the target.
fn ratio(
    samples: &Samples,
    asked: &BTreeMap<String, i64>,
    target: Target,
) -> Option<(f64, Option<i32>, i64)> {
    let total: i64 = samples.values().map(|sample| sample.value).sum();
    let count = i64::try_from(samples.len()).ok().filter(|count| *count > 0)?;
    let average = total / count;
    match target {
        Target::Average(wanted) => Some((average as f64 / wanted.max(1) as f64, None, average)),
        Target::Utilization(wanted) => {
            let requested: i64 = samples.keys().filter_map(|name| asked.get(name)).sum();
            if requested == 0 {
                return None;
            }
            let percent = i32::try_from(total * 100 / requested).unwrap_or(i32::MAX);
            Some((f64::from(percent) / f64::from(wanted.max(1)), Some(percent), average))
        }
    }
}

/// What is looked at.
pub(super) struct Question<'a> {
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) resource: &'a str,
    pub(super) container: Option<&'a str>,
    pub(super) target: Target,
    pub(super) current: i32,
    /// Deviations up to this fraction change nothing.
    pub(super) tolerance: f64,
}

/// How many replicas a resource calls for.
pub(super) fn replicas(
    question: &Question<'_>,
    mut samples: Samples,
    now: Timestamp,
) -> Result<Proposal, String> {
    if samples.is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    if question.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(question.pods, &samples, question.resource == "cpu", now);
    samples.retain(|name, _| {
        !groups.ignored.contains(name)
            && !groups.unready.contains(name)
            && question.pods.iter().any(|p| p.name_any() == *name)
    });
    let asked = match question.target {
        Target::Utilization(_) => asked(question.pods, question.resource, question.container)?,
        Target::Average(_) => BTreeMap::new(),
    };
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let none = || "no metrics returned matched known pods".to_owned();
    let (first, utilization, average) = ratio(&samples, &asked, question.target).ok_or_else(none)?;
    let answer = |replicas: i32| Proposal { replicas, utilization, average };
    let close = |ratio: f64| (1.0 - ratio).abs() <= question.tolerance;
    let ceil = |value: f64| value.ceil().min(f64::from(i32::MAX)) as i32;
    let starting = !groups.unready.is_empty() && first > 1.0;
    if !starting && groups.missing.is_empty() {
        return Ok(answer(if close(first) { question.current } else { ceil(first * groups.ready as f64) }));
    }
    // Pods nothing is known of are assumed to speak against the change: idle when it goes up, at their target when it
    // goes down.
    let assumed = |name: &String| match question.target {
        _ if first >= 1.0 => 0,
        Target::Utilization(wanted) => {
            asked.get(name).map_or(0, |asked| asked * i64::from(wanted.max(100)) / 100)
        }
        Target::Average(wanted) => wanted,
    };
    let blank = |value: i64| Sample { value, at: now, window: SignedDuration::ZERO };
    for name in &groups.missing {
        samples.insert(name.clone(), blank(assumed(name)));
    }
    if starting {
        for name in &groups.unready {
            samples.insert(name.clone(), blank(0));
        }
    }
    let (second, ..) = ratio(&samples, &asked, question.target).ok_or_else(none)?;
    if close(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
        return Ok(answer(question.current));
    }
    let wanted = ceil(second * samples.len() as f64);
    let backwards =
        (second < 1.0 && wanted > question.current) || (second > 1.0 && wanted < question.current);
    Ok(answer(if backwards { question.current } else { wanted }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod, time};
    use serde_json::json;

    fn running(name: &str, cpu: &str) -> Arc<Pod> {
        let mut pod = pod(name).ready(0).build();
        pod.spec = serde_json::from_value(json!({"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
        .expect("a spec");
        pod.status.get_or_insert_default().start_time = Some(time(-1000));
        Arc::new(pod)
    }

    fn samples(values: &[(&str, i64)]) -> Samples {
        let sample = |value| Sample { value, at: at(0), window: SignedDuration::from_secs(30) };
        values.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect()
    }

    fn run(pods: &[Arc<Pod>], values: &[(&str, i64)], target: Target, current: i32) -> Result<i32, String> {
        let question = Question { pods, resource: "cpu", container: None, target, current, tolerance: 0.1 };
        replicas(&question, samples(values), at(1)).map(|proposal| proposal.replicas)
    }

    #[test]
    fn usage_over_target_scales_in_proportion() {
        let two = [running("a", "1"), running("b", "1")];
        let half = Target::Utilization(50);
        for (a, b, expected) in [(500, 500, 2), (540, 540, 2), (1000, 1000, 4), (900, 300, 3), (100, 100, 1)]
        {
            assert_eq!(run(&two, &[("a", a), ("b", b)], half, 2), Ok(expected), "{a} {b}");
        }
        assert_eq!(run(&two, &[("a", 300), ("b", 300)], Target::Average(100), 2), Ok(6));
        assert!(run(&two, &[], half, 2).is_err());
    }

    #[test]
    fn pods_nothing_is_known_of_slow_changes_down() {
        let three = [running("a", "1"), running("b", "1"), running("c", "1")];
        // up: the missing pod counts as idle
        assert_eq!(run(&three, &[("a", 1000), ("b", 1000)], Target::Utilization(50), 3), Ok(4));
        // down: it counts as busy
        assert_eq!(run(&three, &[("a", 100), ("b", 100)], Target::Utilization(50), 3), Ok(3));
        let mut starting = Pod::clone(&running("c", "1"));
        starting.status.get_or_insert_default().phase = Some("Pending".into());
        let pods = [three[0].clone(), three[1].clone(), Arc::new(starting)];
        assert_eq!(run(&pods, &[("a", 1000), ("b", 1000)], Target::Utilization(50), 3), Ok(4));
    }

    #[test]
    fn containers_without_requests_have_no_utilization() {
        let mut bare = Pod::clone(&running("a", "1"));
        bare.spec.as_mut().expect("a spec").containers[0].resources = None;
        let error = run(&[Arc::new(bare)], &[("a", 1)], Target::Utilization(50), 1).expect_err("no request");
        assert_eq!(error, "missing request for cpu in container c of Pod a");
    }
}
